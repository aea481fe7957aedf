"""Seeking a method's strength: the most that the validation data bear, or the least that fits a budget of bytes.

Bisection of the range that the method gives for its strength, by halves, or by halves of its logarithm where the range
does not begin at zero. What counts is what is there right after the plan, the task's main metric on the validation
split or the size of the file: a step that trains would have to train anew for every trial, so it cannot seek.

Accuracy on some thousand samples is noisy. So it is not counted where it can be expected, from what the model before
the step believes (`task.belief`), unless told otherwise. And since a bisection that fails once by chance never comes
back, what counts is the monotone curve nearest to all trials (isotonic regression by pooling adjacent violators: Ayer
et al., Annals of Mathematical Statistics 1955), and once the range is a thirty-second of what it was, a strength just
beyond the first that fails is tried as well, which may outvote it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

import msgspec
from rich.progress import Progress

from gossamer.artifact import dumps
from gossamer.bars import bar
from gossamer.errors import RecipeError, SettingError
from gossamer.model import Evidence, Method, Subject, apply, freeze, to_artifact
from gossamer.settings import Settings
from gossamer.task import Task, evaluate
from gossamer.task.belief import Beliefs

_NEAR = 1 / 32  # of the range: how near to the end a bisection comes before it looks beyond


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
    measure: Annotated[
        Literal["expected", "counted"],
        msgspec.Meta(
            description="accuracy is what may be expected from what the model before believes, or counted; other "
            "metrics are as they are"
        ),
    ] = "expected"
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
    field = str(method.strength)
    axis = _Axis(*(method.strengths or (0.0, 1.0)), falling=seek.drop is None)
    excess = excess_over(seek, subject, task)
    tried: dict[float, tuple[float, Method]] = {}
    with bar(progress, f"seeking {field}", seek.trials) as advance:
        for _ in range(seek.trials):
            place = _next({at: over for at, (over, _) in tried.items()})
            trial = msgspec.structs.replace(method, **{field: axis.strength(place)})
            over = excess(apply(subject, trial.plan(subject, evidence)))
            tried[place] = math.inf if math.isnan(over) else over, trial
            advance()
    curve = _monotone({at: over for at, (over, _) in tried.items()})
    will_do = [at for at, (over, _) in tried.items() if over <= 0 and curve[at] <= 0]
    if not will_do:
        last = axis.strength(min(tried))
        raise RecipeError(_why_none(seek, method, task, field, last), hint="allow more, or more trials")
    return tried[max(will_do)][1]


@dataclass(frozen=True)
class _Axis:
    """Places from 0 to 1 for the strengths of a range, in the order in which less and less of them will do."""

    low: float
    high: float
    falling: bool

    def strength(self, place: float) -> float:
        at = 1 - place if self.falling else place
        if self.low > 0:
            return float(self.low * (self.high / self.low) ** at)
        return self.low + (self.high - self.low) * at


def _next(excess: Mapping[float, float]) -> float:
    """Return the place to try next, from what was found at others: how far they are above what is allowed."""
    curve = _monotone(excess)
    low = max((at for at, over in curve.items() if over <= 0), default=0.0)
    high = min((at for at, over in curve.items() if over > 0), default=1.0)
    gap = high - low
    beyond = min((at for at in excess if at > high), default=1.0)
    if gap <= _NEAR and beyond - high > 2 * gap:
        return high + gap
    return (low + high) / 2


def _monotone(excess: Mapping[float, float]) -> dict[float, float]:
    """Return the curve that nowhere falls and is nearest to ``excess`` in squares."""
    pools: list[list[float]] = []
    for at in sorted(excess):
        pools.append([excess[at]])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [fmean(pool) for pool in pools for _ in pool]
    return dict(zip(sorted(excess), level, strict=True))


def excess_over(seek: Seek, subject: Subject, task: Task) -> Callable[[Subject], float]:
    """Return what tells how far a trial is above what is allowed."""
    most, drop = seek.bytes, seek.drop
    if most is not None:
        return lambda trial: float(len(dumps(to_artifact(freeze(trial)))) - most)
    beliefs = Beliefs.of(subject, task) if seek.measure == "expected" else None
    if beliefs is not None:
        expected = beliefs.own
        return lambda trial: expected - beliefs.accuracy(trial) - (drop or 0.0)
    before = evaluate(subject, task)
    return lambda trial: task.worse(before, evaluate(trial, task)) - (drop or 0.0)


def _why_none(seek: Seek, method: Method, task: Task, field: str, last: float) -> str:
    if seek.bytes is not None:
        return f"{method.tag}: even {field} {last:.3g} leaves a file of more than {seek.bytes:,} bytes"
    return f"{method.tag}: even {field} {last:.3g} costs more than {seek.drop:g} of {task.main}"
