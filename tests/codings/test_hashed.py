"""Hashed arrays: the hash is XXH64 bit for bit, and decoding is what one position at a time gives."""

import numpy as np
import pytest
import xxhash

from gossamer.codings import DTYPES, Affine, Dense, Gaps, Hash, decode, describe, dtype, encode, leaves, nbytes, shape
from gossamer.codings.bits import same_bits
from gossamer.codings.hashed import places, xxh64
from gossamer.errors import CodingError

SHAPES = [(), (1,), (0,), (3, 0), (7,), (5, 9), (4, 3, 2, 2), (3, 4096), (9000,), (2, 5000)]

GOLDEN = {
    0: ["0x34c96acdcadb1bbb", "0x9f29cb17a2a49995", "0xca6084df268ea2a9", "0x85d136adb773c6c9"],
    7: ["0x8562a8ca30d1d8c7", "0x44cd4e74e2b14e48", "0xdc62e9551dbc7bb3", "0x78653e7f1b122749"],
}
DECODED = [[-2.0, 3.0, -2.0, 3.0], [3.0, 1.0, -2.0, 2.0], [-2.0, -3.0, 2.0, -3.0]]


def slow(node: Hash) -> np.ndarray:
    """Decode one position at a time, with the package's hash."""
    buckets = decode(node.buckets)
    bits = np.zeros(node.shape, f"<u{buckets.itemsize}")
    support = np.ones(node.shape, bool) if node.support is None else decode(node.support)
    width = int(np.prod(node.shape[1:]))
    for flat in range(bits.size):
        key = (flat // width).to_bytes(4, "little") + (flat % width).to_bytes(4, "little")
        x = xxhash.xxh64_intdigest(key, seed=node.seed)
        found = int(buckets.view(bits.dtype)[(x & 0xFFFFFFFF) % buckets.size])
        sign = (x >> 63) << (8 * buckets.itemsize - 1)
        bits.reshape(-1)[flat] = (found ^ sign) if support.reshape(-1)[flat] else 0
    return bits.view(buckets.dtype)


@pytest.mark.parametrize("seed", [0, 1, 0x9E3779B1, 0xFFFFFFFF])
def test_the_hash_is_that_of_the_package(seed):
    words = np.random.default_rng(seed).integers(0, 1 << 64, 300, dtype=np.uint64)
    wanted = [xxhash.xxh64_intdigest(int(word).to_bytes(8, "little"), seed=seed) for word in words]
    assert xxh64(words, seed).tolist() == wanted


def test_golden_vectors():
    """Files are read by these forever."""
    words = np.array([0, 1, 1 << 32, (1 << 64) - 1], np.uint64)
    assert [hex(x) for x in xxh64(words, 0).tolist()] == GOLDEN[0]
    assert [hex(x) for x in xxh64(words, 7).tolist()] == GOLDEN[7]
    node = Hash(np.array([1, 2, 3], np.float32), 5, (3, 4))
    assert decode(node).tolist() == DECODED


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn"])
@pytest.mark.parametrize("dims", SHAPES, ids=str)
def test_decoding_agrees_with_one_position_at_a_time(dims, name):
    rng = np.random.default_rng(1)
    stored = DTYPES[name]
    buckets = Dense(np.frombuffer(rng.bytes(11 * stored.itemsize), stored), name)
    node = Hash(buckets, 0xFFFFFFFF, dims)
    assert same_bits(decode(node), slow(node))
    assert (shape(node), dtype(node)) == (dims, name)
    masked = Hash(buckets, 3, dims, rng.random(dims) < 0.4)
    assert same_bits(decode(masked), slow(masked))


def test_a_dimension_beyond_32_bits_wraps_and_nothing_fails():
    some = next(places((1 << 33, 2), 0, 7))
    assert some.where == slice(0, 4096)
    assert int(some.buckets.max()) < 7


def test_buckets_and_signs_are_even():
    codes, flipped = (np.concatenate(part) for part in list(zip(*places((1000, 784), 0, 16), strict=True))[1:])
    counts = np.bincount(codes, minlength=16)
    assert np.abs(counts - 49_000).max() < 5 * 49_000**0.5
    assert abs(float(flipped.mean()) - 0.5) < 0.003
    joint = np.bincount(2 * codes.astype(np.int64) + flipped, minlength=32)
    assert np.abs(joint - 24_500).max() < 5 * 24_500**0.5
    other = np.concatenate([some.buckets for some in places((1000, 784), 1, 16)])
    assert abs(float((other == codes).mean()) - 1 / 16) < 0.002


@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_encoding_keeps_the_hash_and_every_bit(name, masked, effort):
    rng = np.random.default_rng(2)
    buckets = Dense(rng.normal(size=300).astype(np.float32).view(DTYPES[name])[:300], name)
    hint = Hash(buckets, 9, (60, 40), rng.random((60, 40)) < 0.2 if masked else None)
    tree = encode(hint, effort=effort)
    assert same_bits(decode(tree), decode(hint))
    if not masked:
        assert isinstance(tree, Hash)
        assert nbytes(tree) <= decode(buckets).nbytes


def test_buckets_on_a_grid_are_one_byte_each():
    codes = np.random.default_rng(3).integers(-127, 128, 500).astype(np.int8)
    hint = Hash(Affine(codes, np.float32(0.01), np.int32(0)), 4, (100, 80))
    tree = encode(hint, structured=True)
    assert isinstance(tree, Hash)
    assert isinstance(tree.buckets, Affine)
    assert same_bits(decode(tree), decode(hint))
    assert nbytes(tree) < 520
    assert len(list(leaves(tree))) == 3


def test_a_tree_in_one_line():
    node = Hash(np.ones(2, np.float32), 0, (2, 2), Gaps(np.array([1], np.uint8), (2, 2)))
    assert describe(node) == "hash(dense float32, gaps(dense uint8))"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Hash(np.ones(3, np.int8), 0, (4,)), "buckets must be 1-d floats, fewer than 2^32, got int8"),
        (lambda: Hash(np.ones((1, 3), np.float32), 0, (4,)), "buckets must be 1-d floats"),
        (lambda: Hash(np.ones(0, np.float32), 0, (4,)), r"\(4,\) needs at least one bucket, got none"),
        (lambda: Hash(np.ones(3, np.float32), -1, (4,)), "seed must be 0 to 2^32 - 1, got -1"),
        (lambda: Hash(np.ones(3, np.float32), 1 << 32, (4,)), "seed must be 0 to 2^32 - 1"),
        (lambda: Hash(np.ones(3, np.float32), 0, (4,), np.ones(3, bool)), r"support must be bool \(4,\), got bool"),
        (lambda: Hash(np.ones(3, np.float32), 0, (4,), np.ones(4, np.int8)), "support must be bool"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_once(build, message):
    with pytest.raises(CodingError, match=message.replace("^", r"\^")):
        build()
