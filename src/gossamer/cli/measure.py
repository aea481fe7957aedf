"""``gossamer measure``: time, memory, sizes, work and energy of one file or two, on ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.options import Data, Json
from gossamer.cli.output import print_json, stdout, table

if TYPE_CHECKING:
    from gossamer.figure import Figure
    from gossamer.targets import Measurement


def measure(
    files: Annotated[list[Path], typer.Argument(metavar="A.goss [B.goss]", help="One self-contained file, or two.")],
    *,
    data: Data = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one run.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each file gets.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure one file, or two against each other.

    Time and memory on ONNX Runtime in fresh processes that take turns, sizes, work and modelled energy, and measured
    energy of the sockets where the machine exposes a counter (RAPL); with data, also the metrics on the test split.
    """
    from gossamer.cli.session import inputs_of
    from gossamer.targets import OnnxRuntime, Timing

    names = _names(files)
    runtime = OnnxRuntime(threads=threads)
    inputs = inputs_of(runtime.model(files[0]), data, batch)
    found = runtime.measure({**names}, inputs, Timing(threads=threads, rounds=rounds))
    metrics = {name: _metrics(file, data, threads) for name, file in names.items()} if data is not None else {}
    if as_json:
        print_json({"batch": batch, "files": found, "metrics": metrics})
        return
    console = stdout()
    shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
    console.print(
        f"batch of {batch}, {threads} thread{'s'[: threads > 1]}, inputs{' made up' * (data is None)}: {shapes}"
    )
    console.print(table(("", *found), _rows(found, metrics)))
    for name, one in found.items():
        if one.unruled:
            console.print(f"{name}: not counted in the work: {', '.join(one.unruled)}", markup=False)
    console.print(next(iter(found.values())).processor, markup=False)
    console.print("* computed; every other figure was measured")


def _names(files: list[Path]) -> dict[str, Path]:
    if len(files) > 2:
        raise typer.BadParameter(f"one file or two, got {len(files)}")
    names = {str(file): file for file in files}
    if len(names) < len(files):
        raise typer.BadParameter("the two files are the same")
    return names


def _metrics(file: Path, data: str, threads: int) -> dict[str, float]:
    from gossamer.cli.session import callable_model
    from gossamer.cli.tasks import task_of
    from gossamer.task import evaluate

    return evaluate(callable_model(file, threads=threads), task_of(data), "test")


def _rows(found: "Mapping[str, Measurement]", metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    from gossamer.figure import computed
    from gossamer.report import amount

    def cell(figure: "Figure | None") -> str:
        return "-" if figure is None else amount(figure) + ("*" if figure.basis == "computed" else "")

    every = list(found.values())
    rows = [
        ("latency, median", *(cell(one.run.latency.median) for one in every)),
        ("latency, quartiles apart", *(cell(one.run.latency.spread) for one in every)),
        ("peak memory of the process", *(cell(one.run.memory.peak) for one in every)),
        ("  added by the model", *(cell(one.run.memory.added) for one in every)),
        ("file", *(cell(one.file) for one in every)),
        ("ONNX model", *(cell(one.onnx) for one in every)),
        ("multiply-accumulates", *(cell(computed(one.macs.value)) for one in every)),
        ("energy of one run", *(cell(one.energy.total) for one in every)),
    ]
    if any(one.run.energy is not None for one in every):
        rows.append(("energy of one run, whole sockets", *(cell(one.run.energy) for one in every)))
    shown = next(iter(metrics.values()), {})
    return rows + [(f"{name}, test split", *(f"{metrics[file][name]:.4f}" for file in found)) for name in shown]
