"""Cutting with this library: what is asked for is the share of multiply-accumulates, so nothing is searched."""

from contextlib import ExitStack
from typing import Any

import numpy as np
from shared import ASKED, CLOSE, distance, outputs
from torch import nn

from gossamer.methods.prune import Units
from gossamer.model import Cut, Plan, Subject, apply
from gossamer.model.coupling.trial import unread

SETTINGS = "prune.units with criterion l2, scope global, no repair"


def setting_for(model: nn.Module, args: tuple[Any, ...], dense: int) -> float:  # noqa: ARG001  # as for the other tool
    """Return the amount to ask for."""
    return 1 - ASKED


def cut(model: nn.Module, args: tuple[Any, ...], amount: float) -> nn.Module:
    """Find the groups, choose units and cut them."""
    subject = Subject.of(model, *args)
    return apply(subject, Units(amount=amount, criterion="l2", repair=False).plan(subject)).model


def proof(model: nn.Module, args: tuple[Any, ...], share: float) -> dict[str, Any]:
    """Cut units that nothing reads, a share of every group, all at once: the outputs must not change."""
    subject = Subject.of(model, *args)
    random = np.random.default_rng(0)
    free = [group for group in subject.groups if not group.stuck]
    keeps = {group.name: _some(group.size, group.lanes, share, random) for group in free}
    keeps = {name: keep for name, keep in keeps.items() if not keep.all()}
    mixed = {one.name for one in free if one.name in keeps and (one.mixed[~keeps[one.name]].any() or not one.readers)}
    exact = {name: keep for name, keep in keeps.items() if name not in mixed}
    with ExitStack() as stack:
        for group in free:
            if group.name in exact:
                stack.enter_context(unread(group, ~exact[group.name], subject.model))
        wanted = outputs(subject.model, args)
        found = distance(outputs(_without(subject, exact).model, args), wanted) if exact else 0.0
    outputs(_without(subject, keeps).model, args)  # those that a normalisation mixes must run
    right = len(exact) if found <= CLOSE else 0
    return {"groups": len(keeps), "mixed": len(mixed), "right": right, "largest_change": found}


def _some(size: int, lanes: Any, share: float, random: np.random.Generator) -> Any:
    """Return flags of the units that stay when ``share`` of them, equally many of each lane, goes; one stays."""
    keep, rows = np.ones(size, bool), np.arange(size)[None] if lanes is None else lanes
    gone = min(max(1, round(share * rows.shape[1])), rows.shape[1] - 1)
    for row in rows:
        keep[random.choice(row, gone, replace=False)] = False
    return keep


def _without(subject: Subject, keeps: dict[str, Any]) -> Subject:
    cut = Cut(tuple((name, tuple(np.flatnonzero(keep).tolist())) for name, keep in keeps.items()))
    return apply(subject, Plan("proof", edits=(cut,)))
