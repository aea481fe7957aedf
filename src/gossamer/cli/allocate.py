"""``gossamer allocate``: from a scan and a budget to a recipe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.options import Data, Json, Weights
from gossamer.cli.places import writable
from gossamer.figure import Counted

if TYPE_CHECKING:
    from gossamer.search import Scan


def allocate(
    scanned: Annotated[Path, typer.Argument(metavar="SCAN.json", help="Written by gossamer scan.")],
    *,
    keep: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that is to be left.")] = 0.5,
    of: Annotated[Counted, typer.Option(help="What is counted.")] = "bytes",
    exact: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The scanned model: the budget is met by what is really left of it."),
    ] = None,
    data: Data = None,
    weights: Weights = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.toml", help="Where the recipe goes.")] = Path(
        "allocated.toml"
    ),
    as_json: Json = False,
) -> None:
    """Turn a budget into a strength for each layer or group, and write the recipe.

    Losses and savings that were measured one at a time are taken to add up. Savings of units that meet in one layer do
    not: with --exact the recipe is tried on the model, and the strengths are corrected until its result fits. Add a
    step that trains before using the recipe in earnest.
    """
    if exact is None and (data is not None or weights is not None):
        raise typer.BadParameter("--data and --weights belong to the model of --exact, which is not given")
    writable(output, suffixes=[".toml"], inputs=[scanned, exact, data, weights])
    from gossamer.cli.output import print_json, stdout, table
    from gossamer.search import load_scan, recipe_of, spread

    found = load_scan(scanned)
    left = _left(found, exact, data, weights, of)
    strengths = spread(found, keep, of, exact=left)
    recipe_of(found, strengths).save(output)
    really = None if left is None else left(strengths)
    if as_json:
        print_json({"strengths": strengths, "recipe": output, "left": really})
        return
    console = stdout()
    console.print(table((found.by, "strength"), ((name, strengths.get(name, 0.0)) for name in found.names)))
    if really is not None:
        console.print(f"tried on {exact}: {really:.1%} of the {of} are left", markup=False, soft_wrap=True)
    console.print(f"{output}: written", markup=False, soft_wrap=True)


def _left(
    found: "Scan", model: str | None, data: str | None, weights: Path | None, of: Counted
) -> Callable[[Mapping[str, float]], float] | None:
    if model is None:
        return None
    from gossamer.cli.models import model_of
    from gossamer.cli.tasks import task_for
    from gossamer.model import Subject
    from gossamer.search import really_left

    task = task_for(model, data)
    args, kwargs = task.example
    return really_left(found, Subject.of(model_of(model, weights), *args, **kwargs), task, of)
