"""Fashion-MNIST: 70,000 grey 28×28 images of ten kinds of clothing (Xiao, Rasul & Vollgraf 2017; arXiv 1708.07747).

Files are found in a local folder or Debian's package ``dataset-fashion-mnist``, or downloaded once.
"""

from pathlib import Path

import torch

from gossamer.datasets import idx
from gossamer.datasets.download import download
from gossamer.datasets.places import places
from gossamer.errors import DataError
from gossamer.task import Images, Task, hold_out

SOURCE = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of each file's content once unzipped (packers differ, the content does not)."""
LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MEAN, DEVIATION = 0.2860, 0.3530
HELD_OUT = 5_000
HINT = "apt install dataset-fashion-mnist, or put the four IDX files in data/fashion-mnist"


def task(folder: Path | None = None) -> Task:
    """Return the task: 55,000 images to train, 5,000 held out of the training set (seed 0), 10,000 to test.

    Args:
        folder: where the four files are. By default the folders of :mod:`gossamer.datasets.places` are searched, and
            if the files are in none of them they are downloaded into ``fashion-mnist`` under the first.

    Raises:
        DataError: a file is missing and cannot be downloaded, or is damaged.
    """
    found = find(folder)
    if found is None and folder is None:
        found = fetch(places(None)[0] / "fashion-mnist")
    if found is None:
        raise DataError(f"fashion-mnist: no train-images-idx3-ubyte(.gz) in {folder}", hint=HINT)
    train, test = (_images(found, part) for part in ("train", "t10k"))
    trained, validation = hold_out(train, min(HELD_OUT, max(1, len(train) // 10)))
    return Task.classification("fashion-mnist", trained, validation, test, labels=LABELS, augment=("flip",))


def find(folder: Path | None = None) -> Path | None:
    """Return the first folder that holds the files, in it or in a folder ``fashion-mnist`` of it, or None."""
    for place in places(folder, debian="fashion-mnist"):
        for inside in (place, place / "fashion-mnist"):
            if _file(inside, "train-images-idx3-ubyte") is not None:
                return inside
    return None


def fetch(folder: Path, source: str = SOURCE) -> Path:
    """Download the four files that are not yet in ``folder``, checking each one's content, and return the folder.

    Args:
        folder: made if missing.
        source: address they are under, https.

    Raises:
        DataError: no network, or content with another checksum.
    """
    for name, checksum in FILES.items():
        if _file(folder, name) is None:
            download(f"{source}{name}.gz", folder / f"{name}.gz", sha256_unzipped=checksum, hint=HINT)
    return folder


def _images(folder: Path, part: str) -> Images:
    pixels = _array(folder, f"{part}-images-idx3-ubyte", 3)
    labels = _array(folder, f"{part}-labels-idx1-ubyte", 1).long()
    if len(labels) and int(labels.max()) >= len(LABELS):
        raise DataError(f"{folder}/{part}-labels-idx1-ubyte: label {int(labels.max())}, wanted 0 to {len(LABELS) - 1}")
    if len(pixels) != len(labels) or len(labels) == 0:
        raise DataError(f"{folder}: {len(pixels)} {part} images and {len(labels)} labels", hint="get all four files")
    what = f"fashion-mnist, {part}"
    return Images(pixels[:, None], labels, mean=MEAN, deviation=DEVIATION, what=what)


def _array(folder: Path, name: str, dimensions: int) -> torch.Tensor:
    path = _file(folder, name)
    if path is None:
        raise DataError(f"fashion-mnist: {folder} has no {name}(.gz) beside the others", hint="get all four files")
    return torch.from_numpy(idx.read(path, dimensions).copy())


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
