"""Seeking a method's strength: the most of it that the validation data bear.

Bisection of the range that the method gives for its strength, by halves, or by halves of its logarithm where the range
does not begin at zero. What counts is the task's main metric on the validation split, right after the plan: a step that
trains would have to train anew for every trial, so it cannot seek.
"""

import math
from typing import Annotated

import msgspec
from rich.progress import Progress

from gossamer.errors import RecipeError
from gossamer.model import Evidence, Method, Subject, apply
from gossamer.settings import Settings
from gossamer.task import Task, evaluate


class Seek(Settings, frozen=True):
    """Take the most of the method's strength at which the main metric stays within ``drop`` of what it was."""

    drop: Annotated[
        float,
        msgspec.Meta(
            ge=0.0, description="how much worse the main metric may get, in its own units (0.005 is half a point)"
        ),
    ]
    trials: Annotated[int, msgspec.Meta(ge=1, le=64, description="strengths that are tried")] = 8


def sought(
    seek: Seek,
    method: Method,
    subject: Subject,
    task: Task,
    evidence: Evidence | None,
    *,
    progress: Progress | None = None,
) -> Method:
    """Return ``method`` with the greatest strength found that the validation data bear.

    Args:
        seek: what they must bear.
        method: its own strength does not matter.
        subject: what the method is applied to; untouched.
        task: its main metric on its validation split counts.
        evidence: what the method needs.
        progress: bars to add one to.

    Raises:
        RecipeError: not one of the strengths that were tried will do.
    """
    field, (low, high) = str(method.strength), method.strengths
    sign = 1.0 if task.metrics[task.main].higher_is_better else -1.0
    before = evaluate(subject, task)[task.main]
    best: Method | None = None
    bar = None if progress is None else progress.add_task(f"seeking {field}", total=seek.trials)
    for _ in range(seek.trials):
        middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
        trial = msgspec.structs.replace(method, **{field: middle})
        after = evaluate(apply(subject, trial.plan(subject, evidence)), task)[task.main]
        if sign * (before - after) <= seek.drop:
            best, low = trial, middle
        else:
            high = middle
        if progress is not None and bar is not None:
            progress.advance(bar)
    if progress is not None and bar is not None:
        progress.remove_task(bar)
    if best is None:
        raise RecipeError(
            f"{method.tag}: even {field} {high:.3g} costs more than {seek.drop:g} of {task.main}",
            hint="allow a greater drop, or more trials",
        )
    return best
