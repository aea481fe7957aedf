"""Allocation: how much to take from each part so that the whole meets a budget and loses least.

Each part has a few choices, each with a measured loss and a cost, and losses are taken to add up. Minimising the sum of
losses under a limit on the sum of costs is a multiple-choice knapsack; its Lagrangian relaxation (Everett, "Generalized
Lagrange Multiplier Method", Operations Research 11, 1963; Shoham and Gersho, "Efficient Bit Allocation", IEEE Trans.
ASSP 36, 1988) lets every part choose alone at one common price, and the price is bisected. What the relaxation leaves
of the budget is then spent greedily.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import RecipeError, SettingError
from gossamer.figure import Counted
from gossamer.model import Method, Subject
from gossamer.recipe import Recipe, Step
from gossamer.recipe.evidence import Collector
from gossamer.recipe.step import perform
from gossamer.search.scan import Entry, Scan, coded_bytes, literal, method_of, timed
from gossamer.settings import parse
from gossamer.targets import OnnxRuntime
from gossamer.task import Task

STEPS = 100
"""Halvings of the price; more than doubles can tell apart."""
ROUNDING = 1e-9
"""By how much a sum of costs may pass a budget that it was computed from."""
TRIES = 12
CLOSE = 0.01
"""Corrections of a budget that savings which do not add up have missed, until the share left is this close."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting of one part: its strength, the loss it adds, and what is left of the cost."""

    strength: float
    loss: float
    cost: float


def allocate(choices: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice]:
    """Return one choice for each part: the least sum of losses found whose costs sum up to ``budget`` at most.

    Args:
        choices: at least one for each part.
        budget: most that the costs may sum up to.

    Raises:
        RecipeError: even the cheapest choices cost more.
    """
    least = sum(min(choice.cost for choice in each) for each in choices.values())
    if least > budget + ROUNDING:
        raise RecipeError(
            f"the budget of {budget:.6g} cannot be met: the cheapest choices sum up to {least:.6g}",
            hint="scan higher strengths, or allow more",
        )
    budget = max(budget, least) + ROUNDING

    def at_price(price: float) -> dict[str, Choice]:
        return {
            name: min(each, key=lambda choice: (choice.loss + price * choice.cost, choice.cost))
            for name, each in choices.items()
        }

    low, high = 0.0, 1.0
    if _cost(at_price(low)) <= budget:
        return at_price(low)
    while _cost(at_price(high)) > budget:
        low, high = high, 2 * high
        if high > 1e300:
            return _spent(
                {name: min(each, key=lambda choice: choice.cost) for name, each in choices.items()}, choices, budget
            )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _cost(at_price(middle)) <= budget else (middle, high)
    return _spent(at_price(high), choices, budget)


def _cost(taken: Mapping[str, Choice]) -> float:
    return sum(choice.cost for choice in taken.values())


def _spent(taken: dict[str, Choice], choices: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice]:
    """Spend what is left of the budget where it saves most loss for its cost, until nothing fits."""
    while True:
        left = budget - _cost(taken)
        better = [
            ((taken[name].loss - choice.loss) / max(choice.cost - taken[name].cost, 1e-12), name, choice)
            for name, each in choices.items()
            for choice in each
            if choice.loss < taken[name].loss and choice.cost - taken[name].cost <= left
        ]
        if not better:
            return taken
        _, name, choice = max(better, key=lambda one: (one[0], one[1], one[2].strength))
        taken = {**taken, name: choice}


def spread(
    scanned: Scan, keep: float, of: Counted = "bytes", *, exact: Callable[[Mapping[str, float]], float] | None = None
) -> dict[str, float]:
    """Return the strength for each part so that about ``keep`` of the model's bytes, operations or time is left.

    Args:
        scanned: the scan.
        keep: share that is to be left, from 0 to 1.
        of: what is counted.
        exact: the share that is really left at given strengths, where savings do not add up (units that meet in one
            layer); the budget is then corrected until it fits.

    Raises:
        RecipeError: the scan has no measurement that is of use, did not measure ``of``, or ``keep`` cannot be reached.
    """
    if not 0 <= keep <= 1:
        raise RecipeError(f"keep: wanted a share from 0 to 1, got {keep}")
    choices = _choices(scanned, of)
    least = 1 + sum(min(choice.cost for choice in each) for each in choices.values())
    if exact is None and keep < least:
        raise RecipeError(
            f"{keep:.1%} of the {of} cannot be met: the strengths that were scanned leave {least:.1%} at the least",
            hint="keep more, or scan higher strengths",
        )
    if exact is None:
        return _strengths(choices, keep)
    return _corrected(choices, keep, exact)


def _choices(scanned: Scan, of: Counted) -> dict[str, list[Choice]]:
    """Return what each part can be given; a strength at which the loss was not finite is no choice."""
    whole = _amount(scanned.start, of) if of != "milliseconds" else 1.0
    start = scanned.start.loss
    choices: dict[str, list[Choice]] = {}
    for entry in scanned.entries:
        saved = _saved(scanned.start, entry, of) / whole
        each = choices.setdefault(entry.name, [Choice(0.0, 0.0, 0.0)])
        if math.isfinite(entry.loss - start):
            each.append(Choice(entry.strength, entry.loss - start, -saved))
    if all(len(each) == 1 for each in choices.values()):
        raise RecipeError("the scan has no loss that is finite", hint="look at the data and the model, and scan again")
    return choices


