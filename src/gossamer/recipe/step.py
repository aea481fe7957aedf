"""One step of a recipe carried out on a subject: plan, apply, train under a schedule."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from gossamer.calibrate import reset_batch_norm
from gossamer.errors import RecipeError
from gossamer.model import (
    Codebook,
    Evidence,
    Mask,
    Method,
    Penalty,
    Plan,
    Ramped,
    Splice,
    Subject,
    apply,
    retarget,
    settle,
)
from gossamer.recipe.evidence import Collector
from gossamer.recipe.fallback import fallen_back
from gossamer.recipe.recipe import Step
from gossamer.recipe.rewind import rewound
from gossamer.recipe.seek import sought
from gossamer.task import Task
from gossamer.train import train


@dataclass(frozen=True)
class Done:
    """What a step made.

    Attributes:
        subject: the new subject.
        plan: what was applied; None for a step without a method.
        epochs: passes over the training data.
        lasting: penalties for the training of later steps.
        found: the strength that a step which seeks has found, as text.
    """

    subject: Subject
    plan: Plan | None
    epochs: int
    lasting: tuple[Penalty, ...]
    found: str = ""


def perform(
    step: Step,
    subject: Subject,
    task: Task,
    collector: Collector,
    *,
    folder: Path,
    earlier: Subject | None = None,
    progress: Progress | None = None,
) -> Done:
    """Carry out one step and return the new subject; the one given is untouched.

    A penalty of the step holds for its own training; if the step does not train, it holds for that of all later steps.

    Args:
        step: the step, its seeds set.
        subject: what the steps before made.
        task: data, loss and metrics.
        collector: gives the evidence the method needs.
        folder: for the checkpoint of the training.
        earlier: whose weights the training starts with, for a step that rewinds.
        progress: bars to add to.

    Raises:
        GossamerError: the method, the plan or the training fails.
    """
    evidence = None if step.method is None else collector.of(step.method, subject, progress)
    if evidence is not None:
        evidence = replace(evidence, progress=progress)
    found = ""
    if step.seek is not None and step.method is not None:
        method = sought(step.seek, step.method, subject, task, evidence, progress=progress)
        step = replace(step, method=method, seek=None)
        found = f"{method.strength} {getattr(method, str(method.strength)):.3g}"
    plan = _plan(step, subject, evidence)
    if step.fallback is not None and step.method is not None and plan is not None:
        carry = partial(carried_out, subject, collector)
        plan = fallen_back(
            step.fallback,
            step.method,
            plan,
            subject,
            task,
            collector=collector,
            evidence=evidence,
            carry=carry,
            progress=progress,
        )
    new = subject.copy() if plan is None else carried_out(subject, collector, plan)
    if plan is not None and (plan.constraints or plan.edits or plan.tensors or plan.activations):
        collector.forget()
    if step.train is None:
        settle(new)
        return Done(new, plan, 0, () if plan is None else plan.penalties, found)
    if earlier is not None:
        new = rewound(new, earlier)
    changes = _eased(step, subject, new, plan) or _ramp(step, new, evidence) or _revised(step, subject, new)
    settled = step.schedule.last if step.schedule is not None else None
    result = train(new, task, step.train, schedule=changes, settled=settled, folder=folder, progress=progress)
    concluded = None if step.method is None else step.method.conclusion(new)
    if concluded is not None:
        new = carried_out(new, collector, concluded)
    settle(new)
    collector.forget()
    return Done(replace(new, penalties=subject.penalties), plan, len(result.history), ())


def carried_out(subject: Subject, collector: Collector, plan: Plan) -> Subject:
    """Return ``subject`` with ``plan`` applied, and batch norms measured anew if it asks for that."""
    new = apply(subject, plan)
    return reset_batch_norm(new, collector.batches()) if plan.reset_norms else new


def lasting(step: Step, subject: Subject, collector: Collector) -> tuple[Penalty, ...]:
    """Return the penalties that a finished step left to later steps, planned again since they are not stored.

    Args:
        step: the finished step.
        subject: what that step began with.
        collector: gives the evidence the method needs.
    """
    if step.method is None or step.train is not None:
        return ()
    evidence = collector.of(step.method, subject)
    collector.forget()
    return step.method.plan(subject, evidence).penalties


def _plan(step: Step, subject: Subject, evidence: Evidence | None) -> Plan | None:
    """Return the plan of the method, at its first strength if a schedule ramps it."""
    if step.method is None:
        return None
    final = step.method.plan(subject, evidence)
    if step.schedule is None:
        return final
    if _is_ramped(final):
        return replace(final, penalties=_with_strength(final, step.schedule.initial))
    parts = [part for site in final.constraints for part in final.on(site)]
    others = (final.edits, final.tensors, final.penalties, final.activations)
    if any(others) or not all(isinstance(part, Mask | Splice | Codebook) for part in parts):
        raise RecipeError(
            f"{step.name}: a schedule can ramp masks, sharing and prices during training, "
            "and this method makes other changes",
            hint="leave out the schedule",
        )
    first = at(step.method, step.schedule.initial).plan(subject, evidence)
    # A mask on every site from the start: names in the state dict must not change while the step trains.
    everything = {
        site: replace(part, keep=torch.ones_like(part.keep))
        for site in final.constraints
        for part in final.on(site)
        if site not in first.constraints and isinstance(part, Mask | Splice)
    }
    return replace(first, constraints={**everything, **first.constraints})


def at(method: Method, strength: float) -> Method:
    """Return ``method`` with another strength."""
    return msgspec.structs.replace(method, **{str(method.ramped()): strength})


def _is_ramped(plan: Plan) -> bool:
    """Return whether what a schedule ramps of the plan is its penalties; its constraints are there from the start."""
    others = plan.edits or plan.tensors or plan.activations
    return bool(plan.penalties) and not others and all(isinstance(penalty, Ramped) for penalty in plan.penalties)


def _with_strength(plan: Plan, strength: float) -> tuple[Penalty, ...]:
    return tuple(penalty.at(strength) for penalty in plan.penalties if isinstance(penalty, Ramped))


def _eased(step: Step, start: Subject, subject: Subject, plan: Plan | None) -> Callable[[int, int], bool] | None:
    """Return what training calls before each optimizer step where a schedule ramps the penalties of ``plan``."""
    if step.method is None or step.schedule is None or plan is None or not _is_ramped(plan):
        return None
    schedule, before = step.schedule, subject.penalties[: -len(plan.penalties)]
    final = float(getattr(step.method, str(step.method.ramped())))
    revise = _revised(step, start, subject)

    def ease(number: int, total: int) -> bool:
        # Set at every step, for a training that goes on after a stop may begin at any.
        strength = schedule.strength(number, total, final)
        subject.penalties = (*before, *_with_strength(plan, strength))
        moved = revise is not None and revise(number, total)
        return moved or schedule.changes(number, total)

    return ease


def _ramp(step: Step, subject: Subject, evidence: Evidence | None) -> Callable[[int, int], bool] | None:
    """Return what training calls before each optimizer step: it tightens the masks when the schedule says so."""
    if step.method is None or step.schedule is None:
        return None
    method, schedule = step.method, step.schedule
    final = float(getattr(method, str(method.ramped())))

    def ramp(number: int, total: int) -> bool:
        new = schedule.changes(number, total)
        if not (new or (method.revisits and schedule.is_due(number, total))):
            return False
        strength = schedule.strength(number, total, final)
        retarget(subject, replace(at(method, strength).plan(subject, evidence), skipped=()))
        return new

    return ramp


def _revised(step: Step, before: Subject, subject: Subject) -> Callable[[int, int], bool] | None:
    """Return what training calls before each optimizer step where the method revises its own plan."""
    revise = None if step.method is None else step.method.revision(before)
    if revise is None:
        return None

    def change(number: int, total: int) -> bool:
        plan = revise(subject, number, total)
        if plan is None:
            return False
        retarget(subject, plan)
        return True

    return change
