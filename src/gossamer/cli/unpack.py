"""``gossamer unpack``: a file's tensors as safetensors, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.options import Json
from gossamer.cli.output import count_bytes, print_json, progress, stdout
from gossamer.cli.places import writable
from gossamer.codec import unpack as write


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.goss", help="A file written by pack or compress.")],
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.safetensors", help="Where the state dict goes.")
    ],
    as_json: Json = False,
) -> None:
    """Write a file's tensors as a state dict.

    What was packed without loss is there again bit for bit. Memory holds one tensor at a time.
    """
    writable(output, suffixes=[".safetensors"], inputs=[file])
    with progress() as bars:
        unpacked = write(file, output, progress=bars)
    if as_json:
        print_json(unpacked)
        return
    console = stdout()
    if unpacked.edits:
        told = "the state dict is that of the model as it was cut, not of the class it was made from"
        console.print(f"{file}: {told}", markup=False, soft_wrap=True)
    size = count_bytes(unpacked.bytes)
    console.print(f"{output}: {unpacked.tensors} tensors, {size}", markup=False, soft_wrap=True)
