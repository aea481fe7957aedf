"""The one call: a trained model and a task go in, a small file and a report come out."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from torch import nn

from gossamer.bars import display
from gossamer.model import Subject, freeze
from gossamer.recipe import Gauge, Recipe, find, run
from gossamer.recipe.evidence import SAMPLES
from gossamer.recipe.journal import write
from gossamer.report import Report, save
from gossamer.task import Task


@dataclass(frozen=True, eq=False)
class Result:
    """What :func:`compress` made.

    Attributes:
        model: a plain module with the weights that the file holds.
        report: what each step did, measured.
        path: the file.
    """

    model: nn.Module
    report: Report
    path: Path


def compress(
    model: nn.Module,
    task: Task,
    recipe: str | Path | Recipe = "deep-compression",
    *,
    out: str | Path,
    folder: str | Path | None = None,
    seed: int | None = None,
    gauge: Gauge | None = None,
    samples: int = SAMPLES,
    report: bool = False,
    progress: Progress | bool = True,
    on_resume: Callable[[int], None] | None = None,
) -> Result:
    """Compress a trained model by a recipe into one file.

    The same call continues a run that was stopped at any point. ``out`` holds the file of the last finished step from
    the first one on, so that something is there whenever the run ends.

    Args:
        model: the trained model; untouched.
        task: its data, loss and metrics; choices are made on validation data, the test split is read once, at the end.
        recipe: name of a built-in recipe, path to a TOML file, or a recipe.
        out: where the file goes (``.goss``).
        folder: the journal of the run; ``OUT.run`` beside the file if not given.
        seed: of everything random; the recipe's own if not given.
        gauge: what is measured, and whether the file is self-contained; see :class:`gossamer.recipe.Gauge`.
        samples: samples of the train split that methods which calibrate see.
        report: also write ``OUT.report.json``.
        progress: bars to add to; or whether to show any, on the terminal's error stream.
        on_resume: called with the number of the last finished step if the run is continued.

    Raises:
        BusyError: another run is going on in ``folder``.
        RecipeError: there is no such recipe, its text is wrong, or ``folder`` belongs to another run.
        GossamerError: the model, the task or a step of the recipe cannot be used as asked.
    """
    gauge = gauge or Gauge()
    path = Path(out)
    journal = path.with_name(path.name + ".run") if folder is None else Path(folder)
    args, kwargs = task.example
    subject = Subject.of(model, *args, **kwargs)

    def keep(so_far: Report) -> None:
        file = gauge.file(journal / f"step-{len(so_far.steps):02d}", so_far.end)
        if not so_far.steps:  # nothing is compressed yet: a file here would pass for a result
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, file.read_bytes())
        if report:
            save(path.with_name(path.name + ".report.json"), so_far)

    with _bars(progress=progress) as bars:
        steps = find(recipe)
        outcome = run(
            steps,
            subject,
            task,
            journal,
            seed=seed,
            gauge=gauge,
            samples=samples,
            progress=bars,
            on_step=keep,
            on_resume=on_resume,
        )
    return Result(freeze(outcome.subject).model, outcome.report, path)


def _bars(*, progress: Progress | bool) -> "Progress | nullcontext[Progress | None]":
    """Return the bars to use as a context: new ones are closed at its end, those of the caller stay as they are."""
    if isinstance(progress, Progress):
        return nullcontext(progress)
    if not progress:
        return nullcontext(None)
    return display(Console(stderr=True))
