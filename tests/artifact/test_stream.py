"""Files written and read a tensor at a time are the same as files written and read at once."""

import errno
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from gossamer.artifact import Artifact, dumps, loads, save
from gossamer.artifact.stream import Spool, opened
from gossamer.codings import Dense, encode
from gossamer.errors import ArtifactError


def model(graph: bytes | None = None) -> Artifact:
    """Blobs of several tensors and of one, a tensor without elements, a scalar, an alias."""
    generator = np.random.default_rng(0)
    tensors = {
        "a.bias": encode(np.arange(7, dtype=np.float32)),
        "a.weight": Dense(generator.normal(size=(100, 300)).astype(np.float32)),
        "empty": encode(np.zeros((0, 3), np.float32)),
        "b.weight": encode(generator.integers(-3, 4, size=(50, 40)).astype(np.int8)),
        "zeros": encode(np.zeros(1 << 21, np.float32)),
        "half": Dense(np.arange(6, dtype=np.uint16).reshape(2, 3), "bfloat16"),
        "steps": encode(np.array(40)),
    }
    return Artifact(tensors, {"tied": "a.weight"}, graph=graph, meta={"task": "digits"})


def spooled(path, artifact):
    with Spool(path) as spool:
        for name, node in artifact.tensors.items():
            spool.add(name, node)
        size = spool.seal(replace(artifact, tensors={}))
        spool.place()
    return size


def read_through(path, **bounds):
    with opened(path, **bounds) as reader:
        return dict(reader.tensors()), reader.rest()


@pytest.mark.parametrize("artifact", [model(), model(b"node " * 40), Artifact({})])
def test_the_bytes_are_those_that_are_written_at_once(tmp_path, artifact):
    path = tmp_path / "m.goss"
    assert spooled(path, artifact) == path.stat().st_size
    assert path.read_bytes() == dumps(artifact)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_placed_leaves_nothing(tmp_path):
    path = tmp_path / "m.goss"
    path.write_bytes(b"old")
    with Spool(path) as spool:
        spool.add("w", Dense(np.zeros(3, np.float32)))
        assert len(list(tmp_path.iterdir())) == 2
    with (
        pytest.raises(ArtifactError, match=r"m\.goss: cannot be written: No space left on device"),
        mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")),
    ):
        spooled(path, model())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ArtifactError, match="cannot be written: No such file or directory"):
        spooled(tmp_path / "none" / "m.goss", model())


def test_a_name_is_used_once(tmp_path):
    with Spool(tmp_path / "m.goss") as spool:
        spool.add("w", Dense(np.zeros(3, np.float32)))
        with pytest.raises(ArtifactError, match="tensor w: a tensor's name is used twice"):
            spool.add("w", Dense(np.zeros(3, np.float32)))


def test_tensors_are_read_one_after_the_other(tmp_path):
    path = tmp_path / "m.goss"
    save(path, model(b"node " * 40))
    whole = loads(path.read_bytes())
    with opened(path) as reader:
        read = dict(reader.tensors())
        rest = reader.rest()
    assert list(read) == list(whole.tensors)
    parts = replace(rest, tensors=read)
    assert all(parts.array(name).tobytes() == whole.array(name).tobytes() for name in [*read, "tied"])
    assert (rest.aliases, rest.meta, rest.graph) == (whole.aliases, whole.meta, whole.graph)


def test_damage_is_told_as_when_read_at_once(tmp_path):
    data = dumps(model())
    damages = [data[:k] for k in (0, 5, 14, 60, len(data) - 1)] + [data + b"x", b"GIF89a" + data]
    damages += [data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :] for k in range(0, len(data), len(data) // 50)]
    path = tmp_path / "m.goss"
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError) as at_once:
            loads(damaged)
        with pytest.raises(ArtifactError) as streamed:
            read_through(path)
        assert str(streamed.value) == f"{path}, {at_once.value}"


def test_the_callers_limit_holds(tmp_path):
    save(tmp_path / "m.goss", model())
    with pytest.raises(ArtifactError, match="more than the 1000 allowed"):
        read_through(tmp_path / "m.goss", max_bytes=1000)
