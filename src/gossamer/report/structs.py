"""What a report holds: plain data, every number marked ``measured`` or ``computed``.

A number is *measured* when something was counted or timed (bytes of a file that was written, a metric on data, a
latency); it is *computed* when a formula gave it (multiply-accumulates from shapes, energy from a published table).
The report knows nothing of methods, recipes or targets: those fill it.
"""

from pathlib import Path
from typing import Literal

import msgspec

from gossamer.artifact.files import write_file
from gossamer.figure import Figure, computed, decode, encode

Direction = Literal["max", "min"]


class SiteState(msgspec.Struct, frozen=True, kw_only=True):
    """One site at one moment.

    Attributes:
        site: name of the site.
        kind: what the site does (``linear``, ``conv``, ...).
        shape: dimensions of its tensor now (an edit may have changed them).
        density: share of values that are not zero.
        distinct: how many distinct values that are not zero.
        bits: bits per weight as coded.
        bytes: bytes as coded, indices and centers included, container's header excluded.
    """

    site: str
    kind: str
    shape: tuple[int, ...]
    density: Figure
    distinct: Figure
    bits: Figure
    bytes: Figure


class Skipped(msgspec.Struct, frozen=True):
    """A site that was not treated as asked, and why."""

    site: str
    reason: str


class Agreed(msgspec.Struct, frozen=True):
    """How far what the target reads at a site is from what the simulation reads.

    Attributes:
        site: name of the site.
        steps: the largest difference where the layers before read what they read in the simulation, in steps of the
            grid of its input.
        differing: share of the values that are then not the same.
        carried: the largest difference as those of all layers before add up.
    """

    site: str
    steps: Figure
    differing: Figure
    carried: Figure


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The whole subject at one moment.

    Attributes:
        sites: its sites, in the model's order.
        metrics: metric name to figure, on the validation split.
        weights_only: bytes of the file that needs the model's code, as written on disk, everything counted.
        self_contained: bytes of the file that carries the graph too, as written on disk; ``None`` if not written.
        refused: why the target could not have a file with a graph; empty if it could or was not asked.
        parameters: values in all parameters of the plain model.
        macs: multiply-accumulates of one forward pass of the example; ``None`` if the graph could not be seen.
        energy: energy of one forward pass; ``None`` if not asked.
        latency: median time of one forward pass on the target; ``None`` if not asked.
        spread: range between the quartiles of that time.
        memory: peak memory of the process that ran it.
        uncounted: operators of the target that multiply and are not counted in the energy.
        floats: sites with inputs in 8 bits that the target nevertheless multiplies in floats, each with the reason.
        agreed: for the other sites with inputs in 8 bits, how far the target is from the simulation, on the example.
        uncompared: why that could not be found out; empty if it could or there was nothing to compare.
    """

    sites: tuple[SiteState, ...]
    metrics: dict[str, Figure]
    weights_only: Figure
    parameters: Figure
    self_contained: Figure | None = None
    refused: str = ""
    macs: Figure | None = None
    energy: Figure | None = None
    latency: Figure | None = None
    spread: Figure | None = None
    memory: Figure | None = None
    uncounted: tuple[str, ...] = ()
    floats: tuple[Skipped, ...] = ()
    agreed: tuple[Agreed, ...] = ()
    uncompared: str = ""


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did.

    Attributes:
        number: position in the recipe, from 1.
        name: the method's tag, with the strength that a step which seeks has found; ``train`` for a step without one.
        after: the subject after the step.
        treated: sites the step's plan speaks of.
        skipped: sites it left out, each with the reason.
        trained: passes over the training data.
        lasting: penalties that the step leaves to the training of later steps.
        seconds: wall time of the step, evaluation included.
    """

    number: int
    name: str
    after: State
    treated: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    trained: int = 0
    lasting: tuple[str, ...] = ()
    seconds: Figure | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a recipe: where it started, what each step did, and where it ended.

    Attributes:
        recipe: name of the recipe.
        task: name of the task.
        seed: seed of the run.
        metric: name of the main metric.
        direction: ``max`` if more of the metric is better, else ``min``.
        dense: bytes of the parameters as dense fp32, the base of every ratio.
        start: the subject before the first step.
        steps: one entry per finished step.
        ships: which of the two files the caller gets.
        unseen: parts of the model that the graph could not see, as sentences.
        test_before: metrics of the untouched model on the test split; empty until the run is finished.
        test_after: metrics of the result on the test split, looked at once, at the end.
    """

    recipe: str
    task: str
    seed: int
    metric: str
    direction: Direction
    dense: Figure
    start: State
    steps: tuple[StepReport, ...] = ()
    ships: Literal["weights-only", "self-contained"] = "weights-only"
    unseen: tuple[str, ...] = ()
    test_before: dict[str, Figure] = {}
    test_after: dict[str, Figure] = {}

    @property
    def end(self) -> State:
        """The subject after the last finished step."""
        return self.steps[-1].after if self.steps else self.start

    @property
    def ratio(self) -> float:
        """Dense fp32 bytes divided by the bytes of the weights-only file."""
        return self.dense.value / self.end.weights_only.value

    def worse(self, before: State, after: State) -> float:
        """Return by how much the main metric got worse from one state to the other (negative: better)."""
        change = float(after.metrics[self.metric].value - before.metrics[self.metric].value)
        return -change if self.direction == "max" else change

    def best(self, drop: float) -> int:
        """Return the number of the step with the smallest file whose main metric is worse by ``drop`` at most.

        Args:
            drop: allowed worsening against the start, in the metric's own unit.

        Returns:
            The step's number, 0 for the start.
        """
        states = (self.start, *(step.after for step in self.steps))
        fit = [number for number, state in enumerate(states) if self.worse(self.start, state) <= drop]
        return min(fit, key=lambda number: states[number].weights_only.value)

    def before(self, step: StepReport) -> State:
        """Return the state that ``step`` (one of :attr:`steps`) began with."""
        return self.start if step.number == 1 else self.steps[step.number - 2].after


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one state to the next; negative means less. ``None`` where one side was not taken.

    Attributes:
        bytes: change of the weights-only file.
        self_contained: change of the self-contained file.
        metrics: change of every metric, in the metric's own unit.
        macs: change of multiply-accumulates.
        energy: change of energy.
        latency: change of median latency.
        memory: change of peak memory.
        parameters: change of the number of parameters.
    """

    bytes: Figure
    parameters: Figure
    metrics: dict[str, Figure]
    self_contained: Figure | None = None
    macs: Figure | None = None
    energy: Figure | None = None
    latency: Figure | None = None
    memory: Figure | None = None


