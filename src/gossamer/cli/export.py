"""``gossamer export``: the ONNX model of a self-contained file."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.options import File, Json
from gossamer.cli.output import count_bytes, print_json, stdout
from gossamer.cli.places import writable
from gossamer.errors import about


def export(
    file: File,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where the ONNX model goes.")],
    floats: Annotated[
        bool, typer.Option("--float", help="Plain floats: 8-bit weights are unfolded, for runtimes without integers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a file's ONNX model.

    The file must be self-contained. Weights in 8 bits stay so, multiplied as integers where the graph allows it.
    """
    writable(output, suffixes=[".onnx"], inputs=[file])
    from gossamer.artifact import load
    from gossamer.artifact.files import write_file
    from gossamer.targets import lower_artifact

    artifact = load(file)
    with about(file):
        lowered = lower_artifact(artifact, quantized=not floats)
    data = lowered.proto.SerializeToString()
    write_file(output, [data])
    if as_json:
        reasons = [str(reason) for reason in lowered.reasons]
        print_json({"onnx": output, "bytes": len(data), "integer": lowered.integer, "float": reasons})
        return
    console = stdout()
    console.print(f"{output}: {count_bytes(len(data))}", markup=False, soft_wrap=True)
    if lowered.integer:
        console.print(f"in integers: {', '.join(lowered.integer)}", markup=False, soft_wrap=True)
    for reason in lowered.reasons:
        console.print(f"in floats: {reason}", markup=False, soft_wrap=True)
