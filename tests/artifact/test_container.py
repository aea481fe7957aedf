"""The container keeps what it is given and refuses what it must; paragraph numbers are those of SPEC.md."""

import math
import re
import struct
import tracemalloc
import zlib
from importlib import resources
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest

from gossamer.artifact import Artifact, container, dumps, load, loads, problems, save
from gossamer.artifact.header import CODERS, MODELS, NAMES
from gossamer.artifact.layout import COST_PER_BYTE, FREE_COST, MAX_DEPTH, bound, tree_cost
from gossamer.coders.mixed import MOST_STEPS
from gossamer.codings import (
    Affine,
    Codebook,
    Dense,
    Hash,
    Packed,
    Paths,
    Runs,
    Sparse,
    decode,
    describe,
    encode,
    nbytes,
)
from gossamer.errors import ArtifactError

GOLDEN = Path(__file__).parent / "golden"
SPEC = (resources.files("gossamer.artifact") / "SPEC.md").read_text()


def spec(paragraph: str) -> str:
    """Return one paragraph of the specification."""
    found = re.search(rf"^{re.escape(paragraph)} (.*?)(?=^\d\.\d |^#|^$)", SPEC, re.MULTILINE | re.DOTALL)
    assert found, paragraph
    return " ".join(found[1].split())


def ramp(*dims: int) -> np.ndarray:
    return (np.arange(math.prod(dims), dtype=np.float32) / 7 - 3).reshape(dims)


def example() -> Artifact:
    """One model with a pruned and shared matrix, a bias, a scalar, a tie, an edit, a grid and a graph."""
    where = np.arange(12 * 20).reshape(12, 20) % 9 == 0
    codes = (np.arange(int(where.sum())) % 4).astype(np.uint8)
    return Artifact(
        tensors={
            "fc.weight": encode(Sparse(where, Codebook(codes, np.array([-1, -0.5, 0.5, 1], np.float32)))),
            "fc.bias": encode(ramp(12)),
            "half": Dense(np.arange(6, dtype=np.uint16).reshape(2, 3), "bfloat16"),
            "steps": encode(np.array(40)),
        },
        aliases={"head.weight": "fc.weight"},
        edits=[{"kind": "split", "module": "fc", "rank": 3}],
        activations={"fc.weight": {"scale": 0.25, "zero": 3, "bits": 8, "signed": False}},
        graph=b"node " * 40,
        meta={"task": "digits", "nested": {"list": [1, None, True, 0.5, "x"]}},
    )


def hashed() -> Artifact:
    """Hashed tensors: plain, masked, on a grid, in bfloat16, and one without elements."""
    table = np.array([-1.5, 0.25, 3.0, -0.0, 7.0], np.float32)
    grid = Affine(np.array([-127, 0, 5], np.int8), np.float32(0.5), np.int32(0))
    return Artifact(
        {
            "plain": Hash(table, 0, (6, 4, 3)),
            "masked": Hash(table, 1, (9, 8), np.arange(72).reshape(9, 8) % 3 == 0),
            "grid": Hash(grid, (1 << 32) - 1, (17,)),
            "half": Hash(Dense(np.array([0x3F80, 0xC040], np.uint16), "bfloat16"), 9, (5, 5)),
            "none": Hash(np.zeros(0, np.float32), 2, (0, 3)),
        }
    )


def assert_same(left: Artifact, right: Artifact) -> None:
    assert list(left.tensors) == list(right.tensors)
    for name in left.tensors:
        assert left.array(name).tobytes() == right.array(name).tobytes()
        assert describe(left.tensors[name]) == describe(right.tensors[name])
    assert (left.aliases, left.activations, left.meta) == (right.aliases, right.activations, right.meta)
    assert (list(left.edits), left.graph) == (list(right.edits), right.graph)


def remade(data: bytes, **changes: object) -> bytes:
    """Return the file with header fields replaced and the header sealed again."""
    header, start = container.read_header(data)
    raw = msgspec.msgpack.encode(msgspec.structs.replace(header, **changes))
    prefix = container.PREFIX.pack(b"GOSS", 1, 0, len(raw), 0)[:-4]
    return prefix + zlib.crc32(raw, zlib.crc32(prefix)).to_bytes(4, "little") + raw + data[start:]


