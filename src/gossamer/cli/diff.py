"""``gossamer diff``: how two files differ, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.artifact import Difference, TensorChange
from gossamer.artifact import diff as compare
from gossamer.cli.boundary import FAILED_CHECK
from gossamer.cli.options import Json
from gossamer.cli.output import count_bytes, print_json, stdout, table


def diff(
    a: Annotated[Path, typer.Argument(metavar="A.goss", help="The first file.")],
    b: Annotated[Path, typer.Argument(metavar="B.goss", help="The second file.")],
    *,
    as_json: Json = False,
) -> None:
    """Show how two files differ.

    Tensors, values, codings and bytes; exits with 1 if they differ, as Unix diff does.
    """
    found = compare(a, b)
    same = not (found.changed or found.only_a or found.only_b or found.parts)
    if as_json:
        print_json({"same": same, "difference": found})
    else:
        _show(found, a, b, same=same)
    if not same:
        raise typer.Exit(FAILED_CHECK)


def _show(found: Difference, a: Path, b: Path, *, same: bool) -> None:
    console = stdout()
    before, after = found.bytes
    console.print(f"{a}: {count_bytes(before)}; {b}: {count_bytes(after)} ({after - before:+d} bytes)", markup=False)
    if same:
        console.print("the two hold the same")
    for names, file in ((found.only_a, a), (found.only_b, b)):
        if names:
            console.print(f"only in {file}: {', '.join(names)}", markup=False)
    if found.changed:
        columns = ("tensor", "shape", "dtype", "coding", "bytes", "values changed", "largest change")
        console.print(table(columns, map(_row, found.changed), left=("coding",)))
    if found.changed and found.unchanged:
        console.print(f"{found.unchanged} other tensors are the same")
    if found.parts:
        console.print(f"different too: {', '.join(found.parts)}")


def _row(change: TensorChange) -> tuple[str, ...]:
    def pair(values: tuple[object, object]) -> str:
        left, right = values
        return str(left) if left == right else f"{left} → {right}"

    shapes = ("x".join(map(str, change.shape[0])), "x".join(map(str, change.shape[1])))
    counted = "-" if change.values_changed is None else str(change.values_changed)
    largest = "-" if change.largest_change is None else f"{change.largest_change:.3g}"
    columns = (pair(shapes), pair(change.dtype), pair(change.coding), pair(change.bytes))
    return (change.name, *columns, counted, largest)
