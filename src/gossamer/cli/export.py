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

    The file must be self-contained. Weights in 8 bits stay so, multiplied as integers where the graph allows it. The
    graph that the runtime makes of it is read: a layer that it does not multiply in integers is listed.
    """
    writable(output, suffixes=[".onnx"], inputs=[file])
    from gossamer.artifact import load
    from gossamer.artifact.files import write_file
    from gossamer.targets import lower_artifact, not_integer

    artifact = load(file)
    with about(file):
        lowered = lower_artifact(artifact, quantized=not floats)
        missed = not_integer(lowered.proto, lowered.integer) if lowered.integer else []
    reasons = [*lowered.reasons, *missed]
    integer = [site for site in lowered.integer if site not in {reason.what for reason in missed}]
    data = lowered.proto.SerializeToString()
    write_file(output, [data])
    if as_json:
        print_json({"onnx": output, "bytes": len(data), "integer": integer, "float": [str(each) for each in reasons]})
        return
    console = stdout()
    console.print(f"{output}: {count_bytes(len(data))}", markup=False, soft_wrap=True)
    if integer:
        console.print(f"in integers: {', '.join(integer)}", markup=False, soft_wrap=True)
    for reason in reasons:
        console.print(f"in floats: {reason}", markup=False, soft_wrap=True)