def test_what_goes_in_comes_out(tmp_path):
    path = tmp_path / "model.goss"
    written = save(path, example())
    assert written == path.stat().st_size
    assert_same(load(path), example())
    assert loads(dumps(example())).array("head.weight").shape == (12, 20)
    assert problems(load(path)) == []


def test_weights_only_and_self_contained_differ_by_the_graph():
    whole, weights = len(dumps(example())), len(dumps(Artifact(example().tensors)))
    assert whole - weights < 300
    assert loads(dumps(Artifact(example().tensors))).graph is None


@pytest.mark.parametrize("graph", [b"", b"x", bytes(range(256)), b"ab" * 4000, np.random.default_rng(0).bytes(5000)])
def test_every_graph_survives(graph):
    assert loads(dumps(Artifact({}, graph=graph))).graph == graph


@pytest.mark.parametrize("name", ["example", "empty", "hashed"])
def test_golden_files(name):
    """Files of format version 1 stay readable."""
    data = (GOLDEN / f"{name}.goss").read_bytes()
    wanted = {"example": example(), "empty": Artifact({}), "hashed": hashed()}[name]
    assert_same(loads(data), wanted)
    assert len(dumps(wanted)) <= len(data) + 8  # deflate may differ by a few bytes between builds of zlib


def test_the_first_golden_file_by_hand():
    """1.2 and 3.1: prefix and a header of eight empty fields: arrays 0x90, maps 0x80, nil 0xc0."""
    header = bytes([0x98, 0x90, 0x90, 0x80, 0x90, 0x80, 0x80, 0xC0, 0x00])
    start = b"GOSS" + bytes([1, 0]) + struct.pack("<I", len(header))
    wanted = start + struct.pack("<I", zlib.crc32(start + header)) + header
    assert (GOLDEN / "empty.goss").read_bytes() == wanted


def test_overhead_of_lenet_300_100_is_under_400_bytes():
    rng = np.random.default_rng(0)
    tensors = {}
    for index, (outputs, inputs) in enumerate([(300, 784), (100, 300), (10, 100)], 1):
        where = rng.random((outputs, inputs)) < 0.08
        codes = rng.integers(0, 32, int(where.sum())).astype(np.uint8)
        hint = Sparse(where, Codebook(codes, np.sort(rng.normal(size=32).astype(np.float32))))
        tensors[f"fc{index}.weight"] = encode(hint, effort="fast")
        tensors[f"fc{index}.bias"] = encode(rng.normal(size=outputs).astype(np.float32))
    overhead = len(dumps(Artifact(tensors))) - sum(map(nbytes, tensors.values()))
    assert overhead < 200


def test_the_page_states_the_numbers_that_the_code_uses():
    assert f"`GOSS`; version, 1 byte ({container.VERSION})" in spec("1.2")
    assert f"The prefix is {container.PREFIX.size} bytes" in spec("1.2")
    assert f"at most {container.MAX_DATA_DEPTH} deep" in spec("3.3")
    assert f"nest at most {MAX_DEPTH} deep" in spec("5.1")
    assert container.MAX_ELEMENTS == 1 << 40
    assert "2^40 elements" in spec("5.1")
    assert f"{container.FREE_HEADER >> 10} KiB + {container.HEADER_PER_BYTE} bytes per byte of file" in spec("5.1")
    assert f"never beyond {container.MAX_HEADER >> 20} MiB" in spec("5.1")
    assert f"{FREE_COST >> 20} MiB + {COST_PER_BYTE >> 10} KiB per byte of file" in spec("5.2")
    assert f"at most {MOST_STEPS}" in spec("5.2")
    assert ", ".join(f"{number} {name}" for number, name in enumerate(MODELS)) in spec("4.3")
    assert [name.lower() for name in re.findall(r"\d (ANS|range)", spec("4.3"))] == list(CODERS)
    assert ", ".join(f"{number} {name}" for number, name in enumerate(NAMES)) in spec("4.2")
    assert len(SPEC.splitlines()) <= 77  # one page


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"PK\3\4", "byte 0: not a gossamer file"),
        (4, b"\2", "byte 4: format version 2 is unknown"),
        (5, b"\2", "byte 5: unknown flags"),
        (6, b"\xff\xff\0\0", "header: the header has 65535 bytes but the file ends"),
        (10, b"\0\0", "header: the checksum does not match"),
        (20, b"\0\0", "header: the checksum does not match"),
    ],
)
def test_1_2_a_reader_refuses_any_other_prefix(at, value, message):
    data = bytearray(dumps(example()))
    data[at : at + len(value)] = value
    with pytest.raises(ArtifactError, match=re.escape(message)):
        loads(bytes(data))


