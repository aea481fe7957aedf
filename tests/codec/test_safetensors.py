"""The safetensors format: what the library writes is read, what it refuses is refused, each with its reason."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from gossamer.codec.safetensors import NAMES, SafetensorsFile, head
from gossamer.codec.source import Entry
from gossamer.codings import DTYPES
from gossamer.errors import StateError


def file(header, payload=b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + payload


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_writes(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7), "none": np.zeros((0, 2), np.int8)}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors", metadata={"x": "y"})
    with SafetensorsFile(tmp_path / "w.safetensors") as opened:
        assert opened.metadata == {"x": "y"}
        assert {entry.name for entry in opened.entries} == set(arrays)
        for entry in opened.entries:
            read = opened.read(entry)
            assert (entry.dtype, entry.shape) == (arrays[entry.name].dtype.name, arrays[entry.name].shape)
            assert np.array_equal(read.array, arrays[entry.name])


def test_what_is_written_the_library_reads(tmp_path):
    entries = [Entry("é", "float32", (2, 3)), Entry("empty", "int64", (0,)), Entry("n", "int16", (1,))]
    start, places = head(entries, {"a": "b"})
    assert len(start) % 8 == 0
    assert [place - len(start) for place in places] == [0, 24, 24]
    raw = np.arange(6, dtype=np.float32).tobytes() + np.array([5], np.int16).tobytes()
    read = safetensors.numpy.load(start + raw)
    assert read["é"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (read["n"].tolist(), read["empty"].shape) == ([5], (0,))


def test_every_dtype_has_a_name():
    assert sorted(NAMES.values()) == sorted(DTYPES)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"abc", "it has 3 bytes"),
        (b"PK\x03\x04" + bytes(40), "hint: it is a zip archive, as torch.save writes"),
        (b"\x80\x02}q\x00(X\x0b\x00\x00\x00", "begins like a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (b"GOSS" + bytes(40), "gossamer unpack turns it into safetensors"),
        (b"<!DOCTYPE html><html>", "begins like a web page"),
        (file({"w": one()}, bytes(8))[:20], "it has a header of"),
        (file({"w": one()}, bytes(7)), "is cut off: it speaks of 8 bytes of tensors, 7 are there"),
        (file({"w": one()}, bytes(9)), "it goes on for 1 bytes after its last tensor"),
        (file(b"{nonsense}"), "its header is malformed"),
        (file(b"[1, 2]"), "its header is malformed"),
        (file(b'{"w": 3}'), "its header is malformed: w: Expected `object`"),
        (file(b"\xff\xfe{}"), "its header is malformed"),
        (file(b"[" * 100_000), "its header is malformed"),
        (file(b'{"w":' + json.dumps(one()).encode() + b',"w":' + json.dumps(one()).encode() + b"}"), "used twice"),
        (file({"w": one("C64")}, bytes(8)), "tensor w has dtype C64, which cannot be stored"),
        (file({"w": one(shape=(3,))}, bytes(8)), "tensor w: wanted bytes 0 to 12, got 0 to 8"),
        (file({"w": one(shape=(1,) * 40, offsets=(0, 4))}, bytes(4)), "w: a shape has at most 32 dimensions"),
        (file({"w": one(shape=(0, 1 << 48, 1 << 48), offsets=(0, 0))}), "1099511627776 elements"),
        (file({"w": one(shape=(-1,))}, bytes(8)), "its header is malformed: w: Expected `int` >= 0"),
        (file({"v": one(), "w": one(offsets=(4, 12))}, bytes(12)), "tensor w: wanted bytes 8 to 16, got 4 to 12"),
        (file({"v": one(), "w": one(offsets=(9, 17))}, bytes(17)), "tensor w: wanted bytes 8 to 16, got 9 to 17"),
        (file({"w": one(), "__metadata__": {"x": 3}}, bytes(8)), "its header is malformed: Expected `str`"),
    ],
)
def test_what_is_no_sound_file(tmp_path, data, said):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(StateError) as error:
        SafetensorsFile(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_booleans_are_booleans(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(file({"w": one("BOOL", offsets=(0, 2))}, b"\1\2"))
    with SafetensorsFile(path) as opened, pytest.raises(StateError, match="tensor w holds a boolean"):
        opened.read(opened.entries[0])


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    long = {"w": one(shape=(1 << 16,), offsets=(0, 1 << 18))}  # more than is read ahead
    path.write_bytes(file(long, bytes(1 << 18)))
    with SafetensorsFile(path) as opened:
        path.write_bytes(file(long, bytes(3)))
        with pytest.raises(StateError, match="tensor w is cut off"):
            opened.read(opened.entries[0])
