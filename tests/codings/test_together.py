"""Codes counted row by row, and codebooks that several arrays have in common."""

import numpy as np
import pytest

from gossamer.artifact import Artifact, dumps, loads, stored_bytes
from gossamer.codings import Codebook, Dense, Shift, Sparse, decode, describe, encode, encode_all, nbytes
from gossamer.codings.rows import by_rows
from gossamer.errors import CodingError


def test_shift_by_hand():
    node = Shift(np.array([[0, 1], [2, 0]], np.uint8), np.array([5, -3], np.int16))
    assert decode(node).tolist() == [[5, 6], [-1, -3]]
    assert decode(node).dtype == np.int16
    assert describe(node) == "shift(dense uint8, dense int16)"
    assert decode(Shift(np.zeros((0, 3), np.uint8), np.zeros(0, np.int32))).shape == (0, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shift(np.zeros(3, np.float32), np.zeros(3, np.int8)), "values: dtype must be an integer"),
        (lambda: Shift(np.zeros(3, np.int8), np.zeros(3, np.int64)), "starts: dtype must be .* of at most 32 bits"),
        (lambda: Shift(np.zeros((3, 2), np.int8), np.zeros(2, np.int8)), "a start for each of"),
        (lambda: Shift(np.array(1, np.int8), np.zeros(0, np.int8)), "a start for each of"),
        (lambda: decode(Shift(np.array([100], np.uint8), np.array([100], np.int8))), "elements 200 to 200 do not fit"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(CodingError, match=message):
        make()


def rows_of_their_own(rows: int, columns: int, size: int, seed: int = 0) -> Codebook:
    """A codebook for every row: the same shape of values at another scale, the small ones frequent."""
    rng = np.random.default_rng(seed)
    codes = np.clip(np.round(rng.normal(size=(rows, columns)) * size / 8) + size // 2, 0, size - 1).astype(np.int64)
    centers = (np.arange(size) - size // 2) * (1 + rng.random((rows, 1)))
    starts = np.arange(rows) * size
    hint = Codebook(Shift(codes.astype(np.uint8), starts.astype(np.int32)), centers.reshape(-1).astype(np.float32))
    assert decode(hint).shape == (rows, columns)
    return hint


def test_codes_of_rows_cost_what_codes_of_one_codebook_cost():
    hint = rows_of_their_own(40, 500, 16)
    tree = encode(hint)
    assert isinstance(tree, Codebook)
    assert isinstance(tree.codes, Shift)
    assert np.array_equal(decode(tree), decode(hint))
    one = encode(Codebook(hint.codes.values, np.arange(16, dtype=np.float32)))
    assert nbytes(tree.codes) <= 1.02 * nbytes(one.codes) + 100
    loaded = loads(dumps(Artifact({"w": tree})))
    assert np.array_equal(loaded.array("w"), decode(hint))


@pytest.mark.parametrize("seed", range(5))
def test_rows_with_gaps_doubles_and_nothing_below_zero_decode_to_their_values(seed):
    rng = np.random.default_rng(seed)
    starts = np.array([0, 0, 5, 5, 9])
    centers = rng.integers(-2, 3, 12).astype(np.float32)
    every = np.stack([rng.integers(low, high, 30) for low, high in ((0, 5), (0, 3), (6, 9), (5, 9), (9, 12))])
    tree = by_rows(every, starts, centers, "float32", "best").build()
    assert np.array_equal(decode(tree), centers[every])


def family(sizes: tuple[int, ...], count: int = 200, *, share: float = 1.0) -> dict[str, Sparse | Codebook]:
    rng = np.random.default_rng(0)
    centers = Dense(rng.normal(size=count).astype(np.float32))
    hints: dict[str, Sparse | Codebook] = {}
    for index, size in enumerate(sizes):
        where = rng.random((size, 40)) < share
        codes = rng.integers(0, count, int(where.sum()) if share < 1 else (size, 40)).astype(np.uint8)
        hints[f"w{index}"] = Sparse(where, Codebook(codes, centers)) if share < 1 else Codebook(codes, centers)
    return hints


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_what_arrays_have_in_common_is_written_once(share):
    hints = family((30, 50, 20), share=share)
    trees = encode_all(hints)
    apart = {name: encode(hint) for name, hint in hints.items()}
    data = dumps(Artifact(trees))
    assert len(data) < len(dumps(Artifact(apart))) - 800  # two of three tables of 200 or 201 floats
    loaded = loads(data)
    for name, hint in hints.items():
        assert loaded.array(name).tobytes() == decode(hint).tobytes()
    assert stored_bytes(loaded.tensors) == stored_bytes(trees)
    assert dumps(loaded) == data


@pytest.mark.slow
def test_centers_that_do_not_pay_are_not_held_in_common():
    rng = np.random.default_rng(0)
    centers = Dense(rng.normal(size=256).astype(np.float32))
    hints = {  # each array uses two values of its own: one bit for each code, and a table of eight bytes
        name: Codebook((2 * index + rng.integers(0, 2, (200, 40))).astype(np.uint8), centers)
        for index, name in enumerate("abc")
    }
    hints["all"] = Codebook(np.arange(256).astype(np.uint8).repeat(2).reshape(16, 32), centers)
    trees = encode_all(hints)
    held = sum(stored_bytes(trees).values())
    assert held <= sum(nbytes(encode(hint)) for hint in hints.values())
    assert all(np.array_equal(decode(trees[name]), decode(hints[name])) for name in hints)
    assert trees["a"].centers is not trees["b"].centers


def test_structure_is_kept_where_it_must_be():
    hints = family((30, 50), share=0.3)
    trees = encode_all(hints, structured={"w0"})
    assert isinstance(trees["w0"], Sparse)
    assert all(np.array_equal(decode(trees[name]), decode(hints[name])) for name in hints)