def test_2_1_every_byte_is_under_a_checksum():
    data = dumps(example())
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(ArtifactError):
            loads(bytes(broken))


@pytest.mark.parametrize("keep", [0, 3, 13, 14, 40, -1])
def test_a_cut_file_is_refused(keep):
    with pytest.raises(ArtifactError):
        loads(dumps(example())[:keep])


def test_1_1_no_byte_is_left_over():
    with pytest.raises(ArtifactError, match="end: the file goes on for 1 bytes"):
        loads(dumps(example()) + b"\0")


def tensor(shape: list[int], coding: list[object], name: str = "w") -> list[object]:
    return [name, shape, coding]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([tensor([1 << 40], [0, 0])], "tensor w: costs more to decode than a file of this length may"),
        ([tensor([1 << 41], [0, 0])], "header: malformed"),
        ([tensor([0, 1 << 39, 4], [0, 0])], "tensor w: shape .* is beyond"),
        ([tensor([1 << 30], [1, 0, 0, 0])], "tensor w: costs more"),
        ([tensor([1 << 22], [2, 5, 0, 2, 0, 0])], "tensor w: costs more"),
        ([tensor([4096, 1], [2, 5, 0, 2, 2, 0])], "tensor w: costs more"),
        ([tensor([4] * 33, [0, 0])], "header: malformed"),
        ([tensor([9], [0, 0])], "tensor w: needs 36 bytes of payload"),
        ([tensor([3], [0, 15])], "header: malformed"),
        ([tensor([3], [10, 0])], "header: malformed"),
        ([tensor([3], [15, 0])], "header: malformed"),
        ([tensor([3], [14, 0])], "header: malformed"),
        ([tensor([3], [14, [1, 5, 0, 0]])], "tensor w: Paths: indices must be integers of two dimensions"),
        ([tensor([3, 4], [14, [1, 0, 0, 0]])], "tensor w: Packed: dtype must be an integer"),
        ([tensor([2, 20000], [14, [1, 5, 0, 0]])], "tensor w: costs more"),
        ([tensor([3], [13, [1, 9, 0, 0]])], "header: malformed"),
        ([tensor([3, 4], [13, [1, 9, 0, 0], [5, 2]])], r"tensor w: shape \[5, 2\] inside one of \[3, 4\]"),
        ([tensor([0], [13, [1, 9, 0, 0], [0, 1 << 39, 4]])], "tensor w: shape .* inside"),
        ([tensor([3, 4], [12, [1, 9, 0, 0], 0])], "header: malformed"),
        ([tensor([3, 4], [12, [1, 9, 0, 0]])], "header: malformed"),
        ([tensor([3, 4], [12, [1, 9, 0, 0], 3])], "tensor w: Runs: .* is not rows of whole runs of 3"),
        ([tensor([4], [12, [1, 9, 0, 0], 1])], "tensor w: Runs: .* is not rows of whole runs of 1"),
        ([tensor([3, 0], [12, [1, 9, 0, 0], (1 << 32) - 1])], "tensor w: Runs: .* is not rows of whole runs"),
        ([tensor([3, 4], [12, [1, 0, 0, 0], 2])], "tensor w: Packed: dtype must be an integer"),
        ([tensor([1 << 12, 1 << 18], [12, [1, 9, 0, 0], 1 << 18])], "tensor w: costs more"),
        ([tensor([3], [11, 0, 0])], "header: malformed"),
        ([tensor([0], [10, [1, 5, 0, 0], [11, 0, 0]])], "header: malformed"),
        ([tensor([0], [10, [1, 5, 0, 0], [1, 6, 0, 0], 1])], "header: malformed"),
        ([tensor([0], [10, [1, 0, 0, 0], [1, 6, 0, 0]])], "tensor w: Packed: dtype must be an integer"),
        ([tensor([0], [10, [1, 5, 0, 0], [1, 8, 0, 0]])], "tensor w: Shift starts: dtype must be .* 32 bits"),
        ([tensor([], [10, [1, 5, 0, 0], [1, 6, 0, 0]])], "tensor w: Shift: wanted a start for each of"),
        ([tensor([0], [6, [1, 5, 0, 0], [11, 0, 0], 0])], "tensor w/centers: names centers 0, 0 are written before"),
        (
            [tensor([0], [6, [1, 5, 0, 0], [0, 0], 0]), tensor([0], [6, [1, 5, 0, 0], [11, 0, 0], 1], "v")],
            "tensor v/centers: names centers that are float32 .0,., wanted float32 .1,.",
        ),
        (
            [tensor([0], [6, [1, 5, 0, 0], [0, 0], 0]), tensor([0], [6, [1, 5, 0, 0], [11, 1, 0], 0], "v")],
            "tensor v/centers: names centers that are float32 .0,., wanted float16",
        ),
        (
            [tensor([0], [6, [1, 5, 0, 0], [0, 0], 0]), tensor([0], [6, [1, 5, 0, 0], [11, 0, 1], 0], "v")],
            "tensor v/centers: names centers 1, 1 are written before",
        ),
        ([tensor([3], [9, [0, 0], None, 1])], "header: malformed"),
        ([tensor([3], [9, [0, 0], None, 1, 1 << 32])], "header: malformed"),
        ([tensor([1 << 19], [9, [0, 0], None, 1, 0])], "tensor w: costs more"),
        ([tensor([3], [9, [0, 0], None, 0, 0])], "tensor w: Hash: .* needs at least one bucket"),
        ([tensor([3], [9, [1, 5, 0, 0], None, 1, 0])], "tensor w: Hash: buckets must be 1-d floats"),
        ([tensor([0], [9, [0, 0], [1, 5, 0, 0], 0, 0])], "tensor w: Hash: support must be bool"),
        ([tensor([3], [0, 0, 0])], "header: malformed"),
        ([tensor([3], [1, 5, 33, 0])], "header: malformed"),
        ([tensor([0], [1, 0, 1, 0])], "tensor w: Packed: dtype must be an integer"),
        ([tensor([0], [6, [0, 5], [0, 0], 0]), tensor([0], [0, 0])], "header: a tensor's name is used twice"),
        ([tensor([2], [5, [1, 5, 0, 0], [1, 5, 0, 0], [1, 5, 0, 0], 1, 0])], "tensor w: axis 1 is outside"),
        ([tensor([0], [7, [1, 4, 0, 0], [1, 5, 0, 0], 3])], "tensor w: Sparse: values must be 1-d, at most 0"),
        ([tensor([0], [4, [1, 5, 0, 0], 1])], "tensor w: Gaps"),
        ([tensor([2], [8, [[1, 9, 0, 0], [1, 9, 0, 0]], 0])], "tensor w: Planes: float32 has 4 bytes"),
    ],
)
def test_5_bounds_and_shapes_are_checked_before_anything_is_decoded(tensors, message):
    data = remade(dumps(Artifact({})), tensors=tensors, blobs=[[len(tensors), 0]])
    with (
        pytest.raises(ArtifactError, match=message),
        mock.patch("gossamer.codings.decode.view", side_effect=MemoryError),
    ):
        loads(data)


