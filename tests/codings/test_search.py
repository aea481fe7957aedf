"""What `encode` chooses, what it refuses, and how little it may take."""

import numpy as np
import pytest

from gossamer.codings import (
    Affine,
    Bitmap,
    Codebook,
    Dense,
    Entropy,
    Gaps,
    Packed,
    Planes,
    Sparse,
    decode,
    dense_nbytes,
    describe,
    encode,
    leaves,
    nbytes,
    size,
)
from gossamer.errors import CodingError


def pruned(rows: int = 120, columns: int = 100, density: float = 0.1, seed: int = 0) -> Sparse:
    rng = np.random.default_rng(seed)
    where = rng.random((rows, columns)) < density
    codes = rng.integers(0, 16, int(where.sum())).astype(np.uint8)
    return Sparse(where, Codebook(codes, np.sort(rng.normal(size=16).astype(np.float32))))


def test_a_pruned_and_shared_matrix_comes_near_its_entropy():
    hint = pruned()
    share = np.mean(decode(hint.support))
    floor = (-hint.support.array.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))) / 8
    floor += size(hint.values) * 4 / 8
    assert nbytes(encode(hint)) < 1.04 * (floor + 64)
    assert nbytes(encode(decode(hint))) < 1.04 * (floor + 64)  # found without the hint as well


@pytest.mark.slow
def test_structure_in_rows_and_columns_pays():
    rng = np.random.default_rng(1)
    chances = np.outer(rng.choice([0.2, 1.0], 200), rng.choice([0.02, 0.4], 150))
    where = rng.random((200, 150)) < chances
    hint = Sparse(where, Codebook(rng.integers(0, 8, int(where.sum())), rng.normal(size=8).astype(np.float32)))
    fast, best = encode(hint, effort="fast"), encode(hint)
    assert nbytes(best) < 0.9 * nbytes(fast)
    assert "mixed" in describe(best)
    assert "mixed" not in describe(fast)


@pytest.mark.parametrize(
    ("array", "most"),
    [
        (np.zeros((100, 100), np.float32), 0),
        (np.full((50, 50), 3.5, np.float32), 4),
        (np.array(7), 0),
        (np.arange(1000) % 2, 125),
        (np.arange(256, dtype=np.uint8).repeat(4), 1024),
        (np.tile(np.float32([1.5, -2.0]), 400), 108),
        (np.ones(999, np.bool_), 0),
    ],
)
def test_plain_structure_is_found(array, most):
    tree = encode(array)
    assert nbytes(tree) <= most
    assert np.array_equal(decode(tree), array)


def test_floats_save_on_their_exponents():
    array = np.random.default_rng(2).normal(size=5000).astype(np.float32)
    tree = encode(array)
    assert isinstance(tree, Planes)
    assert nbytes(tree) < 0.9 * array.nbytes


def test_random_bytes_stay_dense():
    array = np.frombuffer(np.random.default_rng(3).bytes(4000), np.uint8)
    assert isinstance(encode(array), Dense | Packed)


def test_large_supports_take_the_form_that_decodes_fast():
    hint = pruned(1100, 1000, 0.05)
    tree = encode(hint)
    assert isinstance(tree, Sparse)
    assert isinstance(tree.support, Gaps)


def test_a_hint_may_be_wrong_about_what_is_small():
    array = np.random.default_rng(4).normal(size=(30, 30)).astype(np.float32)
    poor = Codebook(np.arange(900).reshape(30, 30), array.reshape(-1))
    assert nbytes(encode(poor)) <= nbytes(encode(array)) + 8


def test_levels_of_a_pruned_grid_use_their_zeros():
    rng = np.random.default_rng(5)
    codes = np.where(rng.random((80, 60)) < 0.9, 0, rng.integers(-7, 8, (80, 60))).astype(np.int8)
    hint = Affine(codes, np.full(80, 0.1, np.float32), np.zeros(80, np.int8), axis=0)
    assert nbytes(encode(hint)) < 80 * 60 / 8 * 1.1


