"""Running a recipe: steps in order, each measured and kept on disk, so that a killed run continues.

After each step the subject is read back from the journal, so a run that was never stopped takes the same path, bit for
bit, as one that was killed and started again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.progress import Progress

from gossamer.figure import Figure, computed, encode, measured
from gossamer.lock import locked
from gossamer.model import Subject
from gossamer.recipe.evidence import SAMPLES, Collector
from gossamer.recipe.gauge import Costs, Gauge, Graphs, metrics, parameters
from gossamer.recipe.journal import Journal, read, write
from gossamer.recipe.recipe import Recipe
from gossamer.recipe.state import load_subject, save_subject
from gossamer.recipe.step import Done, lasting, perform
from gossamer.report import Report, Skipped, State, StepReport, to_json
from gossamer.task import Task


class Outcome(NamedTuple):
    """What a run made: the subject with its live constraints, the report, and the file of the last step."""

    subject: Subject
    report: Report
    file: Path


def run(
    recipe: Recipe,
    subject: Subject,
    task: Task,
    folder: str | Path,
    *,
    seed: int | None = None,
    gauge: Gauge | None = None,
    samples: int = SAMPLES,
    progress: Progress | None = None,
    on_step: Callable[[Report], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> Outcome:
    """Run a recipe on a subject, or continue a run that was stopped at any point.

    Args:
        recipe: the steps.
        subject: where they start; untouched.
        task: training reads its train split, the report its validation split after each step, and its test split once,
            at the end.
        folder: the journal; made if missing. What a finished run left there is returned as it is.
        seed: added to every seed in the recipe; the recipe's own if not given.
        gauge: what is measured beside the cheap things.
        samples: samples of the train split that calibration sees.
        progress: bars to add to.
        on_step: called with the report so far after the start and after each step.
        on_resume: called with the number of the last finished step when a run that had one is continued, once the
            journal is known to be of this run.

    Raises:
        BusyError: another run is going on in the folder.
        RecipeError: the folder belongs to another run; says what differs.
        GossamerError: a method, a plan or a training fails; every finished step is kept.
    """
    recipe = recipe.seeded(recipe.seed if seed is None else seed)
    with locked(Path(folder)):
        journal = Journal(Path(folder), recipe, subject, task)
        if on_resume is not None and journal.finished > 0:
            on_resume(journal.finished)
        work = _Run(recipe, subject, task, journal, gauge or Gauge(), Collector(task, recipe.seed, samples), progress)
        return work.all(on_step or (lambda _: None))


@dataclass(frozen=True)
class _Run:
    recipe: Recipe
    original: Subject
    task: Task
    journal: Journal
    gauge: Gauge
    collector: Collector
    progress: Progress | None
    graphs: Graphs = field(default_factory=Graphs)

    def all(self, on_step: Callable[[Report], None]) -> Outcome:
        if self.journal.finished < 0:
            self.journal.commit(0, self._start)
        bar = self._bar()
        subject = self._subject(self.journal.finished)
        for number in range(1, len(self.recipe.steps) + 1):
            if number > self.journal.finished:
                on_step(self._report(number - 1))
                self._show(bar, number)
                subject = self._step(number, subject)
        self._show(bar, len(self.recipe.steps) + 1)
        report = self._tested(self._costed(self._report(len(self.recipe.steps))))
        write(self.journal.folder / "report.json", to_json(report))
        on_step(report)
        return Outcome(subject, report, self.gauge.file(self.journal.step(len(self.recipe.steps)), report.end))

    def _start(self, folder: Path) -> None:
        save_subject(folder, self.original, self.original)
        state = self.gauge.take(self.original, self.task, folder, self._meta, self.graphs)
        (folder / "step.json").write_bytes(encode(state))

    def _step(self, number: int, subject: Subject) -> Subject:
        started = time.monotonic()
        step = self.recipe.steps[number - 1]
        training = self.journal.training(number)
        earlier = None if step.rewind is None else load_subject(self.journal.step(step.rewind), self.original)
        done = perform(
            step, subject, self.task, self.collector, folder=training, earlier=earlier, progress=self.progress
        )

        def fill(folder: Path) -> None:
            save_subject(folder, done.subject, self.original)
            # What is measured is what was written: the file of a resumed run cannot differ from it.
            state = self.gauge.take(done.subject, self.task, folder, self._meta, self.graphs)
            name = f"{step.name}, {done.found}" if done.found else step.name
            entry = _entry(number, name, done, state, time.monotonic() - started)
            (folder / "step.json").write_bytes(encode(entry))

        self.journal.commit(number, fill)
        kept = load_subject(self.journal.step(number), self.original)
        return replace(kept, penalties=(*subject.penalties, *done.lasting))

    def _subject(self, number: int) -> Subject:
        """Return the subject after a finished step, with the penalties that earlier steps left."""
        subject = load_subject(self.journal.step(0), self.original)
        left = list(subject.penalties)
        for earlier in range(1, number + 1):
            if self._entry(earlier).lasting:
                before = load_subject(self.journal.step(earlier - 1), self.original)
                before = replace(before, penalties=tuple(left))
                left += lasting(self.recipe.steps[earlier - 1], before, self.collector)
        return replace(load_subject(self.journal.step(number), self.original), penalties=tuple(left))

    def _report(self, finished: int) -> Report:
        start = read(self.journal.step(0) / "step.json", State)
        report = Report(
            recipe=self.recipe.name,
            task=self.task.name,
            seed=self.recipe.seed,
            metric=self.task.main,
            direction="max" if self.task.metrics[self.task.main].higher_is_better else "min",
            dense=computed(4 * start.parameters.value, "B"),
            start=start,
            steps=tuple(self._entry(number) for number in range(1, finished + 1)),
            ships=self.gauge.ship,
            unseen=tuple(f"{part.what} at {part.where}: {part.why}" for part in self.original.graph.unseen),
        )
        write(self.journal.folder / "report.json", to_json(report))
        return report

    def _entry(self, number: int) -> StepReport:
        return read(self.journal.step(number) / "step.json", StepReport)

    def _costed(self, report: Report) -> Report:
        """Return the report with what the gauge's target says of the files of all steps, run in turns and kept."""
        if self.gauge.target is None:
            return report
        path = self.journal.folder / "costs.json"
        if not path.exists():
            folders = [self.journal.step(number) for number in range(len(report.steps) + 1)]
            write(path, encode(self.gauge.costs(folders, self.original)))
        first, *others = read(path, list[Costs | None])
        steps = (
            msgspec.structs.replace(step, after=_with_costs(step.after, costs))
            for step, costs in zip(report.steps, others, strict=True)
        )
        return msgspec.structs.replace(report, start=_with_costs(report.start, first), steps=tuple(steps))

    def _tested(self, report: Report) -> Report:
        """Return the report with the test split's figures, which are taken once and kept."""
        if self.task.test is None:
            return report
        path = self.journal.folder / "test.json"
        if not path.exists():
            end = load_subject(self.journal.step(len(self.recipe.steps)), self.original)
            both = [metrics(subject, self.task, "test") for subject in (self.original, end)]
            write(path, encode(both))
        before, after = read(path, list[dict[str, Figure]])
        return msgspec.structs.replace(report, test_before=before, test_after=after)

    @property
    def _meta(self) -> dict[str, str | int]:
        return {"task": self.task.name, "recipe": self.recipe.name, "dense_bytes": 4 * parameters(self.original)}

    def _bar(self) -> int | None:
        return None if self.progress is None else self.progress.add_task("", total=len(self.recipe.steps))

    def _show(self, bar: int | None, number: int) -> None:
        if self.progress is None or bar is None:
            return
        steps = self.recipe.steps
        text = f"step {number}/{len(steps)} {steps[number - 1].name}" if number <= len(steps) else "testing"
        self.progress.update(bar, completed=number - 1, description=text)  # type: ignore[arg-type]


def _with_costs(state: State, costs: Costs | None) -> State:
    if costs is None:
        return state
    return msgspec.structs.replace(state, **msgspec.structs.asdict(costs))


def _entry(number: int, name: str, done: Done, state: State, seconds: float) -> StepReport:
    plan = done.plan
    treated: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    if plan is not None:
        treated = tuple(dict.fromkeys((*plan.constraints, *plan.activations, *plan.edited, *plan.tensors)))
        skipped = tuple(Skipped(skip.site, skip.reason) for skip in plan.skipped)
    return StepReport(
        number=number,
        name=name,
        after=state,
        treated=treated,
        skipped=skipped,
        trained=done.epochs,
        lasting=tuple(type(penalty).__name__ for penalty in done.lasting),
        seconds=measured(seconds, "s"),
    )