def _strengths(choices: Mapping[str, Sequence[Choice]], keep: float) -> dict[str, float]:
    taken = allocate(choices, keep - 1)
    return {name: choice.strength for name, choice in taken.items() if choice.strength}


def _corrected(
    choices: Mapping[str, Sequence[Choice]], keep: float, exact: Callable[[Mapping[str, float]], float]
) -> dict[str, float]:
    """Return the strengths of which most is really left within ``keep`` and :data:`CLOSE`.

    Raises:
        RecipeError: nothing tried was.
    """
    least = 1 + sum(min(choice.cost for choice in each) for each in choices.values())
    left: dict[tuple[tuple[str, float], ...], float] = {}
    wanted = keep
    for _ in range(TRIES):
        strengths = _strengths(choices, max(wanted, least))
        key = tuple(strengths.items())
        if key not in left:
            left[key] = exact(strengths)
        missed = keep - left[key]
        if abs(missed) <= CLOSE:
            return strengths
        wanted += 0.7 * missed
    within = [key for key, share in left.items() if share <= keep + CLOSE]
    if not within:
        raise RecipeError(
            f"the budget of {100 * keep:.1f}% cannot be met: {100 * min(left.values()):.1f}% were left at least",
            hint="scan higher strengths, or allow more",
        )
    closest = max(within, key=lambda key: left[key])
    return dict(closest)


def really_left(
    scanned: Scan, subject: Subject, task: Task, of: Counted = "bytes", *, seed: int = 0
) -> Callable[[Mapping[str, float]], float]:
    """Return a function from strengths to the share that is left when their recipe is carried out, without training.

    Args:
        scanned: of ``subject``.
        subject: untouched.
        task: calibration reads its train split.
        of: what is counted; time is measured on ONNX Runtime, in turns with the subject as it is.
        seed: of calibration samples.

    Raises:
        RecipeError: ``scanned`` is of another model.
    """
    _check_same(scanned, subject)
    collector = Collector(task, seed)

    def share(strengths: Mapping[str, float]) -> float:
        changed = subject
        for step in recipe_of(scanned, strengths).steps if strengths else ():
            changed = perform(step, changed, task, collector, folder=Path()).subject
        collector.forget()
        if of == "milliseconds":
            cut, whole = timed(changed, subject, OnnxRuntime())
            return cut / whole
        left = coded_bytes(changed) if of == "bytes" else changed.graph.macs
        return _known(left) / _amount(scanned.start, of)

    return share


def _check_same(scanned: Scan, subject: Subject) -> None:
    known = _known_parts(scanned, subject)
    strange = [name for name in scanned.names if name not in known]
    bytes_here = coded_bytes(subject)
    if not strange and scanned.start.bytes == bytes_here:
        return
    what = f"it has {scanned.start.bytes} bytes, this one {bytes_here}"
    if strange:
        what = f"no {scanned.by} of this one is called {', '.join(strange[:3])}"
    raise RecipeError(
        f"the scan is of another model: {what}", hint="give the model, and the weights, that were scanned"
    )


def _known_parts(scanned: Scan, subject: Subject) -> Collection[str]:
    match scanned.by:
        case "group":
            return [group.name for group in subject.groups]
        case "block":
            return dict(subject.model.named_modules(remove_duplicate=False))
        case _:
            return subject.sites


def recipe_of(scanned: Scan, strengths: Mapping[str, float], name: str = "allocated") -> Recipe:
    """Return a recipe that gives each part its strength: one step for each distinct one.

    Raises:
        RecipeError: no part has a strength; the scan's method or one of its settings is unknown here.
    """
    if not strengths:
        raise RecipeError("the budget takes nothing from any part, so there is no recipe", hint="keep less")
    kind = method_of(scanned)
    steps = []
    for strength in sorted(set(strengths.values())):
        parts = tuple(part for part, value in strengths.items() if value == strength)
        plain = {**scanned.settings, str(kind.strength): strength, kind.picks: [literal(part) for part in parts]}
        steps.append(Step(method=_method(kind, plain)))
    about = f"{scanned.method} at strengths allocated from a sensitivity scan"
    return Recipe(name=name, about=about, steps=tuple(steps))


def _method(kind: type[Method], plain: dict[str, object]) -> Method:
    try:
        return parse(kind, plain, "the scan's settings")
    except SettingError as error:
        raise RecipeError(error.message, hint=error.hint) from error


def _amount(entry: Entry, of: Counted) -> float:
    return _known(entry.bytes if of == "bytes" else entry.macs)


def _known(value: int | None) -> float:
    if value is None:
        raise RecipeError("the scan has no multiply-accumulates: the model's graph was not seen", hint="count bytes")
    return float(value)


def _saved(start: Entry, entry: Entry, of: Counted) -> float:
    """Return what an entry saves; milliseconds as a share of the whole model's in the same turns."""
    if of != "milliseconds":
        return _amount(start, of) - _amount(entry, of)
    if entry.milliseconds is None:
        raise RecipeError("the scan did not measure time", hint="scan with --latency")
    cut, whole = entry.milliseconds
    return 1 - cut / whole