def test_sizes_add_up():
    tree = encode(pruned())
    assert nbytes(tree) == sum(
        leaf.array.nbytes if isinstance(leaf, Dense) else leaf.data.size for leaf in leaves(tree)
    )
    assert dense_nbytes(tree) == 120 * 100 * 4
    assert describe(Sparse(np.ones(2, bool), Packed(np.zeros(0, np.uint8), 0, 3, (2,), "int8"))) == (
        "sparse(dense bool, packed 0b)"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dense(np.zeros(2, np.complex64)), "dtype complex64 is not one of"),
        (lambda: Dense(np.zeros(2, np.float32), "bfloat16"), "bfloat16 is stored as uint16"),
        (lambda: Packed(np.zeros(2, np.uint8), 3, 0, (9,), "int8"), "needs 4 bytes, got 2"),
        (lambda: Packed(np.zeros(2, np.uint8), 3, 0, (5,), "float32"), "must be an integer or bool"),
        (lambda: Packed(np.zeros(0, np.uint8), 33, 0, (0,), "int8"), "bits must be 0 to 32, got 33"),
        (lambda: Entropy(np.zeros(0, np.uint8), (1,), "int8", 0, 0), "alphabet must be at least 1"),
        (lambda: Bitmap(np.zeros(2, np.uint8), (3,)), r"needs uint8 \(1,\)"),
        (lambda: Gaps(np.zeros(4, np.int8), (3,)), "at most its size"),
        (lambda: Codebook(np.zeros(4, np.float32), np.zeros(4)), "Codebook codes: dtype must be an integer"),
        (lambda: Codebook(np.zeros(4, np.int8), np.zeros((2, 2))), "centers must be 1-d"),
        (lambda: Sparse(np.zeros(4, np.int8), np.zeros(1)), "support must be bool"),
        (lambda: Sparse(np.zeros(4, bool), np.zeros(5)), "at most 4"),
        (
            lambda: Affine(np.zeros((2, 2), np.int8), np.ones(3, np.float32), np.zeros(2), 0),
            r"scale must be float32 \(2,\)",
        ),
        (lambda: Affine(np.zeros(2, np.int8), np.ones(2, np.float32), np.zeros(2, np.int8), 1), "axis 1 is outside"),
        (lambda: Planes((np.zeros(2, np.uint8),), "float32"), "has 4 bytes, got 1 planes"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_once(build, message):
    with pytest.raises(CodingError, match=message):
        build()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Codebook(np.array([0, 2]), np.zeros(2, np.float32)), "a code is outside the 2 centers"),
        (Codebook(np.array([-1, 0]), np.zeros(2, np.float32)), "a code is outside the 2 centers"),
        (Sparse(np.ones(3, bool), np.zeros(2, np.float32)), "support has 3 elements but there are 2 values"),
        (Gaps(np.array([1, 1]), (3,)), "last position 3 is outside"),
        (Gaps(np.array([-1]), (3,)), "a gap lies outside"),
        (Packed(np.array([255], np.uint8), 8, 100, (1,), "int8"), "elements 100 to 355 do not fit int8"),
        (Packed(np.array([0], np.uint8), 1, -1, (1,), "bool"), "do not fit bool"),
    ],
)
def test_contents_that_do_not_fit_are_refused_on_decoding(tree, message):
    with pytest.raises(CodingError, match=message):
        decode(tree)


def test_structured_keeps_levels_that_another_tree_would_beat():
    codes = np.repeat(np.array([[-3], [5]], np.int8), 200, axis=1)
    hint = Affine(codes, np.array([0.1, 0.7], np.float32), np.zeros(2, np.int8), axis=0)
    kept, free = encode(hint, structured=True), encode(hint)
    assert isinstance(kept, Affine)
    assert nbytes(free) <= nbytes(kept)
    assert decode(kept).tobytes() == decode(free).tobytes() == decode(hint).tobytes()


def test_a_vector_of_multiples_of_a_power_of_two_is_written_as_integers():
    rng = np.random.default_rng(0)
    values = (np.rint(rng.normal(size=300) * 30) * 2.0**-9).astype(np.float32) + np.float32(0)
    tree = encode(values)
    assert isinstance(tree, Affine)
    assert nbytes(tree) < 300
    assert decode(tree).tobytes() == values.tobytes()


@pytest.mark.parametrize("odd", [-0.0, np.nan, np.inf, 1e-40, 3e38, 1 / 3])
def test_vectors_that_are_no_such_multiples_stay_exact(odd):
    values = (np.arange(40) * 2.0**-6).astype(np.float32)
    values[7] = odd
    assert decode(encode(values)).tobytes() == values.tobytes()
