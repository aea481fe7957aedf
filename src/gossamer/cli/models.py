"""The model named on the command line, with its weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gossamer import zoo
from gossamer.cli.resolve import made
from gossamer.codec.torch_state import read_state
from gossamer.errors import ModelError
from gossamer.model import load

_OTHER = "are the weights those of this model, made with the same arguments?"


def model_of(spec: str, weights: Path | None = None, *, seed: int = 0) -> nn.Module:
    """Return the model that ``spec`` names, in evaluation mode.

    Args:
        spec: ``zoo:NAME``, ``path/to/file.py:factory`` or ``package.module:factory``.
        weights: ``.safetensors``, ``.goss``, or a state dict saved by torch as ``.pt`` or ``.pth``.
        seed: torch's, set before code of the caller's own is called: the same command makes the same weights.

    Raises:
        ModelError: there is no such model, its code fails, or the weights do not fit it.
        ArtifactError: the ``.goss`` file of weights is not sound.
    """
    if spec.startswith("zoo:"):
        model = zoo.build(spec.removeprefix("zoo:"), pretrained=None if weights is None else False)
    else:
        torch.manual_seed(seed)
        model = made(spec, wanted=nn.Module, kind=ModelError)
    if weights is not None:
        model = _filled(model, weights)
    return model.eval()


def _filled(model: nn.Module, path: Path) -> nn.Module:
    if path.suffix == ".goss":
        return load(path).into(model)
    state = _state(path)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch lists every tensor of another shape
        told = " ".join(str(error).split())
        raise ModelError(f"{path} does not fit the model: {told}", hint=_OTHER) from error
    missing = [name for name in missing if not _tied(model, name, state)]
    problems = [f"{what} {_few(names)}" for what, names in (("lacks", missing), ("also has", unexpected)) if names]
    if problems:
        raise ModelError(f"{path} does not fit the model: it {' and '.join(problems)}", hint=_why(missing, unexpected))
    return model


def _few(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _why(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return what may be done about names that differ: a prefix taken off where that is all, else a general hint."""
    for name in unexpected[:1]:
        for wanted in missing:
            prefix = name.removesuffix(wanted)
            if prefix != name and {prefix + one for one in missing} == set(unexpected):
                return f"its names begin with {prefix!r}, as a wrapper leaves them: save the state dict without it"
    return _OTHER


def _state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: no such file of weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a sound safetensors file: {error}") from error
    if path.suffix not in {".pt", ".pth"}:
        raise ModelError(f"{path}: wanted a file ending in .safetensors, .goss, .pt or .pth")
    return read_state(path)


def _tied(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether the tensor ``name`` is filled through another name of the same memory, as safetensors stores ties."""
    own = model.state_dict(keep_vars=True)
    return any(other in state and value is own[name] for other, value in own.items() if other != name)
