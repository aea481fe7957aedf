"""State dicts of torch: in memory, or in files of ``torch.save``, read without running code from them."""

import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # the name of what torch raises; nothing is unpickled here

import torch
from torch import Tensor

from gossamer.codec.source import Entry
from gossamer.codings import DTYPES, Dense
from gossamer.errors import StateError
from gossamer.model.arrays import to_dense

_FOREIGN = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
"""What torch raises of a file that it does not know, found by damaging files at random."""


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a ``.pt`` or ``.pth`` file; its tensors stay on disk until they are used.

    Raises:
        StateError: it cannot be read, not without running code, or holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the form of a file that is refused below
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _FOREIGN as error:
        hint = "save the state dict alone, torch.save(model.state_dict(), ...), or use safetensors"
        raise StateError(f"{path} is damaged, or cannot be read without running code from it", hint=hint) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StateError(f"{path} does not hold a state dict", hint="torch.save(model.state_dict(), ...) makes one")
    return state


class Tensors:
    """Tensors by name; names that share all their memory are one tensor. See `Source`.

    Raises:
        StateError: a value is no tensor, or of a dtype that cannot be stored.
    """

    metadata: Mapping[str, str] = {}

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self.entries: list[Entry] = []
        self.aliases: dict[str, str] = {}
        held: dict[object, str] = {}
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise StateError(f"tensor {name}: wanted a tensor, got {type(tensor).__name__}")
            if tensor.layout != torch.strided or tensor.is_meta:
                raise StateError(f"tensor {name} is sparse or has no values, which cannot be stored")
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype not in DTYPES:
                raise StateError(f"tensor {name} has dtype {dtype}, which cannot be stored")
            memory = (tensor.data_ptr(), dtype, tensor.shape, tensor.stride()) if tensor.numel() else name
            if memory in held:
                self.aliases[name] = held[memory]
            else:
                held[memory] = name
                self.entries.append(Entry(name, dtype, tuple(tensor.shape)))

    def read(self, entry: Entry) -> Dense:
        """Return one tensor."""
        return to_dense(self._state[entry.name])