def test_5_1_codings_nest_eight_deep():
    coding: list[object] = [1, 9, 0, 0]
    for _ in range(8):
        coding = [3, coding]
    data = remade(dumps(Artifact({})), tensors=[tensor([0], coding)], blobs=[[1, 0]])
    with pytest.raises(ArtifactError, match="nested more than 8 deep"):
        loads(data)
    for _ in range(100_000):
        coding = [3, coding]
    raw = b"\x98\x91\x93\xa1w\x91\x00" + b"\x92\x03" * 100_000 + b"\x00"
    prefix = container.PREFIX.pack(b"GOSS", 1, 0, len(raw), 0)[:-4]
    with pytest.raises(ArtifactError, match="header: malformed"):
        loads(prefix + zlib.crc32(raw, zlib.crc32(prefix)).to_bytes(4, "little") + raw)


def test_5_1_a_header_cannot_inflate_without_end():
    raw = zlib.compress(bytes(50_000_000), 9, -15)
    prefix = container.PREFIX.pack(b"GOSS", 1, container.DEFLATED, len(raw), 0)[:-4]
    with pytest.raises(ArtifactError, match="deflate data does not end where it should, within"):
        loads(prefix + zlib.crc32(raw, zlib.crc32(prefix)).to_bytes(4, "little") + raw)


