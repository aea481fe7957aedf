"""Apply: the only place where a model changes."""

from gossamer.model.plan import Plan
from gossamer.model.subject import Subject


def apply(subject: Subject, plan: Plan) -> Subject:
    """Return a copy of ``subject`` with ``plan`` carried out and merged with what holds already."""
    raise NotImplementedError


def retarget(subject: Subject, plan: Plan) -> None:
    """Change constraint values of ``subject`` in place; for a schedule that owns the subject during training."""
    raise NotImplementedError
