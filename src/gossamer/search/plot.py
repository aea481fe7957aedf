"""The picture of a scan: a line for each part, what is lost over the strength."""

from pathlib import Path

from gossamer.errors import RecipeError
from gossamer.search.scan import Scan


def plot(scanned: Scan, path: Path) -> None:
    """Draw ``scanned`` to ``path`` (.png, .svg or .pdf).

    Raises:
        RecipeError: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise RecipeError("a plot needs matplotlib", hint="pip install 'gossamer[plots]'") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name in scanned.names:
        points = sorted((e.strength, e.metric) for e in scanned.entries if e.name == name)
        axes.plot(
            [0.0, *(x for x, _ in points)], [scanned.start.metric, *(y for _, y in points)], marker=".", label=name
        )
    axes.set(xlabel="strength", ylabel=f"{scanned.metric} (validation)", title=f"sensitivity to {scanned.method}")
    axes.legend(fontsize="small", ncols=1 + len(scanned.names) // 20)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be drawn: {error}") from error
