"""Taking the numbers of a subject: the files it makes, its sites, its metrics, its costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gossamer.artifact import Artifact, save
from gossamer.codings import nbytes
from gossamer.figure import Figure, computed, measured
from gossamer.model import Subject, freeze, live_weight, plain_copy, to_artifact
from gossamer.report import SiteState, State
from gossamer.task import Task, evaluate

WEIGHTS_ONLY = "model.goss"


@dataclass(frozen=True)
class Gauge:
    """What is measured after each step."""

    def take(self, subject: Subject, task: Task, folder: Path, meta: Mapping[str, Any]) -> State:
        """Write the subject's files into ``folder`` and return its state.

        Args:
            subject: what to measure.
            task: metrics, on its validation split.
            folder: where ``model.goss`` is written.
            meta: kept in the file.
        """
        frozen = freeze(subject)
        artifact = to_artifact(frozen, meta=meta)
        written = save(folder / WEIGHTS_ONLY, artifact)
        macs = subject.graph.macs
        return State(
            sites=site_states(subject, artifact),
            metrics=metrics(subject, task, "validation"),
            weights_only=measured(written, "B"),
            parameters=measured(parameters(subject)),
            macs=None if macs is None else computed(macs),
        )

    def file(self, folder: Path) -> Path:
        """Return the file that :meth:`take` wrote into ``folder`` and that a caller wants."""
        return folder / WEIGHTS_ONLY


def metrics(subject: Subject, task: Task, split: Literal["validation", "test"]) -> dict[str, Figure]:
    """Return the task's loss and metrics on a split, with their units."""
    figures = evaluate(subject, task, split)
    units = {name: metric.unit for name, metric in task.metrics.items()}
    return {name: measured(value, units.get(name, "")) for name, value in figures.items()}


def site_states(subject: Subject, artifact: Artifact) -> tuple[SiteState, ...]:
    """Return density, distinct values, bits per weight and coded bytes of every site."""
    rows = []
    for name, site in subject.sites.items():
        values = live_weight(subject, name)
        kept = values[values != 0]
        size = nbytes(artifact.tensors[artifact.aliases.get(name, name)])
        rows.append(
            SiteState(
                site=name,
                kind=site.kind,
                shape=site.shape,
                density=measured(kept.numel() / max(values.numel(), 1), "share"),
                distinct=measured(len(torch.unique(kept))),
                bits=measured(8 * size / max(values.numel(), 1), "bit"),
                bytes=measured(size, "B"),
            )
        )
    return tuple(rows)


def parameters(subject: Subject) -> int:
    """Return the number of values in all parameters of the plain model, tied ones once."""
    return sum(parameter.numel() for parameter in plain_copy(subject).parameters())
