"""Falling back: sites that cost more of the metric than is allowed are left as they were, most guilty first.

What a step's plan does to a site is judged by what the loss rises by when it alone is carried out, on calibration data
(the layer-wise sensitivity of Han, Pool, Tran and Dally, NIPS 2015, arXiv 1506.02626; as the order in which layers
return to floats: Wu et al., "Integer Quantization for Deep Learning Inference", 2020, arXiv 2004.09602, section 6).
Sites go back in that order, one at a time, until the validation data bear the rest, judged as a seeking judges
(`seek`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import Annotated, Literal

import msgspec
from rich.progress import Progress

from gossamer.bars import bar
from gossamer.calibrate import tried
from gossamer.errors import RecipeError
from gossamer.model import Evidence, Method, Plan, Skip, Subject, apply
from gossamer.model.used_grids import used_grids
from gossamer.recipe.evidence import Collector
from gossamer.recipe.seek import Seek, excess_over
from gossamer.settings import Settings
from gossamer.task import Task


class Fallback(Settings, frozen=True):
    """Leave out sites, most guilty first, until the step costs no more than ``drop``."""

    drop: Annotated[
        float,
        msgspec.Meta(
            ge=0.0,
            description="most that the step may make the main metric worse, in its units (0.005 is half a point)",
        ),
    ]
    measure: Annotated[
        Literal["expected", "counted"],
        msgspec.Meta(
            description="accuracy is what may be expected from what the model before believes, or counted; other "
            "metrics are as they are"
        ),
    ] = "expected"


def fallen_back(
    fallback: Fallback,
    method: Method,
    plan: Plan,
    subject: Subject,
    task: Task,
    *,
    collector: Collector,
    evidence: Evidence | None,
    carry: Callable[[Plan], Subject],
    progress: Progress | None = None,
) -> Plan:
    """Return ``plan`` without the sites that must go back for it to cost no more than ``fallback.drop``.

    A plan with edits or new values is made anew without them, for what it does elsewhere may depend on them.

    Args:
        fallback: what is allowed.
        method: made the plan.
        plan: for all sites.
        subject: what the plan is for; untouched.
        task: its main metric on its validation split counts.
        collector: gives calibration data, by which sites are put in order.
        evidence: what the method needs.
        carry: carries a plan out on ``subject``.
        progress: bars to add to.

    Raises:
        RecipeError: the plan costs too much by what it does to no site.
    """
    excess = excess_over(Seek(drop=fallback.drop, measure=fallback.measure), subject, task)
    if _will_do(excess(carry(plan))):
        return plan
    sites = tuple(name for name in dict.fromkeys((*plan.constraints, *plan.activations)) if name in subject.sites)
    measured = tried(*_alone(subject, plan, sites), collector.batches(), loss=task.loss, progress=progress)
    guilty = sorted(sites, key=measured.rise, reverse=True)
    with bar(progress, "falling back", len(guilty)) as advance:
        for count in range(1, len(guilty) + 1):
            left = _without(method, plan, guilty[:count], subject, evidence)
            if _will_do(excess(carry(left))):
                return _told(left, {site: measured.rise(site) for site in guilty[:count]}, fallback, task)
            advance()
    raise RecipeError(
        f"{method.tag}: costs more than {fallback.drop:g} of {task.main} even with no site left to fall back",
        hint="allow more",
    )


def _alone(subject: Subject, plan: Plan, sites: Sequence[str]) -> tuple[Subject, dict[str, Plan]]:
    """Return what ``plan`` does to each of ``sites`` alone, and to what it does it.

    With edits that is the model after all edits and new values: grids are made for that one.
    """
    alone = {site: plan.only(site) for site in sites}
    if not plan.edits:
        return subject, alone
    edited = apply(subject, replace(plan, constraints={}, activations={}))
    return edited, {site: replace(each, tensors={}) for site, each in alone.items()}


def _told(plan: Plan, rises: Mapping[str, float], fallback: Fallback, task: Task) -> Plan:
    """Return ``plan`` with the sites of ``rises`` listed among those that were skipped."""
    lost = f"more than {fallback.drop:g} of {task.main} would be lost with it"
    fell = (Skip(site, f"fell back: {lost}, alone it raises the loss by {rise:.2g}") for site, rise in rises.items())
    return replace(plan, skipped=(*(skip for skip in plan.skipped if skip.site not in rises), *fell))


def _will_do(over: float) -> bool:
    return over <= 0  # which NaN is not


def _without(method: Method, plan: Plan, sites: Sequence[str], subject: Subject, evidence: Evidence | None) -> Plan:
    """Return ``plan`` with ``sites`` left as they are."""
    if plan.edits or plan.tensors:
        excluded = (*method.exclude, *(escape(site) for site in sites))
        return msgspec.structs.replace(method, exclude=excluded).plan(subject, evidence)
    left = {name: grid for name, grid in plan.activations.items() if name not in sites}
    return replace(
        plan,
        constraints={site: parts for site, parts in plan.constraints.items() if site not in sites},
        activations=used_grids(subject, left),
    )
