"""``gossamer pack``: any state dict to a small file, without its model, and without torch unless torch wrote it."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.options import Json
from gossamer.cli.output import count_bytes, print_json, progress, stdout, table
from gossamer.cli.places import writable
from gossamer.codec import Packed, PackedTensor
from gossamer.codec import pack as write


def pack(
    weights: Annotated[
        Path, typer.Argument(metavar="WEIGHTS", help="A state dict: .safetensors, or .pt (read without running code).")
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.goss", help="Where the file goes.")],
    step: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Round matrices to a grid of X standard deviations of each: 0.1 is fine, 1 coarse."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="Find the grids with which the file has that many bytes at most."),
    ] = None,
    exact: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Tensors that lose nothing, such as *.inv_freq.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a state dict, without loss unless told.

    With --step or --size, vectors and tensors of fewer than 1,024 elements keep the precision of float16, integers all
    theirs. Memory holds one tensor at a time. Undone by gossamer unpack.
    """
    writable(output, suffixes=[".goss"], inputs=[weights])
    with progress() as bars:
        packed = write(weights, output, step=step, size=size, exact=exact or (), progress=bars)
    if as_json:
        print_json(packed)
        return
    columns = ("tensor", "shape", "dtype", "kept", "bits/weight", "dense", "bytes", "coding")
    console = stdout()
    console.print(table(columns, _rows(packed), left=("coding",)))
    for name, stored in packed.aliases.items():
        console.print(f"{name} is the same tensor as {stored}", markup=False, soft_wrap=True)
    told = "without loss" if packed.step is None else f"step {packed.step:.4g}"
    size_told = f"{packed.bytes} bytes, 1/{packed.ratio:.2f} of {count_bytes(packed.dense_bytes)}"
    console.print(f"{output}: {size_told}, {told}", markup=False, soft_wrap=True)


def _rows(packed: Packed) -> Iterator[tuple[object, ...]]:
    for one in packed.tensors:
        bits = 8 * one.bytes / max(prod(one.shape), 1)
        shape = "x".join(map(str, one.shape))
        yield one.name, shape, one.dtype, _kept(one), f"{bits:.2f}", one.dense_bytes, one.bytes, one.coding
    yield "header", "", "", "", "", "", packed.header_bytes, ""
    yield "total", "", "", "", "", packed.dense_bytes, packed.bytes, ""


def _kept(one: PackedTensor) -> str:
    if one.step is not None:
        return f"step {one.step:.3g}"
    return "all" if one.significant_bits is None else f"{one.significant_bits} bits"
