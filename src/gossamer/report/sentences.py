"""Plain sentences about a run: above all, which step gained nothing or made things worse."""

from collections import Counter
from collections.abc import Sequence

from gossamer.figure import Figure
from gossamer.report.structs import Agreed, Report, Skipped, State, StepReport, effect

SCALES = {
    "B": ((1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "J": ((1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
}

NOISE = 0.02
"""Latency changes below this share are not spoken of, however little the runs were spread."""


def sentences(report: Report) -> list[str]:
    """Return what a reader must know about the run, worst news first within each step."""
    said = [text for step in report.steps for text in step_sentences(report, step)]
    if report.end.refused:
        said.append(f"No self-contained file could be written: {report.end.refused}.")
    if report.end.floats:
        said.append(f"Inputs are in 8 bits but products are taken in floats at {_grouped(report.end.floats)}.")
    if report.end.agreed:
        said.append(_agreement(report.end.agreed))
    if report.end.uncompared:
        said.append(f"What the target reads was not compared with the simulation: {report.end.uncompared}.")
    uncounted = sorted({name for state in _states(report) for name in state.uncounted})
    if uncounted:
        said.append(f"The energy leaves out operators without a rule: {', '.join(uncounted)}.")
    if report.steps:
        said.append(summary(report))
    return said


def _agreement(agreed: Sequence[Agreed]) -> str:
    """Return how far the inputs of integer products are from those of the simulation, the worst of them by name."""
    far = sorted((one for one in agreed if one.steps.value > 1), key=lambda one: -one.steps.value)
    differing = max(one.differing.value for one in agreed)
    if not far:
        most = "the same codes as" if not differing else "within one step of"
        share = f" ({differing:.2%} of the values off at most)" if differing else ""
        where = f"all {len(agreed)} sites" if len(agreed) > 1 else agreed[0].site
        return f"On the target integer products read {most} the simulation at {where}{share}."
    named = ", ".join(f"{one.site} by {one.steps.value:.0f}" for one in far[:3])
    more = f" and {len(far) - 3} more" if len(far) > 3 else ""
    return f"On the target inputs differ from the simulation by more than one step at {named}{more}."


def _states(report: Report) -> tuple[State, ...]:
    return (report.start, *(step.after for step in report.steps))


def summary(report: Report) -> str:
    """Return the run in one sentence: bytes and ratio of the written file, main metric (on test when it was taken)."""
    name = report.metric
    if name in report.test_before and name in report.test_after:
        before, after, split = report.test_before[name], report.test_after[name], "test"
    else:
        before, after, split = report.start.metrics[name], report.end.metrics[name], "validation"
    alone = f"{amount(report.end.weights_only)}, {_times(report.ratio)}"
    whole = report.end.self_contained
    if report.ships == "self-contained" and whole is not None:
        size = f"{amount(whole)}, {_times(report.dense.value / whole.value)} (without its graph {alone})"
    else:
        size = alone
    return (
        f"{amount(report.dense)} of dense fp32 became a file of {size}; "
        f"{name} on {split} went from {amount(before)} to {amount(after)}."
    )


def step_sentences(report: Report, step: StepReport) -> list[str]:
    """Return the sentences for one step; empty if it gained and harmed nothing."""
    before = report.before(step)
    change = effect(before, step.after)
    who = f"step {step.number} ({step.name})"
    said = []
    if change.bytes.value == 0:
        said.append(f"{who} saved 0 bytes: {_why_nothing(report, step, before)}.")
    elif change.bytes.value > 0:
        grown = amount(Figure(change.bytes.value, "measured", "B"))
        said.append(f"{who} made the file {grown} larger: {_why_larger(before, step.after)}.")
    worse = report.worse(before, step.after)
    if worse > 0:
        name = report.metric
        said.append(
            f"{who} made {name} worse on validation: "
            f"{amount(before.metrics[name])} before, {amount(step.after.metrics[name])} after."
        )
    was, now = before.latency, step.after.latency
    if was is not None and now is not None and now.value - was.value > _noise(before, step.after):
        said.append(f"{who} made it slower: {amount(was)} before, {amount(now)} after.")
    if step.skipped:
        said.append(f"{who} left out {_grouped(step.skipped)}.")
    return said


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times smaller" if ratio >= 1 else f"{1 / ratio:.1f} times larger"


def _noise(before: State, after: State) -> float:
    """Return the change of latency that the spread of the runs explains, or a small share of it."""
    spreads = [float(state.spread.value) for state in (before, after) if state.spread is not None]
    return max(NOISE * float(before.latency.value) if before.latency is not None else 0.0, *spreads, 0.0)


def amount(figure: Figure) -> str:
    """Return a figure for people: ``37.9 kB``, ``91.6 %``, ``2.29 M``; units of bytes are powers of ten."""
    value = float(figure.value)
    if figure.unit in SCALES:
        return _scaled(value, SCALES[figure.unit])
    if figure.unit == "share":
        return f"{100 * value:.2f} %"
    if figure.unit:
        return f"{value:.4g} {figure.unit}"
    if value.is_integer() and abs(value) < 1e5:
        return f"{int(value)}"
    return _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))).rstrip()


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    size, unit = next(((size, unit) for size, unit in scales if abs(value) >= size), scales[-1])
    return f"{value / size:.4g} {unit}"


def _why_nothing(report: Report, step: StepReport, before: State) -> str:
    reasons = {
        f"it left out every site ({_grouped(step.skipped)})": not step.treated and bool(step.skipped),
        "what it asks for acts in the training of the steps after it": bool(step.lasting),
        "it treated no site and trained nothing": not step.treated and not step.trained,
        "it only trained, which by itself makes no value cheaper to store": not step.treated,
        "every site is stored exactly as before": before.sites == step.after.sites,
        "what it changed costs the same bytes, unless a later step makes use of it": step.number < len(report.steps),
    }
    return next((reason for reason, holds in reasons.items() if holds), "what it changed costs the same bytes to store")


def _why_larger(before: State, after: State) -> str:
    was = {site.site: site.bytes.value for site in before.sites}
    grown = [(site.bytes.value - was.get(site.site, 0), site) for site in after.sites]
    extra, worst = max(grown, key=lambda pair: pair[0], default=(0, None))
    if worst is None or extra <= 0:
        return "the parts outside the sites (biases, buffers, header) grew"
    if worst.site not in was:
        return f"it added {worst.site} ({amount(worst.bytes)})"
    return f"{worst.site} grew most, from {amount(Figure(was[worst.site], 'measured', 'B'))} to {amount(worst.bytes)}"


def _grouped(skips: Sequence[Skipped]) -> str:
    reasons = Counter(skip.reason for skip in skips)
    parts = []
    for reason, count in reasons.items():
        names = [skip.site for skip in skips if skip.reason == reason]
        shown = ", ".join(names[:3]) + (f" and {count - 3} more" if count > 3 else "")
        parts.append(f"{shown}: {reason}")
    return "; ".join(parts)