@pytest.mark.parametrize("codec", [1, 2])
def test_a_graph_cannot_inflate_without_end(codec):
    data = dumps(Artifact({}, graph=bytes(5000) + b"end"))
    header, _ = container.read_header(data)
    with pytest.raises(ArtifactError, match="graph: "):
        loads(remade(data, graph=msgspec.structs.replace(header.graph, length=40)))
    with pytest.raises(ArtifactError, match="graph: costs more"):
        loads(remade(data, graph=msgspec.structs.replace(header.graph, length=1 << 35)))
    with pytest.raises(ArtifactError, match="graph: "):
        loads(remade(data, graph=msgspec.structs.replace(header.graph, codec=3 - header.graph.codec)))


def test_5_2_padding_is_added_where_few_bytes_decode_to_many():
    empty = {f"t{k}": encode(np.zeros(1 << 20, np.float32)) for k in range(3)}
    data = dumps(Artifact(empty))
    header, _ = container.read_header(data)
    assert 0 < header.padding < 3 << 11
    assert sum(map(tree_cost, empty.values())) <= bound(len(data))
    assert not loads(data).array("t2").any()
    with pytest.raises(ArtifactError, match="padding: a byte of the padding is not zero"):
        loads(data[:-1] + b"\1")


def test_5_2_centers_in_common_cost_each_time_what_they_cost_once():
    """A file that names large centers from many small tensors is padded, or refused."""
    centers = Packed(np.zeros(0, np.uint8), 0, 7, (1 << 17,), "int32")
    tensors = {f"t{k}": Codebook(np.zeros(1, np.uint8), centers) for k in range(60)}
    data = dumps(Artifact(tensors))
    header, _ = container.read_header(data)
    assert header.padding > 0
    assert sum(map(tree_cost, tensors.values())) <= bound(len(data))
    assert loads(data).array("t59").tolist() == [7]
    with pytest.raises(ArtifactError, match="costs more to decode than a file of this length may"):
        loads(remade(data[: len(data) - header.padding], padding=0))


def test_5_1_centers_in_common_count_as_deep_as_they_are():
    centers = np.zeros(0, np.float32)
    for _ in range(6):
        centers = Sparse(np.zeros(0, np.bool_), centers)
    first = Codebook(np.zeros(0, np.uint8), centers)
    second = Sparse(
        np.zeros(0, np.bool_), Sparse(np.zeros(0, np.bool_), Codebook(np.zeros(0, np.uint8), first.centers))
    )
    with pytest.raises(ArtifactError, match="tensor b: codings are nested more than 8 deep"):
        dumps(Artifact({"a": first, "b": second}))
    with mock.patch.object(container, "check_tree"):
        data = dumps(Artifact({"a": first, "b": second}))
    with pytest.raises(ArtifactError, match=r"tensor b.*: codings are nested more than 8 deep"):
        loads(data)


