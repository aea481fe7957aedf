"""Patterns of zeros: which weights of a matrix may become zero together, whatever the criterion that ranks them.

``N:M`` keeps N of every M neighbours along the inputs (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021,
arXiv 2104.08378, has 2:4); ``RxC`` drops or keeps whole blocks of R outputs and C inputs (Narang, Undersander and
Diamos, "Block-Sparse Recurrent Neural Networks", 2017, arXiv 1711.02782). A pattern turns the scores of a matrix
(outputs, inputs) into the scores of its units, and the units that stay into the weights that stay.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import SettingError

Scores = NDArray[Any]
Keep = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Free:
    """Any weight may go: each is a unit."""

    most: float = 1.0

    def why_not(self, outputs: int, inputs: int) -> str | None:
        """Return None: every matrix can have this pattern."""
        del outputs, inputs
        return None

    def units(self, scores: Scores) -> Scores:
        """Return the scores of the units, one row per output."""
        return scores

    def expand(self, keep: Keep, scores: Scores) -> Keep:
        """Return which weights stay, given which units do."""
        del scores
        return keep


@dataclass(frozen=True, slots=True)
class Few:
    """``kept`` of every ``of`` neighbours along the inputs stay; the units are the others, the lowest of each group."""

    kept: int
    of: int

    @property
    def most(self) -> float:
        """The largest share of zeros there can be."""
        return 1 - self.kept / self.of

    def why_not(self, outputs: int, inputs: int) -> str | None:
        """Return why a matrix cannot have this pattern, or None if it can."""
        del outputs
        return None if inputs % self.of == 0 else f"its {inputs} inputs are no multiple of {self.of}"

    def units(self, scores: Scores) -> Scores:
        """Return the scores of the units, one row per output."""
        groups, lowest = self._lowest(scores)
        return np.take_along_axis(groups, lowest, -1).reshape(len(scores), -1)

    def expand(self, keep: Keep, scores: Scores) -> Keep:
        """Return which weights stay, given which units do; what scores zero goes."""
        groups, lowest = self._lowest(scores)
        stays = groups > 0
        np.put_along_axis(stays, lowest, keep.reshape(lowest.shape), -1)
        return stays.reshape(scores.shape)

    def _lowest(self, scores: Scores) -> tuple[Scores, NDArray[np.intp]]:
        groups = scores.reshape(len(scores), -1, self.of)
        order = np.argsort(groups, axis=-1, kind="stable")
        return groups, np.sort(order[..., : self.of - self.kept], axis=-1)


@dataclass(frozen=True, slots=True)
class Block:
    """Blocks of ``rows`` outputs and ``columns`` inputs stay or go whole; a block's score is its members' sum."""

    rows: int
    columns: int
    most: float = 1.0

    def why_not(self, outputs: int, inputs: int) -> str | None:
        """Return why a matrix cannot have this pattern, or None if it can."""
        if outputs % self.rows:
            return f"its {outputs} outputs are no multiple of {self.rows}"
        return None if inputs % self.columns == 0 else f"its {inputs} inputs are no multiple of {self.columns}"

    def units(self, scores: Scores) -> Scores:
        """Return the scores of the units, one row per row of blocks."""
        outputs, inputs = scores.shape
        blocks = scores.reshape(outputs // self.rows, self.rows, inputs // self.columns, self.columns)
        return np.asarray(blocks.sum((1, 3), dtype=np.float64))

    def expand(self, keep: Keep, scores: Scores) -> Keep:
        """Return which weights stay, given which units do."""
        del scores
        return keep.repeat(self.rows, 0).repeat(self.columns, 1)


Pattern = Free | Few | Block


def parse(text: str) -> Pattern:
    """Return the pattern that ``text`` says.

    Raises:
        SettingError: it says none.
    """
    if text == "unstructured":
        return Free()
    numbers = re.fullmatch(r"(\d+)([:x])(\d+)", text)
    if numbers is not None:
        first, second = int(numbers[1]), int(numbers[3])
        if numbers[2] == ":" and 1 <= first < second:
            return Few(first, second)
        if numbers[2] == "x" and first >= 1 <= second:
            return Block(first, second)
    raise SettingError(
        f"pattern: wanted unstructured, N:M with N below M, or RxC, got {text!r}",
        hint="2:4 keeps two of four neighbours along the inputs, 1x8 drops blocks of eight of them",
    )
