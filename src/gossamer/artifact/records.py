"""Typed records of what readers act on beside tensors: edits, input grids, what does not train (`SPEC.md` 3.5)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gossamer.errors import ArtifactError

Size = Annotated[int, Meta(ge=1, le=1 << 40)]
Place = Annotated[int, Meta(ge=0, le=1 << 40)]


class _Record(msgspec.Struct, frozen=True, tag_field="edit", forbid_unknown_fields=True):
    """Base: a map with exactly these fields."""


class SplitRecord(_Record, frozen=True, tag="split"):
    """A linear layer becomes two of a low rank."""

    module: str
    rank: Size


class FoldRecord(_Record, frozen=True, tag="fold"):
    """A re-parametrisation or a batch norm is dissolved."""

    kind: Literal["weight_norm", "parametrization", "batch_norm"]
    module: str
    attribute: str = "weight"
    norm: str = ""


class ResizeRecord(_Record, frozen=True, tag="resize"):
    """Tensors become smaller, and so do integers that code keeps of their sizes."""

    shapes: tuple[tuple[str, tuple[Size, ...]], ...]
    constants: tuple[tuple[str, str, int], ...] = ()


class DropRecord(_Record, frozen=True, tag="drop"):
    """A module is taken out, and its input goes on in place of its output."""

    module: str


class UnclipRecord(_Record, frozen=True, tag="unclip"):
    """A ReLU6 becomes a ReLU."""

    module: str


class GridRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The grid of what a site multiplies, or a module makes: ``(code - zero) * scale``."""

    scale: Annotated[float, Meta(ge=1e-38, le=3e38)]
    zero: int
    bits: Annotated[int, Meta(ge=1, le=16)]
    signed: bool


_EDITS = {"split": SplitRecord, "fold": FoldRecord, "resize": ResizeRecord, "drop": DropRecord, "unclip": UnclipRecord}


def check_records(
    edits: Sequence[Mapping[str, Any]],
    activations: Mapping[str, Mapping[str, Any]],
    meta: Mapping[str, Any],
    aliases: Mapping[str, str],
) -> None:
    """Refuse records of the wrong form; an edit of an unknown kind is left to who replays it.

    Raises:
        ArtifactError: names the record and what was wanted.
    """
    for number, edit in enumerate(edits):
        kind = edit.get("edit")
        if isinstance(kind, str) and kind in _EDITS:
            _convert(edit, _EDITS[kind], f"edits.{number}")
    for site, grid in activations.items():
        record = _convert(grid, GridRecord, f"activations.{site}")
        low = -(1 << (record.bits - 1)) if record.signed else 0
        if not low <= record.zero < low + (1 << record.bits):
            raise ArtifactError(f"zero is {record.zero}, which is no code of {record.bits} bits", f"activations.{site}")
    if "fixed" in meta:
        _convert(meta["fixed"], tuple[str, ...], "meta.fixed")
    if "safetensors" in meta:
        _convert(meta["safetensors"], dict[str, str], "meta.safetensors")
    for name in _convert(meta.get("copies", {}), dict[str, Place], "meta.copies"):
        if name not in aliases:
            raise ArtifactError(f"{name} is no alias", "meta.copies")


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"malformed: {error}", where) from None
