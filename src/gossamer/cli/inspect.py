"""``gossamer inspect``: what is in a file, without torch."""

from rich.console import Group

from gossamer.artifact import inspect as look
from gossamer.cli.options import File, Json
from gossamer.cli.output import count_bytes, print_json, stdout, table


def inspect(file: File, *, as_json: Json = False) -> None:
    """Show what is in a file: every tensor, its coding, its bytes on disk."""
    summary = look(file)
    if as_json:
        print_json(summary)
        return
    tensors = table(
        None,
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
    )
    kind = "self-contained" if summary.self_contained else "weights only (needs the model's code)"
    facts = [
        f"{summary.path}: {count_bytes(summary.bytes)}, {kind}",
        f"  header {summary.header_bytes} + tensors {summary.tensor_bytes} + graph {summary.graph_bytes}"
        f" + padding {summary.padding_bytes} = {summary.bytes} bytes",
        f"  weights only {count_bytes(summary.weights_only_bytes)},"
        f" 1/{summary.ratio:.1f} of {count_bytes(summary.dense_bytes)} dense",
    ]
    facts += [f"  {name} is the same tensor as {stored}" for name, stored in summary.aliases.items()]
    facts += [f"  edit: {_words(edit)}" for edit in summary.edits]
    facts += [f"  input grid of {site}: {_words(grid)}" for site, grid in summary.activations.items()]
    facts += [f"  {key}: {value}" for key, value in summary.meta.items()]
    stdout().print(Group(*(fact.replace("[", "\\[") for fact in facts), tensors), soft_wrap=True)


def _words(mapping: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in dict(mapping).items())  # type: ignore[call-overload]
