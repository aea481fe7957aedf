"""``gossamer run``: a file on ONNX Runtime, on a task's data or on arrays of one's own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer.cli.options import Data, File, Json
from gossamer.cli.output import print_json, stdout, table
from gossamer.cli.places import writable


def run(
    file: File,
    *,
    data: Data = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the validation split, not the test split.")
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option("--input", metavar="X.npy", help="Run on the array of a .npy or the arrays of a .npz."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="Y.npz", help="Write the outputs here, with --input.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Run a file on ONNX Runtime.

    The file must be self-contained. On data the metrics are shown, on arrays the outputs.
    """
    if (data is None) == (inputs is None):
        raise typer.BadParameter("give either --data or --input")
    if output is not None:
        if inputs is None:
            raise typer.BadParameter("--output is for the outputs of --input; on --data the metrics are shown")
        writable(output, suffixes=[".npz"], inputs=[file, inputs])
    if inputs is not None:
        _on_arrays(file, inputs, output, threads, as_json=as_json)
        return
    from gossamer.cli.session import callable_model
    from gossamer.cli.tasks import task_of
    from gossamer.task import evaluate

    task = task_of(str(data))
    split: Any = "validation" if validation else "test"
    figures = evaluate(callable_model(file, threads=threads), task, split)
    if as_json:
        print_json({"file": file, "task": task.name, "split": split, "metrics": figures})
    else:
        title = f"{file} on {task.name}, {split} split ({len(task.split(split))} samples), ONNX Runtime"
        stdout().print(title, markup=False, soft_wrap=True)
        stdout().print(table(("metric", "value"), ((name, f"{value:.4f}") for name, value in figures.items())))


def _on_arrays(file: Path, inputs: Path, output: Path | None, threads: int, *, as_json: bool) -> None:
    import numpy as np

    from gossamer.cli.session import read_inputs
    from gossamer.targets import OnnxRuntime

    outputs = OnnxRuntime(threads=threads).run(file, read_inputs(inputs))
    if output is not None:
        with output.open("wb") as stream:
            np.savez(stream, **outputs)  # type: ignore[arg-type]  # numpy's stub takes the names for its own option
    if as_json:
        print_json({name: value.tolist() for name, value in outputs.items()})
        return
    for name, value in outputs.items():
        stdout().print(f"{name}: {value.dtype} {value.shape}", markup=False)
        if output is None:
            stdout().print(str(value), markup=False)
