"""Arrays to trees and back: the closed algebra of codings."""

from gossamer.codings.bits import same_bits
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
    Paths,
    Planes,
    Reshape,
    Runs,
    Shift,
    Sparse,
    dtype,
    shape,
    size,
)
from gossamer.codings.together import encode_all
from gossamer.codings.tree import dense_nbytes, describe, leaves, nbytes, new_slots, slots

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
    "Paths",
    "Planes",
    "Reshape",
    "Runs",
    "Shift",
    "Sparse",
    "decode",
    "dense_nbytes",
    "describe",
    "dtype",
    "encode",
    "encode_all",
    "leaves",
    "nbytes",
    "new_slots",
    "same_bits",
    "shape",
    "size",
    "slots",
]
