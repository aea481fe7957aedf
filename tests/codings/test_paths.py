"""Paths: indices whose grid those before them choose."""

import tracemalloc

import numpy as np
import pytest

from gossamer.artifact import Artifact, dumps
from gossamer.codings import Affine, Paths, decode, describe, dtype, encode, shape
from gossamer.codings.paths import BEFORE, LARGEST, NEXT, follow, trace
from gossamer.errors import CodingError


def test_a_path_by_hand():
    # States 0, 2, 3, 3, 3, 1, 2: an odd index leads from 0 to 2, from 2 to 3, from 3 to 1 and from 1 to 0.
    indices = np.array([[1, 1, 0, 2, -1, -3, -2], [0, 0, 2, 0, 1, 0, 0]], np.int8)
    wanted = np.array([[2, 1, 0, 3, -1, -6, 0], [0, 0, 4, 0, 2, 0, 0]])
    indices[0, 6] = 0
    node = Paths(indices)
    assert decode(node).tolist() == wanted.tolist()
    assert (shape(node), dtype(node), describe(node)) == ((2, 7), "int32", "paths(dense int8)")
    assert trace(wanted).tolist() == indices.tolist()


def test_the_table_of_states_read_backwards():
    for state, ((one, even), (other, odd)) in enumerate(BEFORE):
        assert (even, odd) == (0, 1)
        assert NEXT[one][even] == NEXT[other][odd] == state


def test_paths_are_found_where_there_are_some():
    rng = np.random.default_rng(0)
    indices = rng.integers(-9, 10, (7, 3, 5, 2))
    np.testing.assert_array_equal(trace(follow(indices)), indices)
    for none in ([[1, 1, 1], [1, 1, 1]], [[2, 2]], [[]], [2, 0], [[1 << 40]]):
        assert trace(np.array(none, np.int64)) is None


def test_levels_on_paths_are_written_by_their_indices():
    rng = np.random.default_rng(1)
    numbers = follow(np.rint(rng.normal(size=(40, 60)) * 1.5).astype(np.int64))
    scale, zero = np.array(0.25, np.float32), np.array(0, np.int32)
    tree = encode(Affine(numbers.astype(np.int8), scale, zero), structured=True)
    assert isinstance(tree, Affine)
    assert isinstance(tree.codes, Paths)
    np.testing.assert_array_equal(decode(tree), numbers.astype(np.float32) / 4)
    numbers[0, 0] = 1
    assert not isinstance(encode(Affine(numbers.astype(np.int8), scale, zero), structured=True).codes, Paths)


def test_even_numbers_of_few_rows_are_not_filled_up_to_be_paths():
    scale, zero = np.array(0.25, np.float32), np.array(0, np.int32)
    for codes in (np.zeros((2, 100_000), np.int8), 2 * np.arange(-3, 3).repeat(9).reshape(1, 54).astype(np.int8)):
        tree = encode(Affine(codes, scale, zero), structured=True)
        assert not isinstance(tree.codes, Paths)
        assert len(dumps(Artifact({"w": tree}))) < 120


@pytest.mark.parametrize("kind", ["uint64", "int64"])
def test_numbers_too_large_for_paths_are_none(kind):
    limits = np.iinfo(kind)
    assert trace(np.array([[limits.max - 1, limits.min]], kind)) is None


def test_looking_for_paths_takes_no_memory_where_there_are_none():
    numbers = np.ones((1000, 1000), np.int8)
    tracemalloc.start()
    assert trace(numbers) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()


def test_ends():
    top = np.array([[LARGEST, -LARGEST]], np.int64)
    assert decode(Paths(top)).tolist() == [[2 * LARGEST, 1 - 2 * LARGEST]]
    assert decode(Paths(np.zeros((0, 3), np.int8))).shape == (0, 3)
    assert decode(Paths(np.zeros((3, 0), np.int8))).shape == (3, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Paths(np.zeros((2, 2), np.float32)), "wanted|must be integers"),
        (lambda: Paths(np.zeros(2, np.int8)), "of two dimensions or more"),
        (lambda: decode(Paths(np.array([[LARGEST + 1]]))), "an index is beyond"),
        (lambda: decode(Paths(np.array([[0, -LARGEST - 1]]))), "an index is beyond"),
        (lambda: decode(Paths(np.array([[1 << 63]], np.uint64))), "an index is beyond"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(CodingError, match=message):
        build()
