"""Golden files of format version 1, one for each kind of coding: written once, read bit by bit forever.

The arrays are made by whole-number arithmetic, the same on every machine and with every version of numpy.
``python tests/artifact/test_golden.py`` writes files of cases that have none, and touches no other.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gossamer import coders
from gossamer.artifact import Artifact, dumps, loads
from gossamer.artifact.header import CODERS, MODELS
from gossamer.codings import (
    DTYPES,
    Affine,
    Bitmap,
    Codebook,
    Coding,
    Dense,
    Entropy,
    Gaps,
    Packed,
    Paths,
    Planes,
    Reshape,
    Runs,
    Shift,
    Sparse,
    describe,
)
from gossamer.codings.bits import bit_view, pack

GOLDEN = Path(__file__).parent / "golden"
Case = Callable[[], dict[str, tuple[Coding, np.ndarray]]]
"""Each tensor's name, the tree it is stored as, and the array it must decode to."""


def draws(count: int, seed: int = 1) -> np.ndarray:
    """Numbers of 15 bits by a linear congruential generator."""
    state, values = seed, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % (1 << 31)
        values.append(state >> 16)
    return np.array(values)


def peaked(*shape: int, seed: int = 1) -> np.ndarray:
    """Whole numbers from -4 to 4, seven of ten 0, the columns of the left half emptier."""
    drawn = draws(int(np.prod(shape)), seed).reshape(shape)
    kept = (drawn % 10 >= 7) & ((np.arange(shape[-1]) >= shape[-1] // 2) | (drawn % 3 == 0))
    return np.where(kept, drawn // 10 % 9 - 4, 0).astype(np.int8)


def product(rows: int, columns: int) -> np.ndarray:
    """A matrix of rank two with noise, its rows of three scales: both means and levels are worth saying."""
    one, two, three, four = (
        draws(size, seed) % 9 - 4 for size, seed in ((rows, 2), (columns, 3), (rows, 4), (columns, 5))
    )
    noise = (draws(rows * columns, 6) % 11 + draws(rows * columns, 7) % 11 - 10).reshape(rows, columns)
    whole = 2 * np.outer(one, two) + np.outer(three, four) + noise
    return (whole * (1 + np.arange(rows) % 3)[:, None] // 4).astype(np.int8)


def dense() -> dict[str, tuple[Coding, np.ndarray]]:
    """Every dtype, NaN with a payload and negative zero among the floats, a scalar, an empty array."""
    made = {}
    for name, storage in DTYPES.items():
        raw = draws(24 * storage.itemsize, seed=len(name)).astype(np.uint8) & (1 if name == "bool" else 255)
        array = raw.view(storage).reshape(4, 6)
        made[name] = (Dense(array, name), array)
    odd = np.array([0x7FC00001, 0x80000000, 0x00000001, 0x7F800000], np.uint32).view(np.float32)
    made["odd"] = (Dense(odd), odd)
    for name, array in (("scalar", np.array(40)), ("empty", np.zeros((0, 3), np.float32))):
        made[name] = (Dense(array), array)
    return made


def packed() -> dict[str, tuple[Coding, np.ndarray]]:
    """Fields of 0, 1, 3, 8 and 17 bits."""
    made = {}
    for bits, name, low in ((0, "int64", -7), (1, "bool", 0), (3, "int8", -4), (8, "int16", -300), (17, "uint32", 9)):
        fields = (draws(35) * 5 & ((1 << bits) - 1)).astype(np.uint32)
        wanted = (fields.astype(np.int64) + low).astype(DTYPES[name]).reshape(5, 7)
        made[f"{bits} bits"] = (Packed(pack(fields, bits), bits, low, (5, 7), name), wanted)
    return made


def entropy(model: str, coder: str) -> dict[str, tuple[Coding, np.ndarray]]:
    """Matrices of small numbers, one of a single row of wider ones, and a convolution's shape."""
    made = {}
    arrays = {
        "matrix": peaked(40, 30),
        "row": (draws(900) % 61 * (draws(900, 5) % 61) - 700).astype(np.int16),
        "convolution": peaked(12, 5, 3, 3, seed=7),
    } | ({"product": product(60, 48)} if model in {"outlined", "blended"} else {})
    if model in {"outlined", "blended"}:
        del arrays["row"]  # of wider numbers than the one takes, and the other would pad the file
    for name, array in arrays.items():
        low, top = int(array.min()), int(array.max())
        data = coders.encode(array.astype(np.int64) - low, top - low + 1, model=model, coder=coder)
        tree = Entropy(np.frombuffer(data, np.uint8), array.shape, array.dtype.name, low, top - low + 1, model, coder)
        made[name] = (tree, array)
    return made


def bitmap() -> dict[str, tuple[Coding, np.ndarray]]:
    """A support whose last byte is not full, its bytes dense."""
    where = peaked(9, 11) != 0
    return {"support": (Bitmap(np.packbits(where, bitorder="little"), where.shape), where)}


def gaps() -> dict[str, tuple[Coding, np.ndarray]]:
    """Gaps packed, and a support without a true element."""
    where = peaked(9, 11) != 0
    found = np.diff(np.flatnonzero(where), prepend=-1) - 1
    fields = Packed(pack(found.astype(np.uint32), 6), 6, 0, found.shape, "uint8")
    none = np.zeros((3, 4), bool)
    return {"support": (Gaps(fields, where.shape), where), "none": (Gaps(np.zeros(0, np.uint8), (3, 4)), none)}


def affine() -> dict[str, tuple[Coding, np.ndarray]]:
    """One scale; a scale and a zero for each row; rounded to bfloat16 and float16. All results are exact in float32."""
    codes = peaked(6, 10)
    scale, zero = np.array(0.375, np.float32), np.array(-2, np.int8)
    scales = (1 + np.arange(6, dtype=np.float32)) / 8
    zeros = np.arange(6, dtype=np.float32) / 2
    rows = (codes.astype(np.float32) - zeros[:, None]) * scales[:, None]
    whole = (codes.astype(np.float32) + 2) * np.float32(0.375)
    bfloat16 = (whole.view(np.uint32) >> 16).astype(np.uint16)
    return {
        "one": (Affine(codes, scale, zero), whole),
        "rows": (Affine(codes, scales, zeros, 0), rows),
        "bfloat16": (Affine(codes, scale, zero, None, "bfloat16"), bfloat16),
        "float16": (Affine(codes, scale, zero, None, "float16"), whole.astype(np.float16)),
    }


def codebook() -> dict[str, tuple[Coding, np.ndarray]]:
    """Nine shared values, of float32 and of int16."""
    codes = (peaked(6, 10) + 4).astype(np.uint8)
    floats, whole = np.arange(9, dtype=np.float32) / 8 - 0.5, (np.arange(9) ** 3 - 300).astype(np.int16)
    return {"float32": (Codebook(codes, floats), floats[codes]), "int16": (Codebook(codes, whole), whole[codes])}


def sparse() -> dict[str, tuple[Coding, np.ndarray]]:
    """Deep Compression's composition: gaps and shared values; and a support by bitmap with dense values."""
    codes = peaked(9, 11)
    where = codes != 0
    centers = np.arange(9, dtype=np.float32) / 8 - 0.5
    inside = (codes[where] + 4).astype(np.uint8)
    found = (np.diff(np.flatnonzero(where), prepend=-1) - 1).astype(np.uint8)
    wanted = np.where(where, centers[codes + 4], np.float32(0))
    shared = Codebook(Packed(pack(inside, 4), 4, 0, inside.shape, "uint8"), centers)
    support = Bitmap(np.packbits(where, bitorder="little"), where.shape)
    return {
        "gaps and codebook": (Sparse(Gaps(found, where.shape), shared), wanted),
        "bitmap and dense": (Sparse(support, wanted[where]), wanted),
    }


def planes() -> dict[str, tuple[Coding, np.ndarray]]:
    """The bytes of float32 and of bfloat16 apart."""
    made = {}
    for name, numbers in (("float32", (draws(40) - 16000) / 4096), ("bfloat16", draws(40))):
        array = numbers.astype(DTYPES[name]).reshape(5, 8)
        columns = bit_view(array).reshape(-1, 1).view(np.uint8)
        parts = tuple(np.ascontiguousarray(columns[:, k]).reshape(5, 8) for k in range(array.dtype.itemsize))
        made[name] = (Planes(parts, name), array)
    return made


def shift() -> dict[str, tuple[Coding, np.ndarray]]:
    """Rows that begin elsewhere, below zero too; and shared values of which every second row has its own."""
    values, starts = (peaked(6, 10) + 4).astype(np.uint8), (np.arange(6) * 40 - 90).astype(np.int16)
    wanted = (values + starts[:, None]).astype(np.int16)
    centers, own = (np.arange(18, dtype=np.float32) - 9) / 8, np.array([0, 9, 0, 9, 0, 9], np.int16)
    shared = Codebook(Shift(values, own), centers)
    return {"integers": (Shift(values, starts), wanted), "shared": (shared, centers[values + own[:, None]])}


def runs() -> dict[str, tuple[Coding, np.ndarray]]:
    """Words of two and of nine elements; and codewords for the kernels of a convolution."""
    words = (peaked(6, 10) + 4).astype(np.uint8)
    wanted = (words[..., None].astype(np.uint32) * 2 + np.arange(2, dtype=np.uint32)).reshape(6, 20)
    kernels = (draws(15) % 5).astype(np.uint8).reshape(5, 3)
    centers = (draws(45) - 16000).astype(np.float32) / 4096
    packed = Packed(pack(kernels.reshape(-1), 3), 3, 0, kernels.shape, "uint8")
    shared = Codebook(Runs(packed, 9, (5, 3, 3, 3)), centers)
    return {
        "integers": (Runs(words, 2, (6, 20)), wanted),
        "kernels": (shared, centers.reshape(5, 9)[kernels].reshape(5, 3, 3, 3)),
    }


def reshape() -> dict[str, tuple[Coding, np.ndarray]]:
    """Levels with a scale for each four values of a row, and a vector from a matrix."""
    codes = peaked(5, 3, 2, 2)
    scale = ((draws(15) % 100 + 1) / 256).astype(np.float32)
    groups = Affine(Reshape(codes, (15, 4)), scale, np.zeros(15, np.int8), 0)
    wanted = codes.astype(np.float32) * scale.reshape(5, 3, 1, 1)
    return {
        "groups": (Reshape(groups, codes.shape), wanted),
        "vector": (Reshape(peaked(6, 10), (60,)), peaked(6, 10).ravel()),
    }


def paths() -> dict[str, tuple[Coding, np.ndarray]]:
    """Indices of a matrix and of a convolution, the second as levels."""
    made: dict[str, tuple[Coding, np.ndarray]] = {}
    for name, indices in (("matrix", peaked(6, 10)), ("levels", peaked(5, 3, 2, 2))):
        numbers = np.zeros(indices.shape, np.int32)
        for index, number in zip(indices.reshape(len(indices), -1), numbers.reshape(len(indices), -1), strict=True):
            state = 0
            for place, k in enumerate(index.tolist()):
                number[place] = 2 * k - (state > 1) * (k > 0) + (state > 1) * (k < 0)
                state = ((0, 2), (2, 0), (1, 3), (3, 1))[state][k % 2]
        made[name] = (Paths(indices), numbers)
    tree, numbers = made["levels"]
    scale, zero = np.array(0.375, np.float32), np.array(0, np.int8)
    return made | {"levels": (Affine(tree, scale, zero), numbers.astype(np.float32) * np.float32(0.375))}


def same() -> dict[str, tuple[Coding, np.ndarray]]:
    """Three tensors with one node of centers, the second sparse, and between them a codebook of its own."""
    centers, other = Dense(np.arange(9, dtype=np.float32) / 8 - 0.5), np.arange(5, dtype=np.float32) - 2
    made: dict[str, tuple[Coding, np.ndarray]] = {}
    for seed, name in enumerate(("first", "own", "sparse", "last")):
        codes = (peaked(6 + seed, 10, seed=seed) + 4).astype(np.uint8)
        made[name] = (Codebook(codes, centers), centers.array[codes])
    few = (draws(40) % 5).astype(np.uint8).reshape(5, 8)
    made["own"] = (Codebook(few, other), other[few])
    where = peaked(9, 11) != 0
    inside = (peaked(9, 11)[where] + 4).astype(np.uint8)
    values = np.zeros((9, 11), np.float32)
    values[where] = centers.array[inside]
    made["sparse"] = (Sparse(where, Codebook(inside, centers)), values)
    return made


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (dense, packed, bitmap, gaps, affine, codebook, sparse, planes, shift, runs, reshape, paths, same)
} | {
    f"entropy-{model}-{coder}": lambda model=model, coder=coder: entropy(model, coder)
    for model in MODELS
    for coder in CODERS
}


@pytest.mark.parametrize("case", CASES)
def test_a_golden_file_of_version_1_is_read_bit_by_bit(case):
    artifact = loads((GOLDEN / f"{case}.goss").read_bytes())
    wanted = CASES[case]()
    assert list(artifact.tensors) == list(wanted)
    for name, (tree, array) in wanted.items():
        read = artifact.array(name)
        assert describe(artifact.tensors[name]) == describe(tree)
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_today_is_read_the_same(case):
    """The trees of the golden files are still ones that can be written."""
    wanted = CASES[case]()
    artifact = loads(dumps(Artifact({name: tree for name, (tree, _) in wanted.items()})))
    for name, (_, array) in wanted.items():
        assert artifact.array(name).tobytes() == array.tobytes()


def test_every_golden_file_has_its_test():
    assert {path.stem for path in GOLDEN.glob("*.goss")} == {"empty", "example", "hashed", *CASES}


if __name__ == "__main__":
    for name, case in CASES.items():
        path = GOLDEN / f"{name}.goss"
        if not path.exists():
            path.write_bytes(dumps(Artifact({key: tree for key, (tree, _) in case().items()})))
            print(f"written: {path.name}, {path.stat().st_size} bytes")
