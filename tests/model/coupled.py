"""Proof that groups are right: units that nothing reads can be cut and the outputs do not change."""

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.model import Cut, Group, Plan, Subject, apply
from gossamer.model.coupling.trial import unread


def free_groups(subject: Subject) -> list[Group]:
    return [group for group in subject.groups if not group.stuck and smallest(group) > 1]


def smallest(group: Group) -> int:
    """Return the number of units of a group, or of each of its lanes."""
    return group.size if group.lanes is None else group.lanes.shape[1]


def some_units(group: Group, share: float, random: np.random.Generator) -> np.ndarray:
    """Return flags of the units that stay when about ``share`` of them, at least one of each lane, goes."""
    keep = np.ones(group.size, bool)
    lanes = np.arange(group.size)[None] if group.lanes is None else group.lanes
    lost = min(max(1, round(share * lanes.shape[1])), lanes.shape[1] - 1)
    for lane in lanes:
        keep[random.choice(lane, lost, replace=False)] = False
    return keep


def plan_of(keeps: dict[str, np.ndarray]) -> Plan:
    cut = Cut(tuple((name, tuple(np.flatnonzero(keep).tolist())) for name, keep in keeps.items()))
    return Plan("test.cut", edits=(cut,))


def outputs(model: nn.Module, subject: Subject) -> list[Tensor]:
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*subject.args, **subject.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def check_unread_units_can_go(subject: Subject, share: float = 0.5, seed: int = 0) -> int:
    """Cut unread units of all groups at once; return how many groups were cut.

    Groups that a normalisation mixes are only checked to run and to give outputs of the same shape.
    """
    random = np.random.default_rng(seed)
    model = subject.model.eval()
    keeps = {group.name: some_units(group, share, random) for group in free_groups(subject)}
    if not keeps:
        return 0
    mixed = {g.name for g in subject.groups if g.name in keeps and (g.mixed[~keeps[g.name]].any() or not g.readers)}
    shapes = [one.shape for one in outputs(model, subject)]
    whole = apply(subject, plan_of(keeps))
    assert [one.shape for one in outputs(whole.model, subject)] == shapes
    exact = {name: keep for name, keep in keeps.items() if name not in mixed}
    if exact:
        with ExitStack() as stack:
            for group in subject.groups:
                if group.name in exact:
                    stack.enter_context(unread(group, ~exact[group.name], model))
            wanted = outputs(model, subject)
            got = outputs(apply(subject, plan_of(exact)).model, subject)
        for one, other in zip(got, wanted, strict=True):
            limit = 1e-5 if one.dtype == torch.float32 else 2e-2
            difference = float((one.float() - other.float()).abs().max())
            assert difference <= limit * max(1.0, float(other.float().abs().max()))
    return len(keeps)
