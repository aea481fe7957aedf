"""Freeze: from live constraints to plain weights and the coding hint of every tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import codings
from gossamer.artifact import Artifact
from gossamer.errors import ModelError
from gossamer.model.arrays import hint_of, to_dense, to_tensor
from gossamer.model.constraint import Grid
from gossamer.model.edits import edit_to_dict
from gossamer.model.live import live_parts
from gossamer.model.subject import Subject, bare_copy


@dataclass(frozen=True, eq=False)
class Frozen:
    """A plain model and what is needed to store it.

    Attributes:
        bare: plain module without constraints or hooks; constrained weights have no values yet.
        tensors: coding of each stored ``state_dict`` entry that says how its values are made; ``codings.encode``
            turns it into the smallest one.
        aliases: other ``state_dict`` names of stored entries.
        edits: edits as plain data, in order.
        activations: grid of what each site multiplies, and of outputs of modules (`activations`).
        grids: weight grid of each site that has one, by site name.
    """

    bare: nn.Module
    tensors: Mapping[str, codings.Coding]
    aliases: Mapping[str, str]
    edits: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Grid]
    grids: Mapping[str, Grid]

    @cached_property
    def model(self) -> nn.Module:
        """``bare`` with the decoded ``tensors`` for weights, which are decoded when this is first asked for."""
        for names, tensor in entries(self.bare):
            tensor.data = to_tensor(self.tensors[names[0]]).to(tensor.device)
        return self.bare


def freeze(subject: Subject) -> Frozen:
    """Return the plain model of ``subject``, its constraints baked in, with the coding of every tensor.

    Raises:
        ModelError: the model's state holds something that is not a tensor.
        CodingError: a tensor has a dtype that cannot be stored.
    """
    model = bare_copy(subject)
    held = subject.constraints
    originals = {owner.name: parameter for owner, _, _, parameter in live_parts(subject.model)}
    tensors: dict[str, codings.Coding] = {}
    common: dict[str, codings.Dense] = {}
    aliases: dict[str, str] = {}
    for names, tensor in entries(model):
        site = next((name for name in names if name in held), None)
        tensors[names[0]] = to_dense(tensor) if site is None else hint_of(originals[site], held[site], common)
        aliases |= dict.fromkeys(names[1:], names[0])
    grids = {name: constraints.grid for name, constraints in held.items() if constraints.grid is not None}
    edits = tuple(edit_to_dict(edit) for edit in subject.edits)
    return Frozen(model, tensors, aliases, edits, subject.activations, grids)


def entries(model: nn.Module) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield each distinct tensor of the model's state with all its names, in the order of ``state_dict``.

    Raises:
        ModelError: the state holds something that is not a tensor (``get_extra_state``).
    """
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(f"{name}: wanted a tensor in the model's state, got {type(value).__name__}")
        names.setdefault(id(value), []).append(name)
        tensors[id(value)] = value
    for key, tensor in tensors.items():
        yield tuple(names[key]), tensor


def to_artifact(frozen: Frozen, *, graph: bytes | None = None, meta: Mapping[str, Any] | None = None) -> Artifact:
    """Return the artifact of ``frozen``, every tensor in the smallest exact coding that is found.

    Args:
        frozen: what to store.
        graph: a self-contained graph for a target, or None for weights only.
        meta: free JSON-able data; the names of parameters that do not train are added to it as ``fixed``, if there
            are any, for torch chooses its kernels by that too.
    """
    fixed = [names[0] for names, tensor in entries(frozen.bare) if _is_fixed(tensor)]
    return Artifact(
        tensors=codings.encode_all(frozen.tensors, structured=frozen.activations),
        aliases=frozen.aliases,
        edits=frozen.edits,
        activations={name: _grid_to_dict(grid) for name, grid in frozen.activations.items()},
        graph=graph,
        meta=dict(meta or {}) | ({"fixed": fixed} if fixed else {}),
    )


def _is_fixed(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point() and not tensor.requires_grad


def _grid_to_dict(grid: Grid) -> dict[str, Any]:
    return {"scale": float(grid.scale), "zero": int(grid.zero), "bits": grid.bits, "signed": grid.signed}
