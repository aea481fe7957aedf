"""Seeking a method's strength: the most that the validation data bear, or the least that fits a budget of bytes.

Bisection of the range that the method gives for its strength, by halves, or by halves of its logarithm where the range
does not begin at zero. What counts is what is there right after the plan, the task's main metric on the validation
split or the size of the file: a step that trains would have to train anew for every trial, so it cannot seek.
"""

import math
from collections.abc import Callable
from typing import Annotated

import msgspec
from rich.progress import Progress

from gossamer.artifact import dumps
from gossamer.errors import RecipeError, SettingError
from gossamer.model import Evidence, Method, Subject, apply, freeze, to_artifact
from gossamer.settings import Settings
from gossamer.task import Task, evaluate


class Seek(Settings, frozen=True):
    """Find the method's strength: one of ``drop`` and ``bytes`` says what will do.

    Raises:
        SettingError: both or none are given.
    """

    drop: Annotated[
        Annotated[float, msgspec.Meta(ge=0.0)] | None,
        msgspec.Meta(description="most that the main metric may get worse, in its units (0.005 is half a point)"),
    ] = None
    bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="most bytes of the weights file, its graph not counted"),
    ] = None
    trials: Annotated[int, msgspec.Meta(ge=1, le=64, description="strengths that are tried")] = 8

    def __post_init__(self) -> None:
        """Check the fields one by one, then together."""
        super().__post_init__()
        if (self.drop is None) == (self.bytes is None):
            raise SettingError("Seek: wanted one of drop and bytes", hint="drop = 0.005 or bytes = 50000")


def sought(
    seek: Seek,
    method: Method,
    subject: Subject,
    task: Task,
    evidence: Evidence | None,
    *,
    progress: Progress | None = None,
) -> Method:
    """Return ``method`` with the greatest strength found that is within ``drop``, or the least within ``bytes``.

    Args:
        seek: what will do.
        method: its own strength does not matter.
        subject: what the method is applied to; untouched.
        task: its main metric on its validation split counts.
        evidence: what the method needs.
        progress: bars to add one to.

    Raises:
        RecipeError: not one of the strengths that were tried will do.
    """
    field, (low, high) = str(method.strength), method.strengths or (0.0, 1.0)
    ratios = low > 0
    within = _within(seek, subject, task)
    best: Method | None = None
    bar = None if progress is None else progress.add_task(f"seeking {field}", total=seek.trials)
    for _ in range(seek.trials):
        middle = math.sqrt(low * high) if ratios else (low + high) / 2
        trial = msgspec.structs.replace(method, **{field: middle})
        good = within(apply(subject, trial.plan(subject, evidence)))
        if good:
            best = trial
        if good == (seek.drop is not None):
            low = middle
        else:
            high = middle
        if progress is not None and bar is not None:
            progress.advance(bar)
    if progress is not None and bar is not None:
        progress.remove_task(bar)
    if best is None:
        raise RecipeError(_why_none(seek, method, task, field, middle), hint="allow more, or more trials")
    return best


def _within(seek: Seek, subject: Subject, task: Task) -> Callable[[Subject], bool]:
    """Return what tells whether a trial will do."""
    most, drop = seek.bytes, seek.drop
    if drop is None:
        return lambda trial: most is not None and len(dumps(to_artifact(freeze(trial)))) <= most
    sign = 1.0 if task.metrics[task.main].higher_is_better else -1.0
    before = evaluate(subject, task)[task.main]
    return lambda trial: sign * (before - evaluate(trial, task)[task.main]) <= drop


def _why_none(seek: Seek, method: Method, task: Task, field: str, last: float) -> str:
    if seek.bytes is not None:
        return f"{method.tag}: even {field} {last:.3g} leaves a file of more than {seek.bytes:,} bytes"
    return f"{method.tag}: even {field} {last:.3g} costs more than {seek.drop:g} of {task.main}"
