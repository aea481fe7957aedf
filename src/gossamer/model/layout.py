"""How part of a weight is a matrix: the map between a site's tensor and the matrix that multiplies its inputs.

Second moments belong to columns of a matrix, while a weight may be a convolution kernel, a slice of an attention
projection or a table of embeddings. A ``Layout`` names the part and the reading, and turns one into the other.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from torch import Tensor


class Reading(StrEnum):
    """Ways in which an operation multiplies a weight with its inputs."""

    ROWS = "rows"
    """output = W[start:stop] @ x (linear layers, recurrent layers, slices of attention projections)."""

    COLUMNS = "columns"
    """output = W[:, start:stop].T @ x (a weight written input-first)."""

    KERNEL = "kernel"
    """Convolution: W[start:stop].flatten(1) @ window, output channels start to stop being one group."""

    TRANSPOSED_KERNEL = "transposed_kernel"
    """Transposed convolution: W[start:stop].transpose(0, 1).flatten(1) @ window, input channels being one group."""

    TABLE = "table"
    """Embedding: W.T @ one_hot(token); the second moment is diagonal and holds the tokens' counts."""


@dataclass(frozen=True, order=True)
class Layout:
    """One part of a site read as a matrix of shape (outputs, inputs).

    Attributes:
        reading: how the operation uses the weight.
        start: first row (or column, by ``reading``) of the part.
        stop: one past the last.
    """

    reading: Reading
    start: int
    stop: int

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the part of ``weight`` as a matrix (outputs, inputs): output = matrix @ input."""
        match self.reading:
            case Reading.ROWS:
                return weight[self.start : self.stop]
            case Reading.COLUMNS:
                return weight[:, self.start : self.stop].T
            case Reading.KERNEL:
                return weight[self.start : self.stop].flatten(1)
            case Reading.TRANSPOSED_KERNEL:
                return weight[self.start : self.stop].transpose(0, 1).flatten(1)
            case Reading.TABLE:
                return weight.T
            case _:
                assert_never(self.reading)

    def put(self, weight: Tensor, matrix: Tensor) -> Tensor:
        """Return a copy of ``weight`` whose part is ``matrix`` (outputs, inputs): the inverse of ``matrix``."""
        out = weight.clone()
        match self.reading:
            case Reading.ROWS:
                out[self.start : self.stop] = matrix
            case Reading.COLUMNS:
                out[:, self.start : self.stop] = matrix.T
            case Reading.KERNEL:
                out[self.start : self.stop] = matrix.reshape(out[self.start : self.stop].shape)
            case Reading.TRANSPOSED_KERNEL:
                part = out[self.start : self.stop].transpose(0, 1)
                part.copy_(matrix.reshape(part.shape))
            case Reading.TABLE:
                out.copy_(matrix.T)
            case _:
                assert_never(self.reading)
        return out

    def inputs(self, shape: tuple[int, ...]) -> int:
        """Return the number of columns of the matrix for a weight of ``shape``."""
        match self.reading:
            case Reading.ROWS:
                return shape[1]
            case Reading.COLUMNS | Reading.TABLE:
                return shape[0]
            case Reading.KERNEL:
                return math.prod(shape[1:])
            case Reading.TRANSPOSED_KERNEL:
                return (self.stop - self.start) * math.prod(shape[2:])
            case _:
                assert_never(self.reading)
