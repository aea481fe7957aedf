"""The report on a terminal, as ``rich`` tables. A star marks a figure that was computed; all others were measured."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gossamer.figure import Figure
from gossamer.report.sentences import amount, sentences
from gossamer.report.structs import Report, SiteState, State, effect


def show(report: Report, console: Console, *, sites: bool = True) -> None:
    """Print the report: steps, sites at the end against the start, test metrics, sentences."""
    console.print(render(report, sites=sites))


def render(report: Report, *, sites: bool = True) -> RenderableType:
    """Return the whole report as one renderable."""
    parts: list[RenderableType] = [steps_table(report)]
    if sites:
        parts.append(sites_table(report))
    if report.test_after:
        parts.append(final_table(report))
    parts.extend(Text(text) for text in sentences(report))
    parts.extend(Text(f"not seen by the graph: {text}") for text in report.unseen)
    parts.append(Text("* computed; every other figure was measured", style="dim"))
    return Group(*parts)


def steps_table(report: Report) -> Table:
    """Return one row per step: the state after it, and in brackets what the step changed."""
    table = Table(title=f"{report.recipe} on {report.task}, validation split")
    table.add_column("step")
    columns = _columns(report.start)
    for title in columns:
        table.add_column(title, justify="right")
    table.add_row("start", *(_cell(figure) for figure in columns.values()))
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
        table.add_row(f"{step.number} {step.name}", *cells)
    return table


def sites_table(report: Report) -> Table:
    """Return one row per site: density, distinct values, bits per weight and bytes, start and end."""
    table = Table(title="sites, before and after the run")
    table.add_column("site")
    table.add_column("shape")
    for title in ("density", "distinct values", "bits per weight", "bytes"):
        table.add_column(title, justify="right")
    was = {site.site: site for site in report.start.sites}
    for site in report.end.sites:
        table.add_row(site.site, "x".join(map(str, site.shape)), *_pair(was.pop(site.site, None), site))
    for name, site in was.items():
        table.add_row(name, "x".join(map(str, site.shape)), *_pair(site, None))
    return table


def final_table(report: Report) -> Table:
    """Return the metrics on the test split, looked at once, at the end."""
    table = Table(title="test split, taken once")
    table.add_column("metric")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, after in report.test_after.items():
        table.add_row(name, _cell(report.test_before.get(name)), _cell(after))
    return table


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
