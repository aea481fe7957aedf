"""Reshape: the same elements in another shape, and levels with a scale for each group of values."""

import numpy as np
import pytest

from gossamer.codings import Affine, Dense, Entropy, Reshape, decode, describe, dtype, encode, leaves, shape
from gossamer.errors import CodingError


def groups(codes: np.ndarray, scale: np.ndarray) -> Reshape:
    rows = Reshape(codes, (scale.size, codes.size // scale.size))
    return Reshape(Affine(rows, scale, np.zeros(scale.size, np.int32), 0), codes.shape)


def test_two_groups_of_two_in_each_row_by_hand():
    node = groups(np.array([[1, 2, -1, 3], [0, 4, 2, 2]], np.int8), np.float32([0.5, 2.0, 1.0, 0.25]))
    assert (shape(node), dtype(node)) == ((2, 4), "float32")
    assert decode(node).tolist() == [[0.5, 1.0, -2.0, 6.0], [0.0, 4.0, 0.5, 0.5]]


def test_the_elements_must_be_as_many():
    with pytest.raises(CodingError, match=r"Reshape: \(2, 4\) is not of as many elements as \(7,\)"):
        Reshape(np.zeros(7), (2, 4))


def test_what_is_decoded_is_the_callers_own():
    array = np.arange(6)
    decode(Reshape(Dense(array), (2, 3)))[:] = 0
    assert array.tolist() == list(range(6))


def test_the_search_keeps_groups_and_codes_them_as_the_matrix_they_are():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(64, 1)) * rng.normal(size=(1, 128)) * 3).round().clip(-7, 7).astype(np.int8)
    hint = groups(codes, rng.random(64 * 4, np.float32))
    found = encode(hint, structured=True)
    assert decode(found).tobytes() == decode(hint).tobytes()
    assert describe(found).startswith("reshape(affine(reshape(entropy")
    inner = next(leaf for leaf in leaves(found) if isinstance(leaf, Entropy))
    assert inner.shape == codes.shape
