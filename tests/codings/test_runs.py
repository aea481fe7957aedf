"""Integers in runs: words that stand for subvectors, and codebooks of codewords."""

import tracemalloc

import numpy as np
import pytest

from gossamer.codings import DTYPES, Affine, Codebook, Dense, Runs, decode, describe, dtype, encode, nbytes, shape
from gossamer.codings.bits import same_bits
from gossamer.codings.values import in_order
from gossamer.errors import CodingError


def test_runs_by_hand():
    node = Runs(np.array([[2, 0], [1, 1]], np.uint8), 2, (2, 4))
    assert decode(node).tolist() == [[4, 5, 0, 1], [2, 3, 2, 3]]
    assert (shape(node), dtype(node), describe(node)) == ((2, 4), "uint32", "runs(dense uint8)")
    kernels = Runs(np.array([[1], [0]], np.int16), 4, (2, 1, 2, 2))
    assert decode(kernels).tolist() == [[[[4, 5], [6, 7]]], [[[0, 1], [2, 3]]]]
    assert decode(Runs(np.zeros((0, 3), np.uint8), 1, (0, 3))).shape == (0, 3)


def test_codewords_by_hand():
    table = np.array([1, 2, 3, -1, -2, -3], np.float32)
    node = Codebook(Runs(np.array([[1], [0]], np.uint8), 3, (2, 3)), table)
    assert decode(node).tolist() == [[-1, -2, -3], [1, 2, 3]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Runs(np.zeros((2, 2), np.float32), 2, (2, 4)), "words must be integers"),
        (lambda: Runs(np.zeros((2, 2), np.uint8), 3, (2, 4)), "is not rows of whole runs of 3"),
        (lambda: Runs(np.zeros((2, 2), np.uint8), 0, (2, 4)), "is not rows of whole runs of 0"),
        (lambda: Runs(np.zeros((2, 0), np.uint8), 1 << 31, (2, 0)), "is not rows of whole runs"),
        (lambda: Runs(np.zeros(2, np.uint8), 1, (2,)), "is not rows of whole runs of 1"),
        (lambda: Runs(np.zeros(4, np.uint8), 2, (2, 4)), r"needs \(2, 2\), got uint8 \(4,\)"),
        (lambda: decode(Runs(np.array([[-1]], np.int8), 2, (1, 2))), "wanted words from 0 to 2147483647, got -1"),
        (lambda: decode(Runs(np.array([[1 << 31]], np.uint32), 2, (1, 2))), "got 2147483648 to 2147483648"),
        (lambda: decode(Codebook(Runs(np.array([[2]], np.uint8), 2, (1, 2)), np.ones(4, np.float32))), "outside the 4"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(CodingError, match=message):
        build()


def test_no_words_of_a_billion_elements_take_no_memory():
    tracemalloc.start()
    assert decode(Runs(np.zeros((0, 1), np.uint32), 1 << 30, (0, 1 << 30))).shape == (0, 1 << 30)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_the_largest_word():
    assert decode(Runs(np.array([[(1 << 31) - 1]], np.uint32), 2, (1, 2))).tolist() == [[(1 << 32) - 2, (1 << 32) - 1]]


def test_in_order_drops_what_is_unused_or_double():
    table = np.array([[3, 3], [0, 0], [-1, 0], [3, 3], [9, 9]], np.float32)
    words, kept = in_order(np.array([[0, 3], [2, 1]]), table)
    assert kept.tolist() == [[-1, 0], [0, 0], [3, 3]]
    assert words.tolist() == [[2, 2], [0, 1]]


@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64"])
def test_encoding_keeps_words_and_every_bit(name, effort):
    rng = np.random.default_rng(4)
    stored = DTYPES[name]
    table = np.frombuffer(rng.bytes(20 * 9 * stored.itemsize), stored)
    words = rng.integers(0, 20, (16, 12)).astype(np.uint8)
    hint = Codebook(Runs(words, 9, (16, 12, 3, 3)), Dense(table, name))
    tree = encode(hint, effort=effort)
    assert same_bits(decode(tree), decode(hint))
    assert isinstance(tree.codes, Runs)
    assert nbytes(tree) <= table.nbytes + words.size * 5 / 8 + 16


def test_codewords_on_a_grid_are_one_byte_a_value():
    rng = np.random.default_rng(5)
    table = Affine(rng.integers(-127, 128, 64 * 4).astype(np.int8), np.float32(0.01), np.int32(0))
    hint = Codebook(Runs(rng.integers(0, 64, (40, 25)).astype(np.uint8), 4, (40, 100)), table)
    tree = encode(hint, structured=True)
    assert same_bits(decode(tree), decode(hint))
    assert isinstance(tree.centers, Affine)
    assert nbytes(tree) < 256 + 1000 * 6 / 8 + 20
