"""Accuracy that another model may be expected to have, from what a model believes about each sample.

Two models that differ little are told apart by the few samples they disagree on. Counted by labels, their difference
has the noise of as many coin flips; what the first model believes of both answers is the mean of those flips. So the
share of right answers is expected to fall by the mean of p(first answer) - p(second answer), p being the first model's
probabilities. They are worth as much as they are calibrated: they are sharpened or flattened by the one temperature
under which the labels are likeliest (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML
2017, arXiv 1706.04599).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.task.batch import IGNORE
from gossamer.task.check import class_scores
from gossamer.task.evaluation import evaluate
from gossamer.task.metrics import ACCURACY, Metric
from gossamer.task.task import Task

MOST = 2**26
"""Probabilities that are held; beyond it accuracy has little noise anyway."""
_TEMPERATURES = torch.logspace(-1, 1, 81, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What a model believes about the validation split of a task.

    Attributes:
        task: whose main metric is accuracy.
        chances: of each class at each position that counts, (positions, classes), float32 on the CPU.
    """

    task: Task
    chances: Tensor

    @classmethod
    def of(cls, model: Any, task: Task) -> Self | None:
        """Return what ``model`` believes, or None where accuracy is not what counts or there is too much of it."""
        if task.metrics[task.main] is not ACCURACY:
            return None
        seen: list[tuple[Tensor, Tensor]] = []
        room = MOST

        def hold(scores: Tensor, classes: Tensor) -> None:
            nonlocal room
            room -= scores.numel()
            if room >= 0:
                seen.append((scores.float().cpu(), classes.cpu()))

        _look(model, task, hold)
        if room < 0 or not seen:
            return None
        logs = torch.cat([part for part, _ in seen]).log_softmax(1)
        classes = torch.cat([part for _, part in seen])
        if not len(classes) or not bool(torch.isfinite(logs).all()):
            return None
        losses = [F.cross_entropy(logs / t, classes) for t in _TEMPERATURES.tolist()]
        return cls(task, (logs / _TEMPERATURES[int(torch.stack(losses).argmin())].item()).softmax(1))

    @property
    def own(self) -> float:
        """The share of right answers that the model itself may be expected to give."""
        return float(self.chances.amax(1).double().mean())

    def accuracy(self, model: Any) -> float:
        """Return the share of right answers that ``model`` may be expected to give."""
        answers: list[Tensor] = []
        _look(model, self.task, lambda scores, _: answers.append(scores.argmax(1).cpu()))
        return float(self.chances.gather(1, torch.cat(answers)[:, None]).double().mean())


def _look(model: Any, task: Task, at: Callable[[Tensor, Tensor], None]) -> None:
    """Call ``at`` with scores, (positions, classes), and classes of every batch, padding left out."""

    def measure(outputs: Any, targets: Any) -> tuple[float, int]:
        scores, classes = class_scores(outputs, targets)
        counted = classes != IGNORE
        at(scores[counted], classes[counted])
        return 0.0, 1

    evaluate(model, replace(task, metrics={task.main: Metric(measure, higher_is_better=True)}))
