"""Penalties: terms of the training loss (sparse regularization, distillation), with an optional proximal step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from gossamer.model.subject import Subject


@dataclass(frozen=True, slots=True)
class StepContext:
    """One training step as a penalty sees it.

    Attributes:
        subject: the subject in training; its ``model`` has just made ``outputs``.
        args: positional inputs of the batch.
        kwargs: keyword inputs of the batch.
        outputs: what the model returned.
        targets: what the task wants.
        loss: the task's loss of this batch, differentiable; a penalty that blends with it returns a term with a
            negative share of it.
        samples: how many samples the train split has; the loss is a mean over samples, so what belongs to the sum over
            all of them is divided by it.
        step: optimizer steps that this training has done.
    """

    subject: "Subject"
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Any
    targets: Any
    loss: Tensor
    samples: int = 1
    step: int = 0


@runtime_checkable
class Penalty(Protocol):
    """A term of the training loss."""

    def term(self, context: StepContext) -> Tensor | None:
        """Return a scalar to add to the loss, or None for nothing to add."""
        ...

    def proximal(self, subject: "Subject", lr: float) -> None:
        """Change the subject's parameters in place after the optimizer's step of size ``lr``; may do nothing."""
        ...


@runtime_checkable
class Ramped(Penalty, Protocol):
    """A penalty that a schedule can ramp."""

    def at(self, strength: float) -> Self:
        """Return the penalty at another strength, sharing what it knows with this one."""
        ...
