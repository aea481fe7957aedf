"""Trials: whether sizes that code was written with follow a cut.

A traced graph shows that a reshape was given the number 64, not whether the code wrote it down or computed it. For
every group that such numbers count, a few units are taken away on a copy: the copy must run, and its outputs must be
what zeroing everything that reads these units gives. Where it does not, integers of the module that called the operator
which have that value are set to what is left; a group for which nothing works cannot be cut, and its source line is
named.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.model.coupling.cutting import constants, positions, reading_columns
from gossamer.model.coupling.groups import Constant, Group
from gossamer.model.resize import picked, stored_tensors, tell_sizes
from gossamer.model.run import evaluation

_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)
_CLOSE = 1e-4
"""Of the largest output; float32 sums in another order differ by less, a wrong position by far more."""


def tried(
    groups: Sequence[Group], model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Group, ...]:
    """Return the groups with their constants known, and those that do not survive a trial stuck.

    Args:
        groups: what :func:`build_groups` found.
        model: a throwaway plain copy of the model.
        args: example inputs.
        kwargs: keyword example inputs.
    """
    bench = _Bench(model, args, kwargs)
    with evaluation(model), torch.no_grad(), torch.random.fork_rng():
        return tuple(_tried(group, bench) if group.suspects and not group.stuck else group for group in groups)


@dataclass
class _Bench:
    """The copy that trials are made on."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def outputs(self) -> list[Tensor]:
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(self.model(*self.args, **self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _tried(group: Group, bench: _Bench) -> Group:
    keep = _without_some(group)
    if keep is None:
        return group
    with unread(group, ~keep, bench.model):
        wanted = bench.outputs() if group.readers and not _is_mixed(group, ~keep) else None
        said = ""
        for option in _options(group, bench.model):
            one = replace(group, constants=option)
            problem = _problem(one, keep, bench, wanted)
            if not problem:
                return one
            said = said or problem
    places = ", ".join(dict.fromkeys(suspect.source for suspect in group.suspects))
    return replace(group, stuck=f"a size at {places} does not follow a cut: {said}")


def _is_mixed(group: Group, gone: np.ndarray) -> bool:
    return group.mixed is not None and bool(group.mixed[gone].any())


def _without_some(group: Group) -> np.ndarray | None:
    """Return flags of the units that stay in a trial: all but one, or one of each lane; None if none would."""
    keep = np.ones(group.size, bool)
    lost = [group.size - 1] if group.lanes is None else group.lanes[:, -1]
    keep[lost] = False
    return keep if keep.any() else None


def _options(group: Group, model: nn.Module) -> Iterator[tuple[Constant, ...]]:
    """Yield the sets of integers that might count positions of the group: none, all, then each by itself."""
    found: dict[tuple[str, str], Constant] = {}
    for suspect in group.suspects:
        module = model.get_submodule(suspect.module)
        if type(module).__module__.startswith("torch.nn."):
            continue  # its sizes are told by `tell_sizes`
        for attribute, value in vars(module).items():
            if type(value) is int and value == suspect.value:
                found.setdefault((suspect.module, attribute), Constant(suspect.module, attribute, suspect.rows))
    yield ()
    if found:
        yield tuple(found.values())
    if len(found) > 1:
        yield from ((one,) for one in found.values())


def _problem(group: Group, keep: np.ndarray, bench: _Bench, wanted: list[Tensor] | None) -> str:
    """Return what goes wrong when only the units of ``keep`` stay, or an empty string."""
    kept = {group.name: keep}
    try:
        with _cut([group], kept, bench.model):
            got = bench.outputs()
    except _FAILURES as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    if wanted is None:
        return ""
    for one, other in zip(got, wanted, strict=False):
        if one.shape != other.shape:
            return f"an output of shape {tuple(other.shape)} becomes {tuple(one.shape)}"
        if one.is_floating_point():
            difference = float((one - other).abs().max()) if one.numel() else 0.0
            if difference > _CLOSE * max(float(other.abs().max()) if other.numel() else 0.0, 1.0):
                return f"outputs change by {difference:.2g} where nothing reads what is cut"
    return "" if len(got) == len(wanted) else "the number of outputs changes"


@contextmanager
def unread(group: Group, gone: np.ndarray, model: nn.Module) -> Iterator[None]:
    """Let nothing read the units of ``gone`` while the block runs."""
    tensors = stored_tensors(model)
    saved = {part.tensor: tensors[part.tensor].data for part in group.readers}
    for name, value in saved.items():
        tensors[name].data = value.clone()
    for part in group.readers:
        columns = reading_columns(part, gone)
        value = tensors[part.tensor].data
        if part.parts == 1:
            value.index_fill_(part.dim, torch.from_numpy(columns), 0)
            continue
        width = value.shape[part.dim]
        for column in columns.tolist():
            value.chunk(part.parts)[column // width].select(part.dim, column % width).zero_()
    try:
        yield
    finally:
        for name, value in saved.items():
            tensors[name].data = value


@contextmanager
def _cut(groups: Sequence[Group], kept: Mapping[str, np.ndarray], model: nn.Module) -> Iterator[None]:
    """Cut ``model`` while the block runs."""
    tensors = stored_tensors(model)
    index = positions(groups, kept)
    changed = constants(groups, kept)
    saved = {name: tensors[name].data for name in index}
    sizes = [(module, type(module), _sizes(module)) for module in model.modules()]
    try:
        for name, places in index.items():
            tensors[name].data = picked(saved[name], places)
        tell_sizes(model, index, changed)
        yield
    finally:
        for name, value in saved.items():
            tensors[name].data = value
        for module, kind, old in sizes:
            module.__class__ = kind
            vars(module).update(old)


def _sizes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if type(value) in {int, bool, tuple}}
