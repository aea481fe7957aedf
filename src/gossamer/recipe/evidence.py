"""Evidence for a run: collected when a method asks for it, kept until weights change."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.progress import Progress

from gossamer.calibrate import calibrate, tried
from gossamer.model import Evidence, Method, Subject
from gossamer.task import Batch, Task

SAMPLES = 512
"""Samples of the training split that calibration sees; methods of this kind level off at a few hundred."""

FEW = 8
"""Samples in a batch for evidence that wants many gradients; ``taylor`` is of single samples."""


@dataclass
class Collector:
    """Collects evidence from the training split of ``task``.

    Args:
        task: what calibration reads; never its validation or test split.
        seed: picks the samples.
        samples: how many samples it reads.
    """

    task: Task
    seed: int = 0
    samples: int = SAMPLES
    evidence: Evidence | None = None

    def get(self, subject: Subject, needs: frozenset[str]) -> Evidence | None:
        """Return evidence of the kinds in ``needs`` for ``subject`` as it is; None if nothing is needed.

        Raises:
            EvidenceError: calibration saw bad data.
        """
        if not needs:
            return None
        if self.evidence is None or not needs <= self.evidence.kinds:
            kinds = needs | (self.evidence.kinds if self.evidence is not None else frozenset())
            size = 1 if "taylor" in kinds else FEW if "curvature" in kinds else None
            self.evidence = calibrate(subject, self.batches(size), kinds, loss=self.task.loss)
        return self.evidence

    def of(self, method: Method, subject: Subject, progress: Progress | None = None) -> Evidence | None:
        """Return what ``method`` needs to plan for ``subject`` as it is, its trials measured.

        Raises:
            EvidenceError: calibration saw bad data.
        """
        evidence = self.get(subject, method.needs)
        trials = method.trials(subject, evidence)
        if not trials:
            return evidence
        return tried(subject, trials, self.batches(), evidence, loss=self.task.loss, progress=progress)

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Return the batches that calibration sees, of ``size`` samples or the task's own size."""
        picked = torch.Generator().manual_seed(self.seed)
        return self.task.batches("train", batch_size=size, samples=self.samples, generator=picked)

    def forget(self) -> None:
        """Drop what was collected: the subject's weights have changed."""
        self.evidence = None
