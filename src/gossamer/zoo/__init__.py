"""Reference networks, each in one short file, some with trained weights."""

import difflib
from importlib.resources import files
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from gossamer.errors import ModelError
from gossamer.zoo.table import NETWORKS, Network

__all__ = ["NETWORKS", "Network", "build", "config", "example", "names", "network", "trained"]


def names() -> tuple[str, ...]:
    """Return the names of all reference networks."""
    return tuple(entry.name for entry in NETWORKS)


def network(name: str) -> Network:
    """Return the entry called ``name``.

    Raises:
        ModelError: there is no such network; the hint names a close one.
    """
    for entry in NETWORKS:
        if entry.name == name:
            return entry
    close = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(names())}"
    raise ModelError(f"zoo: no network called {name!r}", hint=hint)


def trained(name: str) -> bool:
    """Return whether weights of ``name`` come with the package.

    Raises:
        ModelError: there is no such network.
    """
    return _file("weights", f"{network(name).name}.safetensors") is not None


def build(name: str, *, pretrained: bool | None = False) -> nn.Module:
    """Return a new network.

    Args:
        name: one of :func:`names`.
        pretrained: with the reference weights; None takes them if there are any. Otherwise the network is initialised
            from torch's random state.

    Raises:
        ModelError: there is no such network, or no weights of it.
    """
    model = network(name).make()
    if trained(name) if pretrained is None else pretrained:
        path = _file("weights", f"{name}.safetensors")
        if path is None:
            having = ", ".join(entry.name for entry in NETWORKS if trained(entry.name))
            raise ModelError(f"zoo: {name} has no trained weights", hint=f"there are weights of {having}")
        model.load_state_dict(load(path.read_bytes()))
    return model


def example(name: str) -> tuple[Tensor, ...]:
    """Return example inputs of ``name``, one sample; the same at every call.

    Raises:
        ModelError: there is no such network.
    """
    return network(name).example()


def config(name: str) -> bytes | None:
    """Return the TOML text of the settings the reference weights of ``name`` are trained with, if there are any.

    Raises:
        ModelError: there is no such network.
    """
    path = _file("configs", f"{network(name).name}.toml")
    return None if path is None else path.read_bytes()


def _file(folder: str, name: str) -> Path | None:
    path = Path(str(files("gossamer.zoo"))) / folder / name
    return path if path.is_file() else None