def effect(before: State, after: State) -> Effect:
    """Return the marginal effect of what happened between two states; its basis is the weaker of the two."""
    return Effect(
        bytes=_sure(before.weights_only, after.weights_only),
        parameters=_sure(before.parameters, after.parameters),
        metrics={
            name: _sure(figure, after.metrics[name]) for name, figure in before.metrics.items() if name in after.metrics
        },
        self_contained=_change(before.self_contained, after.self_contained),
        macs=_change(before.macs, after.macs),
        energy=_change(before.energy, after.energy),
        latency=_change(before.latency, after.latency),
        memory=_change(before.memory, after.memory),
    )


def to_json(report: Report) -> bytes:
    """Return the report as indented JSON, the marginal effect of each step included under ``effects``."""
    plain = msgspec.to_builtins(report)
    plain["effects"] = [msgspec.to_builtins(effect(report.before(step), step.after)) for step in report.steps]
    plain["ratio"] = msgspec.to_builtins(computed(report.ratio))
    return msgspec.json.format(encode(plain), indent=1)


def save(path: Path, report: Report) -> None:
    """Write the report as JSON, replacing ``path`` in one move."""
    write_file(path, [to_json(report)])


def load(path: Path) -> Report:
    """Read a report back; what is derived (``effects``, ``ratio``) is derived again.

    Raises:
        msgspec.ValidationError: the file is not a report.
    """
    return decode(path.read_bytes(), Report)


def _change(before: Figure | None, after: Figure | None) -> Figure | None:
    return None if before is None or after is None else _sure(before, after)


def _sure(before: Figure, after: Figure) -> Figure:
    both = before.basis == after.basis == "measured"
    return Figure(after.value - before.value, "measured" if both else "computed", after.unit)
