"""Which sites can train behind a quantizer, and which of them are the first and the last."""

import torch

from gossamer.errors import ModelError
from gossamer.model import Subject, live_weight, trains


def why_untreated(subject: Subject, name: str) -> str | None:
    """Return why the values of a site cannot be put on levels that train, or None if they can.

    Raises:
        ModelError: a weight is not finite.
    """
    held = subject.constraints.get(name)
    weight = live_weight(subject, name)
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{name}: a weight is not finite, so it cannot be put on a grid")
    if not weight.numel():
        return "it has no values"
    if held is not None and held.shared:
        return "its values are shared"
    if not trains(subject, name):
        return "its values do not train"
    return None if bool(weight.any()) else "all its values are zero"


def ends_of(subject: Subject) -> frozenset[str]:
    """Return the first and the last weights of ``subject`` in the order of execution, by name.

    An operator that reads several weights, such as a recurrent layer, counts as one. Where the graph was not seen, the
    order is that of the modules.
    """
    order = _order(subject)
    return frozenset({*order[0], *order[-1]}) if order else frozenset()


def first_of(subject: Subject) -> frozenset[str]:
    """Return the first weights of ``subject`` by name, see :func:`ends_of`."""
    return frozenset(order[0]) if (order := _order(subject)) else frozenset()


def _order(subject: Subject) -> list[tuple[str, ...]]:
    read = [tuple(name for name in node.sites if name in subject.sites) for node in subject.graph.nodes]
    return [names for names in read if names] or [(name,) for name in subject.sites]
