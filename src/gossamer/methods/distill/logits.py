"""Distillation of logits: the compressed model learns what the model before compression answers.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531): with teacher and
student probabilities p, q at temperature T, the loss is alpha T² KL(p || q) + (1 - alpha) times the task's loss. The
factor T² keeps the size of the soft targets' gradient when T changes. Teaching a compressed student with its own
uncompressed self follows Polino, Pascanu and Alistarh, ICLR 2018 (arXiv 1802.05668).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gossamer.errors import ModelError
from gossamer.model import Evidence, Method, Plan, StepContext, Subject, plain_copy
from gossamer.task import IGNORE


class Logits(Method, frozen=True, tag="distill.logits"):
    """Train against the answers of the model as it is when this step is planned.

    The teacher is a plain copy of that model, kept beside the student and never saved with it; so this step comes
    before the steps that compress.
    """

    strength: ClassVar[str | None] = "alpha"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"alpha": 0.0})

    alpha: Annotated[
        float, msgspec.Meta(ge=0.0, le=1.0, description="share of the teacher in the loss; the task has the rest")
    ] = 0.7
    temperature: Annotated[
        float, msgspec.Meta(gt=0.0, description="divides the logits: above 1, wrong answers count more")
    ] = 2.0
    axis: Annotated[int, msgspec.Meta(description="axis of the outputs that holds the classes")] = -1

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the penalty with a copy of ``subject`` as its teacher; no weight changes before training.

        Raises:
            PatternError: a pattern matches no site.
        """
        del evidence
        self.chosen(subject)
        if self.alpha == 0.0:
            return Plan(self.tag)
        teacher = plain_copy(subject)
        return Plan(self.tag, penalties=(LogitPenalty(teacher, self.alpha, self.temperature, self.axis),))


class LogitPenalty:
    """Turns a task's loss into alpha T² KL(teacher || student) + (1 - alpha) loss.

    The teacher runs in evaluation mode without gradients. Copies of the penalty share it, since it never changes.

    Args:
        teacher: takes the student's inputs; it is owned by the penalty from here on.
        alpha: share of the teacher, 0 to 1.
        temperature: divides the logits, above 0.
        axis: axis of the outputs that holds the classes.
    """

    def __init__(self, teacher: nn.Module, alpha: float, temperature: float, axis: int = -1) -> None:
        self.teacher = teacher.eval().requires_grad_(requires_grad=False)
        self.alpha = alpha
        self.temperature = temperature
        self.axis = axis

    def __deepcopy__(self, memo: dict[int, Any]) -> "LogitPenalty":
        return self

    def term(self, context: StepContext) -> Tensor | None:
        """Return what has to be added to the task's loss of the batch.

        Raises:
            ModelError: the outputs are no logits of two classes or more, or teacher and student differ in shape.
        """
        student = logits_of(context.outputs)
        if next((p.device for p in self.teacher.parameters()), student.device) != student.device:
            self.teacher.to(student.device)
        with torch.no_grad():
            teacher = logits_of(self.teacher(*context.args, **context.kwargs))
        return self.alpha * (
            distillation(student, teacher, self.temperature, axis=self.axis, targets=context.targets) - context.loss
        )

    def proximal(self, subject: Subject, lr: float) -> None:
        """Do nothing: distillation is all gradient."""


def distillation(
    student: Tensor, teacher: Tensor, temperature: float, *, axis: int = -1, targets: Any = None
) -> Tensor:
    """Return T² KL(p_teacher || p_student) in nats, averaged over all positions.

    Args:
        student: logits, classes along ``axis``, any other dimensions: (N, C), (N, T, C), (M, C).
        teacher: logits of the same shape.
        temperature: divides both.
        axis: where the classes are.
        targets: where this is an integer tensor with one entry per position, padding
            (:data:`~gossamer.task.IGNORE`) is left out.

    Raises:
        ModelError: the shapes differ or there are fewer than two classes.
    """
    if student.shape != teacher.shape:
        raise ModelError(
            f"distill.logits: wanted teacher and student outputs alike, "
            f"got {tuple(teacher.shape)} and {tuple(student.shape)}"
        )
    if student.ndim == 0 or not -student.ndim <= axis < student.ndim or student.shape[axis] < 2:
        raise ModelError(
            f"distill.logits: wanted at least two classes along axis {axis}, got outputs {tuple(student.shape)}",
            hint="distillation of logits is for classifiers",
        )
    q = F.log_softmax(student.float() / temperature, axis)
    p = F.log_softmax(teacher.float() / temperature, axis)
    per_position = F.kl_div(q, p, reduction="none", log_target=True).sum(axis)
    if isinstance(targets, Tensor) and targets.shape == per_position.shape and not targets.is_floating_point():
        counted = (targets != IGNORE).to(per_position.dtype)
        return temperature**2 * (per_position * counted).sum() / counted.sum().clamp_min(1)
    return temperature**2 * per_position.mean()


def logits_of(outputs: Any) -> Tensor:
    """Return the logits in a model's outputs.

    A tensor is itself; a packed sequence gives its data; a tuple or list its first entry; a dict its ``logits`` or,
    without these, its only entry.

    Raises:
        ModelError: the outputs are none of these.
    """
    match outputs:
        case Tensor():
            return outputs
        case PackedSequence():
            return outputs.data
        case {"logits": logits}:
            return logits_of(logits)
        case Mapping() if len(outputs) == 1:
            return logits_of(next(iter(outputs.values())))
        case [first, *_]:
            return logits_of(first)
        case _:
            raise ModelError(
                f"distill.logits: wanted logits, got {type(outputs).__name__}",
                hint="return a tensor, a tuple that starts with it, or a dict with 'logits'",
            )
