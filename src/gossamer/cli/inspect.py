"""``gossamer inspect``: what is in a file, without torch."""

from collections.abc import Iterator, Mapping
from typing import Any

from gossamer.artifact import Summary
from gossamer.artifact import inspect as look
from gossamer.artifact.activations import beside_cell, module_of
from gossamer.cli.options import File, Json
from gossamer.cli.output import count_bytes, print_json, stdout, table


def inspect(file: File, *, as_json: Json = False) -> None:
    """Show what is in a file.

    Every tensor with its coding and its bytes on disk, and what the file holds beside them.
    """
    summary = look(file)
    if as_json:
        print_json(summary)
        return
    tensors = table(
        ("tensor", "shape", "dtype", "non-zero", "distinct", "bits/weight", "bytes", "coding"),
        (
            (
                one.name,
                "x".join(map(str, one.shape)),
                one.dtype,
                f"{one.density:.1%}",
                one.distinct,
                f"{one.bits_per_weight:.2f}",
                one.bytes,
                one.coding,
            )
            for one in summary.tensors
        ),
        left=("coding",),
    )
    console = stdout()
    for fact in _facts(summary):
        console.print(fact, markup=False, soft_wrap=True)
    console.print(tensors)


def _facts(summary: Summary) -> Iterator[str]:
    """Yield what is true of the file as a whole, line by line."""
    kind = "self-contained" if summary.self_contained else "weights only (needs the model's code)"
    dense = count_bytes(summary.dense_bytes)
    yield f"{summary.path}: {count_bytes(summary.bytes)}, {kind}, 1/{summary.file_ratio:.1f} of {dense} dense"
    parts = f"header {summary.header_bytes} + tensors {summary.tensor_bytes} + graph {summary.graph_bytes}"
    yield f"  {parts} + padding {summary.padding_bytes} = {summary.bytes} bytes"
    if summary.self_contained:
        yield f"  weights only {count_bytes(summary.weights_only_bytes)}, 1/{summary.ratio:.1f} of dense"
    for name, stored in summary.aliases.items():
        yield f"  {name} is the same tensor as {stored}"
    for edit in summary.edits:
        yield f"  edit: {_words(edit)}"
    for site, grid in summary.activations.items():
        what = "input grid" if module_of(site) is beside_cell(site) is None else "grid"
        yield f"  {what} of {site}: {_words(grid)}"
    for key, value in summary.meta.items():
        yield f"  {key}: {value}"


def _words(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in mapping.items())