def peak_of_decoding(node):
    tracemalloc.start()
    decode(node)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("size", [10, 4096, 100_000])
def test_5_3_a_hash_allocates_no_more_than_twice_its_cost(size):
    node = Hash(np.ones(3, np.float64), 0, (size,), np.ones(size, bool))
    assert "for hash nodes + 24 per element" in spec("5.2")
    assert peak_of_decoding(node) <= 2 * tree_cost(node)


@pytest.mark.parametrize("width", [1, 9, 4096])
def test_5_3_runs_allocate_no_more_than_twice_their_cost(width):
    node = Runs(np.ones((10, 2), np.int64), width, (10, 2 * width))
    assert peak_of_decoding(node) <= 2 * tree_cost(node)


@pytest.mark.parametrize("dims", [(2, 300), (300, 2), (40, 5, 3)])
def test_5_3_paths_allocate_no_more_than_twice_their_cost(dims):
    node = Paths(np.ones(dims, np.int64))
    assert "for paths + 16 KiB per 8 elements of a row" in spec("5.2")
    assert peak_of_decoding(node) <= 2 * tree_cost(node)


def test_5_4_a_reader_may_set_its_own_limit():
    data = dumps(Artifact({"w": encode(ramp(10, 10))}))
    assert loads(data, max_bytes=400).array("w").shape == (10, 10)
    with pytest.raises(ArtifactError, match="decodes to 400 bytes, more than the 399 allowed"):
        loads(data, max_bytes=399)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"meta": {"x": {1, 2}}}, "meta.x: only plain data can be stored, got set"),
        ({"meta": {1: 2}}, "meta: a key must be a string"),
        ({"meta": {"x": b"raw"}}, "got bytes"),
        ({"meta": {"x": 1 << 70}}, "must fit 64 bits"),
        ({"edits": [{"x": np.float32(1)}]}, "edits.x: only plain data can be stored, got float32"),
        ({"aliases": {"a": "nothing"}}, "aliases: alias a must be a new name of a stored tensor"),
        ({"aliases": {"w": "w"}}, "aliases: alias w must be a new name"),
    ],
)
def test_only_plain_data_and_true_aliases_are_stored(parts, message):
    with pytest.raises(ArtifactError, match=message):
        dumps(Artifact({"w": encode(ramp(3))}, **parts))


def test_plain_data_is_bounded_in_depth():
    deep: dict[str, object] = {}
    for _ in range(20):
        deep = {"x": deep}
    with pytest.raises(ArtifactError, match="nested more than 16 deep"):
        dumps(Artifact({}, meta=deep))


def test_a_tree_beyond_the_bounds_is_not_written():
    deep = np.zeros(0, np.float32)
    for _ in range(8):
        deep = Sparse(np.zeros(0, np.bool_), deep)
    with pytest.raises(ArtifactError, match="tensor w: codings are nested more than 8 deep"):
        dumps(Artifact({"w": deep}))
    with pytest.raises(ArtifactError, match="tensor w: a shape has at most 32 dimensions, got 33"):
        dumps(Artifact({"w": encode(np.zeros((1,) * 33, np.float32))}))


def test_a_header_that_deflates_too_well_is_stored_as_it_is():
    meta = {"log": "x" * 3_000_000}
    assert loads(dumps(Artifact({}, meta=meta))).meta == meta


def test_a_tree_whose_contents_do_not_fit_is_named_by_its_tensor():
    broken = Codebook(Packed(np.array([0b1111], np.uint8), 2, 0, (2,), "uint8"), np.zeros(2, np.float32))
    artifact = loads(dumps(Artifact({"w": broken, "b": encode(ramp(2))})))
    with pytest.raises(ArtifactError, match="tensor w: Codebook: a code is outside the 2 centers"):
        artifact.array("w")
    assert len(problems(artifact)) == 1
    with pytest.raises(ArtifactError, match="tensor nothing: there is no such tensor"):
        artifact.array("nothing")
