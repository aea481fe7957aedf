"""Evidence of trials: by how much the loss rises when one small plan alone is carried out.

The sensitivity of parts measured one by one, everything else as it is (Han, Pool, Tran and Dally, NIPS 2015, arXiv
1506.02626, section 3.1). What is measured is the divergence of the outputs from those of the subject as it is
(`task.divergence`), on calibration data and without labels.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from gossamer.bars import bar
from gossamer.calibrate.collect import checked_batches
from gossamer.errors import EvidenceError
from gossamer.model import Evidence, Plan, Subject, apply
from gossamer.task import Batch
from gossamer.task.divergence import divergence
from gossamer.task.evaluation import device_of, evaluating

Loss = Callable[[Any, Any], Tensor]


def tried(
    subject: Subject,
    trials: Mapping[str, Plan],
    batches: Iterable[Batch],
    evidence: Evidence | None = None,
    *,
    loss: Loss,
    progress: Progress | None = None,
) -> Evidence:
    """Return ``evidence`` with what each of ``trials`` alone does to the loss, see :meth:`Evidence.rise`.

    Args:
        subject: left untouched; a copy is changed for each trial.
        trials: plans by the names under which their rises are kept.
        batches: (args, kwargs, targets) per batch, held in memory; under the built-in losses targets only tell padding.
        evidence: what was collected before; nothing if not given.
        loss: of the task.
        progress: bars to add one to, with a step for each trial.

    Raises:
        EvidenceError: no batches, or one of the wrong form.
        PlanError: a trial does not fit the subject.
    """
    held = list(checked_batches(batches, device_of(subject.model), "reading batches", None))
    if not held:
        raise EvidenceError("trials were given no batches", hint="an iterator can be run through only once")
    before = _outputs(subject, held)
    rises = {}
    with bar(progress, "measuring sensitivity", len(trials)) as advance:
        for name, plan in trials.items():
            rises[name] = _rise(apply(subject, plan), held, before, loss)
            advance()
    known = evidence or Evidence(kinds=frozenset(), batches=len(held))
    return replace(known, rises={**known.rises, **rises})


def _outputs(subject: Subject, batches: list[Batch]) -> list[Any]:
    with evaluating(subject.model):
        return [subject.model(*args, **kwargs) for args, kwargs, _ in batches]


def _rise(subject: Subject, batches: list[Batch], before: list[Any], loss: Loss) -> float:
    """Return the mean divergence over all targets; infinite if it is not finite."""
    total, count = 0.0, 0
    with evaluating(subject.model), torch.no_grad():
        for (args, kwargs, targets), outputs in zip(batches, before, strict=True):
            some, of = divergence(loss, outputs, subject.model(*args, **kwargs), targets)
            total, count = total + some, count + of
    mean = total / max(count, 1)
    return mean if math.isfinite(mean) else math.inf
