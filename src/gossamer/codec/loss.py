"""What packing may lose: nothing, or what a step or a size says.

With a step, matrices go to the nearest points of a grid. With a size, one Lagrange multiplier is sought for all tensors
(Shoham and Gersho 1988): there is no evidence of what weights do, so the distortion is the squared error over the
tensor's variance, weighted by n^(-1/2) for a tensor of n weights. That lies between counting all weights alike and all
tensors alike, and makes the step of a tensor proportional to its standard deviation and n^(1/4).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

from msgspec import Meta

from gossamer.codec.grid import PRECISION, bits_for, is_small, keep_bits, on_grid, spread
from gossamer.codec.source import Entry
from gossamer.codings import Coding, Dense
from gossamer.errors import PatternError, SettingError
from gossamer.settings import Settings

EVEN = 1 << 16
"""Weights of a tensor whose step is the same whether it was given or sought."""


class Kept(NamedTuple):
    """What is stored of a tensor, with the step of its grid or the significant bits that it keeps, if it loses any."""

    coding: Coding
    step: float | None = None
    bits: int | None = None


class Loss(Settings, frozen=True, kw_only=True):
    """What packing may lose; nothing unless a step or a size is given."""

    step: Annotated[
        Annotated[float, Meta(gt=0, le=16)] | None,
        Meta(description="grid of every matrix, in its own standard deviations; at most half of it is lost"),
    ] = None
    size: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="bytes of the file: the steps are sought that meet it")
    ] = None
    exact: Annotated[tuple[str, ...], Meta(description="patterns of names of tensors that lose nothing")] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None and self.size is not None:
            raise SettingError(
                "both a step and a size are given", hint="a size finds the steps itself: give one of them"
            )

    def check(self, names: Sequence[str]) -> None:
        """Refuse patterns that match nothing.

        Raises:
            PatternError: one matches none of ``names``.
        """
        for pattern in self.exact:
            if not any(fnmatchcase(name, pattern) for name in names):
                first = ", ".join(names[:8])
                raise PatternError(f"pattern {pattern!r} matches no tensor", hint=f"the first of them are: {first}")

    def spares(self, name: str) -> bool:
        """Tell whether a tensor loses nothing, whatever the step."""
        return any(fnmatchcase(name, pattern) for pattern in self.exact)

    def grids(self, entry: Entry) -> bool:
        """Tell whether a step is for this tensor."""
        return entry.dtype in PRECISION and not is_small(entry.shape) and not self.spares(entry.name)

    def of(self, name: str, dense: Dense, step: float | None) -> Kept:
        """Return what is stored of a tensor.

        Args:
            name: of the tensor.
            dense: its elements.
            step: in standard deviations; None loses nothing.
        """
        found = None if step is None or self.spares(name) else spread(dense)
        if step is None or found is None:
            return Kept(dense)
        wide = step * found.std
        if self.size is not None:
            wide *= (dense.array.size / EVEN) ** 0.25
        if is_small(dense.array.shape):
            bits = bits_for(wide, found)
            kept = keep_bits(dense, bits)
            return Kept(dense) if kept is None else Kept(kept, bits=bits)
        coded = on_grid(dense, wide, found)
        return Kept(dense) if coded is None else Kept(coded, wide)
