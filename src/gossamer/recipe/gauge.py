"""Taking the numbers of a subject: the files it makes, its sites, its metrics, its costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from gossamer.artifact import Artifact, load, save, stored_bytes
from gossamer.artifact.activations import module_of
from gossamer.errors import TargetError
from gossamer.figure import Figure, computed, measured
from gossamer.model import Edit, Frozen, Subject, freeze, live_weight, plain_copy, to_artifact
from gossamer.report import Agreed, SiteState, Skipped, State
from gossamer.targets import OnnxRuntime, agreements, arrays_of, assemble, frozen_graph, lower_artifact
from gossamer.task import Task, evaluate

WEIGHTS_ONLY = "model.goss"
SELF_CONTAINED = "self-contained.goss"


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What a target says of one file."""

    latency: Figure
    spread: Figure
    memory: Figure
    energy: Figure
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graphs:
    """The graphs of one run by the edits made and the outputs on grids; no weights are in them, so others are alike."""

    found: dict[tuple[tuple[Edit, ...], frozenset[str]], bytes | TargetError] = field(default_factory=dict)

    def of(self, subject: Subject, frozen: Frozen) -> bytes | TargetError:
        """Return the graph of a subject of the run, or why there is none."""
        marked = frozenset(name for name in frozen.activations if module_of(name) is not None)
        key = subject.edits, marked
        if key not in self.found:
            try:
                self.found[key] = frozen_graph(frozen, subject.args, subject.kwargs)
            except TargetError as error:
                self.found[key] = error
        return self.found[key]


@dataclass(frozen=True)
class Gauge:
    """What is measured beside files, sites, metrics and multiply-accumulates, which always are.

    Args:
        graph: also write a file that carries the graph, and count it.
        target: run the files of all steps on this target at the end, taking turns, for latency, peak memory and
            modelled energy; wants ``graph``.
        ship: which of the two files a caller gets.
    """

    graph: bool = True
    target: OnnxRuntime | None = None
    ship: Literal["weights-only", "self-contained"] = "weights-only"

    def take(self, subject: Subject, task: Task, folder: Path, meta: Mapping[str, Any], graphs: Graphs) -> State:
        """Write the subject's files into ``folder`` and return its state.

        Args:
            subject: what to measure.
            task: metrics, on its validation split.
            folder: where the files are written.
            meta: kept in the files.
            graphs: of the run.
        """
        frozen = freeze(subject)
        artifact = to_artifact(frozen, meta=meta)
        written = save(folder / WEIGHTS_ONLY, artifact)
        graph = graphs.of(subject, frozen) if self.graph or self.ship == "self-contained" else None
        whole = None
        there: dict[str, Any] = {}
        if isinstance(graph, bytes):
            complete = replace(artifact, graph=graph)
            whole = measured(save(folder / SELF_CONTAINED, complete), "B")
            there = _on_target(subject, complete)
        macs = subject.graph.macs
        return State(
            sites=site_states(subject, artifact),
            metrics=metrics(subject, task, "validation"),
            weights_only=measured(written, "B"),
            self_contained=whole,
            refused=str(graph) if isinstance(graph, TargetError) else "",
            parameters=measured(parameters(subject)),
            macs=None if macs is None else computed(macs),
            **there,
        )

    def file(self, folder: Path, state: State) -> Path:
        """Return the file in ``folder``, where ``state`` was taken, that a caller gets.

        Raises:
            TargetError: it should carry a graph, and none was written.
        """
        path = folder / (WEIGHTS_ONLY if self.ship == "weights-only" else SELF_CONTAINED)
        if not path.exists():
            why = state.refused or "the run that left this folder was asked for none"
            other = "" if state.refused else "name another folder to run it anew, or "
            raise TargetError(
                f"{folder}: no self-contained file was written: {why}",
                hint=f"{other}ask for weights only: ship='weights-only', or --weights-only",
            )
        return path

    def costs(self, folders: Sequence[Path], subject: Subject) -> list[Costs | None]:
        """Return what the target says of the files in ``folders``, None for one without a graph.

        All of them run on the example inputs of ``subject``, in fresh processes that take turns.
        """
        files = {str(n): folder / SELF_CONTAINED for n, folder in enumerate(folders)}
        there = {name: path for name, path in files.items() if path.exists()}
        if self.target is None or not there:
            return [None] * len(files)
        first = assemble(load(next(iter(there.values()))))
        inputs = arrays_of(first, subject.args, subject.kwargs)
        found = self.target.measure(dict(there), inputs)
        taken = {
            name: Costs(
                latency=one.run.latency.median,
                spread=one.run.latency.spread,
                memory=one.run.memory.peak,
                energy=one.energy.total,
                uncounted=one.unruled,
            )
            for name, one in found.items()
        }
        return [taken.get(name) for name in files]


def _on_target(subject: Subject, artifact: Artifact) -> dict[str, Any]:
    """Return, for a state, which sites with input grids are multiplied in floats, and how far the others are off."""
    if not artifact.activations:
        return {}
    lowered = lower_artifact(artifact)
    asked = set(artifact.activations) - set(lowered.integer)
    floats = tuple(Skipped(reason.what, reason.why) for reason in lowered.reasons if reason.what in asked)
    try:
        found = agreements(subject, lowered, subject.args, subject.kwargs)
    except TargetError as error:
        return {"floats": floats, "uncompared": error.message}
    agreed = tuple(
        Agreed(one.site, measured(one.steps, "step"), measured(one.differing, "share"), measured(one.carried, "step"))
        for one in found
        if one.compared != "output"
    )
    return {"floats": floats, "agreed": agreed}


def metrics(subject: Subject, task: Task, split: Literal["validation", "test"]) -> dict[str, Figure]:
    """Return the task's loss and metrics on a split, with their units."""
    figures = evaluate(subject, task, split)
    units = {name: metric.unit for name, metric in task.metrics.items()}
    return {name: measured(value, units.get(name, "")) for name, value in figures.items()}


def site_states(subject: Subject, artifact: Artifact) -> tuple[SiteState, ...]:
    """Return density, distinct values, bits per weight and coded bytes of every site."""
    rows = []
    stored = stored_bytes(artifact.tensors)
    for name, site in subject.sites.items():
        values = live_weight(subject, name)
        kept = values[values != 0]
        size = stored[artifact.aliases.get(name, name)]
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
