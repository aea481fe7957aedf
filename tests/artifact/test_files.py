"""Files appear whole or not at all, and can be looked into and compared without torch."""

import errno
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from gossamer.artifact import Artifact, diff, dumps, inspect, load, save, verify
from gossamer.codings import Affine, Codebook, Dense, Sparse, encode, nbytes
from gossamer.errors import ArtifactError


def model(shift: float = 0.0, graph: bytes | None = None) -> Artifact:
    where = np.arange(600).reshape(20, 30) % 7 == 0
    codes = np.arange(int(where.sum())) % 3
    bias = np.arange(20, dtype=np.float32) + np.float32(shift)
    bias[:2] = -0.0, 0.0
    return Artifact(
        {"w": encode(Sparse(where, Codebook(codes, np.array([-1, 1, 2], np.float32)))), "b": encode(bias)},
        aliases={"tied": "w"},
        graph=graph,
        meta={"task": "digits"},
    )


@pytest.mark.parametrize("place", ["os.fsync", "pathlib.Path.replace"])
def test_6_2_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, place):
    path = tmp_path / "model.goss"
    save(path, model())
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch(place, side_effect=full),
        pytest.raises(ArtifactError, match=r"model\.goss: cannot be written: No space left on device"),
    ):
        save(path, model(1.0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_6_2_a_file_that_grows_too_large_leaves_the_old_one(tmp_path):
    path = tmp_path / "model.goss"
    save(path, model())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with pytest.raises(ArtifactError, match=r"model\.goss: cannot be written: File too large"):
            save(path, model(1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        save("/dev/full/model.goss", model())


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"model\.goss: cannot be written: No such file"):
        save(tmp_path / "none" / "model.goss", model())
    with pytest.raises(ArtifactError, match=r"model\.goss: cannot be read: No such file"):
        load(tmp_path / "model.goss")
    assert verify(tmp_path / "model.goss")


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.goss"
    save(path, model())
    with mock.patch("os.fsync", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        save(path, model(1.0))
    assert load(path).array("b")[3] == 3
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import os, sys
from pathlib import Path
from gossamer.artifact.files import write_file
os.fsync = lambda _: os.kill(os.getpid(), 9)  # in the middle, as a power cut
write_file(Path(sys.argv[1]), [b"half"])
"""


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    path = tmp_path / "model[1].goss"
    save(path, model())
    killed = subprocess.run([sys.executable, "-c", WRITER, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert load(path).array("b")[3] == 3
    (mine,) = (file for file in tmp_path.iterdir() if file != path)
    start = mine.name.rpartition("-")[0]
    alive = tmp_path / f"{start}-{os.getppid()}.00000000"
    earlier = tmp_path / f"{start}-{os.getpid()}.00000000"  # a process of our number, before us
    others = [tmp_path / name for name in (".model[1].goss.notes", f"{start}-x.00000000", ".other.goss.1.00000000")]
    for file in (alive, earlier, *others):
        file.touch()
    save(path, model(1.0))
    assert set(tmp_path.iterdir()) == {path, alive, *others}


def test_a_new_file_can_be_read_by_whom_the_mask_allows(tmp_path):
    old = os.umask(0o027)
    try:
        save(tmp_path / "model.goss", model())
    finally:
        os.umask(old)
    assert (tmp_path / "model.goss").stat().st_mode & 0o777 == 0o640


def test_the_base_of_a_ratio_is_the_model_that_was_compressed(tmp_path):
    save(tmp_path / "m.goss", replace(model(), meta={"dense_bytes": 9000}))
    seen = inspect(tmp_path / "m.goss")
    assert (seen.dense_bytes, seen.file_ratio) == (9000, 9000 / seen.bytes)


def test_inspect_counts_every_byte(tmp_path):
    path = tmp_path / "model.goss"
    save(path, model(graph=b"graph " * 50))
    seen = inspect(path)
    assert seen.bytes == path.stat().st_size
    assert seen.bytes == seen.header_bytes + seen.tensor_bytes + seen.graph_bytes + seen.padding_bytes
    assert seen.weights_only_bytes == len(dumps(model()))
    assert seen.dense_bytes == 620 * 4
    assert seen.ratio == 620 * 4 / len(dumps(model()))
    assert seen.file_ratio == 620 * 4 / seen.bytes
    assert seen.self_contained
    weight, bias = seen.tensors
    assert (weight.name, weight.shape, weight.dtype) == ("w", (20, 30), "float32")
    assert (weight.density, weight.distinct) == (86 / 600, 3)
    assert weight.bits_per_weight == 8 * nbytes(load(path).tensors["w"]) / 600
    assert (bias.density, bias.distinct) == (18 / 20, 18)  # zero is not counted, minus zero neither
    assert (seen.aliases, seen.meta) == ({"tied": "w"}, {"task": "digits"})


def test_verify_names_what_is_wrong(tmp_path):
    path = tmp_path / "model.goss"
    save(path, model())
    assert verify(path) == []
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert verify(path) == ["blob 0: the checksum does not match"]


def test_diff_of_a_file_with_itself_is_empty(tmp_path):
    save(tmp_path / "a.goss", model())
    seen = diff(tmp_path / "a.goss", tmp_path / "a.goss")
    assert (seen.only_a, seen.only_b, seen.changed, seen.parts, seen.unchanged) == ((), (), (), (), 2)


def test_diff_tells_what_changed(tmp_path):
    grid = Affine(np.arange(6, dtype=np.int8).reshape(2, 3), np.float32(0.5), np.int8(0))
    save(tmp_path / "a.goss", Artifact({**model().tensors, "old": encode(np.ones(2)), "t": encode(grid)}))
    other = {**model(0.25, b"g").tensors, "new": encode(np.ones(2)), "t": Dense(np.zeros((3, 2), np.float32))}
    save(tmp_path / "b.goss", Artifact(other, graph=b"g"))
    seen = diff(tmp_path / "a.goss", tmp_path / "b.goss")
    assert (seen.only_a, seen.only_b, seen.unchanged, seen.parts) == (("old",), ("new",), 1, ("graph",))
    bias, table = seen.changed
    assert (bias.name, bias.values_changed, bias.largest_change) == ("b", 18, 0.25)
    assert (table.shape, table.values_changed, table.largest_change) == (((2, 3), (3, 2)), None, None)
    assert seen.bytes == ((tmp_path / "a.goss").stat().st_size, (tmp_path / "b.goss").stat().st_size)


def test_diff_sees_bits_and_bfloat16(tmp_path):
    plus, minus = (Dense(np.array([bits, 0x3F80], np.uint16), "bfloat16") for bits in (0x0000, 0x8000))
    save(tmp_path / "a.goss", Artifact({"w": plus}))
    save(tmp_path / "b.goss", Artifact({"w": minus}))
    (change,) = diff(tmp_path / "a.goss", tmp_path / "b.goss").changed
    assert (change.values_changed, change.largest_change) == (1, 0.0)


def test_looking_at_a_file_needs_no_torch(tmp_path):
    path = tmp_path / "model.goss"
    save(path, model(graph=b"graph"))
    program = (
        "import sys, gossamer.artifact as a\n"
        "assert a.verify(sys.argv[1]) == []\n"
        "a.inspect(sys.argv[1]); a.diff(sys.argv[1], sys.argv[1]); a.load(sys.argv[1]).array('w')\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
