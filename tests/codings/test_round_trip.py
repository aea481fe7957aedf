"""Any array of any dtype and shape survives encoding, bit for bit; so does any tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.codings import (
    DTYPES,
    Affine,
    Bitmap,
    Codebook,
    Dense,
    Gaps,
    Packed,
    Planes,
    Sparse,
    decode,
    dtype,
    encode,
    nbytes,
    shape,
)
from gossamer.codings.bits import bit_view, pack, same_bits, unpack
from gossamer.codings.nodes import FLOATS

SHAPES = [(), (0,), (1,), (0, 4), (3, 0, 2), (17,), (5, 7), (2, 3, 4), (40, 12), (301,)]
SPECIAL = {
    "float32": [0x00000000, 0x80000000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 1, 0x807FFFFF],
    "float64": [0, 1 << 63, 0x7FF8000000000000, 0xFFF0000000000001, 0x7FF0000000000000, 1, (1 << 63) | 5],
    "float16": [0, 0x8000, 0x7E00, 0x7C01, 0xFE12, 0x7C00, 0xFC00, 1, 0x83FF],
    "bfloat16": [0, 0x8000, 0x7FC0, 0x7F81, 0xFFD2, 0x7F80, 0xFF80, 1, 0x807F],
}


@st.composite
def arrays(draw):
    """Draw ``(array, dtype)``: random bits, few values, mostly zero, all equal, or the floats that are odd."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    dims = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = int(np.prod(dims))
    stored = DTYPES[name]
    if name == "bool":
        return (rng.random(dims) < draw(st.sampled_from([0, 0.03, 0.5, 1]))), name
    bits = np.frombuffer(rng.bytes(count * stored.itemsize), f"<u{stored.itemsize}").copy()
    kind = draw(st.sampled_from(["bits", "small", "few", "sparse", "equal", "special"]))
    if kind == "small" and name not in FLOATS:
        bits = rng.integers(0, 40, count).astype(bits.dtype)
    elif kind == "few" and count:
        bits = rng.choice(bits[:5], count)
    elif kind == "sparse":
        bits[rng.random(count) < 0.9] = 0
    elif kind == "equal" and count:
        bits[:] = bits[0]
    elif kind == "special" and name in SPECIAL:
        bits = rng.choice(np.array(SPECIAL[name], bits.dtype), count)
    return bits.view(stored).reshape(dims), name


@settings(max_examples=70, deadline=None)
@given(arrays(), st.sampled_from(["fast", "best"]))
def test_every_array_survives(given_array, effort):
    array, name = given_array
    tree = encode(Dense(array, name), effort=effort)
    assert same_bits(decode(tree), array)
    assert (shape(tree), dtype(tree)) == (array.shape, name)
    assert nbytes(tree) <= array.nbytes


@settings(max_examples=50, deadline=None)
@given(
    dims=st.sampled_from([(1,), (9,), (6, 8), (30, 20), (4, 3, 2, 2)]),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    centers=st.integers(1, 40),
    name=st.sampled_from(["float32", "float16", "bfloat16"]),
    odd=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_every_hint_survives(dims, density, centers, name, odd, seed):
    rng = np.random.default_rng(seed)
    where = rng.random(dims) < density
    stored = DTYPES[name]
    table = np.frombuffer(rng.bytes(centers * stored.itemsize), stored).copy()
    if odd:
        table[rng.random(centers) < 0.5] = 0  # zeros and doubles among the centers
    codes = rng.integers(0, centers, int(where.sum())).astype(np.uint8)
    hint = Sparse(where, Codebook(codes, Dense(table, name)))
    assert same_bits(decode(encode(hint)), decode(hint))
    full = Codebook(rng.integers(0, centers, dims), Dense(table, name))
    assert same_bits(decode(encode(full)), decode(full))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_affine_survives(axis, name):
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 5, 4)).astype(np.int8)
    along = () if axis is None else (codes.shape[axis],)
    hint = Affine(codes, rng.random(along).astype(np.float32), rng.integers(-3, 3, along), axis, name)
    tree = encode(hint)
    assert same_bits(decode(tree), decode(hint))
    assert nbytes(tree) < decode(hint).nbytes


@given(st.integers(0, 32), st.lists(st.integers(0, (1 << 32) - 1), max_size=40))
@settings(max_examples=60, deadline=None)
def test_packing_agrees_with_bits_written_one_by_one(width, values):
    fields = np.array(values, np.uint32) & np.uint32((1 << width) - 1)
    number = sum(int(field) << (index * width) for index, field in enumerate(fields))
    wanted = number.to_bytes((fields.size * width + 7) // 8, "little")
    assert pack(fields, width).tobytes() == wanted
    assert np.array_equal(unpack(np.frombuffer(wanted, np.uint8), width, fields.size), fields)


def test_packing_in_chunks():
    fields = np.random.default_rng(0).integers(0, 1 << 5, 200_001).astype(np.uint32)
    assert np.array_equal(unpack(pack(fields, 5), 5, fields.size), fields)


def test_nodes_by_hand():
    assert decode(Packed(np.array([0b10_01_00_11], np.uint8), 2, -1, (2, 2), "int8")).tolist() == [[2, -1], [0, 1]]
    assert decode(Bitmap(np.array([0b101], np.uint8), (1, 5))).tolist() == [[True, False, True, False, False]]
    assert decode(Gaps(np.array([1, 0, 2]), (7,))).tolist() == [False, True, True, False, False, True, False]
    book = Codebook(np.array([1, 0, 1]), np.array([0.5, -2.0], np.float32))
    assert decode(book).tolist() == [-2.0, 0.5, -2.0]
    spread = Sparse(np.array([[False, True], [True, True]]), book)
    assert decode(spread).tolist() == [[0.0, -2.0], [0.5, -2.0]]
    grid = Affine(np.array([[0, 4], [2, 3]]), np.array([0.5, 2.0], np.float32), np.array([1, 3]), axis=0)
    assert decode(grid).tolist() == [[-0.5, 1.5], [-2.0, 0.0]]
    low, high = np.array([0, 1], np.uint8), np.array([1, 2], np.uint8)
    assert decode(Planes((low, high), "uint16")).tolist() == [256, 513]


def test_bfloat16_rounds_to_nearest_even():
    codes = np.array([1, 3, 257, 259, 261], np.int16)
    grid = Affine(codes, np.float32(1), np.float32(0), None, "bfloat16")
    values = (decode(grid).astype(np.uint32) << 16).view(np.float32)
    assert values.tolist() == [1, 3, 256, 260, 260]  # 8 bits of precision; 257 and 259 are ties broken to even
    assert bit_view(np.float32(1)).shape == ()


def test_decoded_arrays_are_the_callers_own():
    array = np.ones(3, np.float32)
    decoded = decode(Dense(array))
    decoded[0] = 5
    assert array[0] == 1
