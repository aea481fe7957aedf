"""Arrays to trees and back: the closed algebra of codings."""

from gossamer.codings.decode import decode
from gossamer.codings.encode import encode
from gossamer.codings.nodes import (
    DTYPES,
    Affine,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Hash,
    Packed,
    Planes,
    Shift,
    Sparse,
    dtype,
    shape,
    size,
)
from gossamer.codings.tree import dense_nbytes, describe, leaves, nbytes, slots

__all__ = [
    "DTYPES",
    "Affine",
    "Bitmap",
    "Codebook",
    "Coding",
    "Dense",
    "Entropy",
    "Gaps",
    "Hash",
    "Packed",
    "Planes",
    "Shift",
    "Sparse",
    "decode",
    "dense_nbytes",
    "describe",
    "dtype",
    "encode",
    "leaves",
    "nbytes",
    "shape",
    "size",
    "slots",
]
