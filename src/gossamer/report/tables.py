"""The report on a terminal, as ``rich`` tables. A star marks a figure that was computed; all others were measured."""

from rich.console import Console, Group, RenderableType
from rich.text import Text

from gossamer.figure import Figure
from gossamer.report.sentences import amount, sentences
from gossamer.report.sheet import Sheet
from gossamer.report.structs import Report, SiteState, State, effect


def show(report: Report, console: Console, *, sites: bool = True) -> None:
    """Print the report: steps, sites at the end against the start, test metrics, sentences."""
    console.print(render(report, sites=sites))


def render(report: Report, *, sites: bool = True) -> RenderableType:
    """Return the whole report as one renderable."""
    parts: list[RenderableType] = [steps_table(report), ""]
    if sites:
        parts += [sites_table(report), ""]
    if report.test_after:
        parts += [final_table(report), ""]
    parts.extend(Text(text) for text in sentences(report))
    parts.extend(Text(f"not seen by the graph: {text}") for text in report.unseen)
    parts.append(Text("* computed; every other figure was measured", style="dim"))
    return Group(*parts)


def steps_table(report: Report) -> Sheet:
    """Return one row per step: the state after it, and in brackets what the step changed."""
    columns = _columns(report.start)
    rows = [("start", *(_cell(figure) for figure in columns.values()))]
    for step in report.steps:
        now = _columns(step.after)
        change = effect(report.before(step), step.after)
        changes = {
            "file": change.bytes,
            "self-contained": change.self_contained,
            "parameters": change.parameters,
            "MACs": change.macs,
            "energy": change.energy,
            "latency": change.latency,
            "memory": change.memory,
            **change.metrics,
        }
        cells = [_cell(now.get(title), changes.get(title)) for title in columns]
        rows.append((f"{step.number} {step.name}", *cells))
    return Sheet(("step", *columns), tuple(rows), heading=f"{report.recipe} on {report.task}, validation split")


def sites_table(report: Report) -> Sheet:
    """Return one row per site: density, distinct values, bits per weight and bytes, start and end."""
    was = {site.site: site for site in report.start.sites}
    ends = [(was.pop(site.site, None), site) for site in report.end.sites]
    gone = [(site, None) for site in was.values()]
    rows = tuple(_site_row(before, after) for before, after in (*ends, *gone))
    titles = ("site", "shape", "density", "distinct values", "bits per weight", "bytes")
    return Sheet(titles, rows, ("shape",), "sites, before and after the run")


def _site_row(before: SiteState | None, after: SiteState | None) -> tuple[str, ...]:
    site = after or before
    return () if site is None else (site.site, "x".join(map(str, site.shape)), *_pair(before, after))


def final_table(report: Report) -> Sheet:
    """Return the metrics on the test split, looked at once, at the end."""
    rows = tuple((name, _cell(report.test_before.get(name)), _cell(after)) for name, after in report.test_after.items())
    return Sheet(("metric", "before", "after"), rows, heading="test split, taken once")


def _columns(state: State) -> dict[str, Figure]:
    found = {
        "file": state.weights_only,
        "self-contained": state.self_contained,
        **state.metrics,
        "parameters": state.parameters,
        "MACs": state.macs,
        "energy": state.energy,
        "latency": state.latency,
        "memory": state.memory,
    }
    return {title: figure for title, figure in found.items() if figure is not None}


def _cell(figure: Figure | None, change: Figure | None = None) -> str:
    if figure is None:
        return "-"
    star = "*" if figure.basis == "computed" else ""
    text = amount(figure) + star
    if change is None or change.value == 0:
        return text
    return f"{text} ({'+' if change.value > 0 else ''}{amount(change)})"


def _pair(before: SiteState | None, after: SiteState | None) -> list[str]:
    rows = []
    for name in ("density", "distinct", "bits", "bytes"):
        left = "-" if before is None else amount(getattr(before, name))
        right = "-" if after is None else amount(getattr(after, name))
        rows.append(left if left == right else f"{left} → {right}")
    return rows
