"""Folders of images: one folder per class, alone or under ``train`` and ``test``. Reading them needs Pillow."""

from pathlib import Path

import numpy as np
import torch

from gossamer.errors import DataError
from gossamer.task import Arrays, Images, Task, hold_out
from gossamer.task.splits import Split, Subset

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm"})


def task(folder: Path) -> Task:
    """Return the task of telling which folder an image is from.

    All images must have one size. With ``train`` and ``test`` folders, a tenth of train is held out for validation
    (seed 0); otherwise a tenth each for validation and test. Mean and deviation are those of the training images alone.

    Args:
        folder: holds one folder per class, or ``train`` and ``test`` folders that do.

    Raises:
        DataError: nothing found, images of different sizes, an unreadable one, or Pillow is not installed.
    """
    nested = (folder / "train").is_dir()
    place = folder / "train" if nested else folder
    if not place.is_dir():
        raise DataError(f"{place}: no such folder")
    labels = tuple(sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(labels) < 2:
        raise DataError(f"{place}: {len(labels)} class folders, wanted at least two", hint="one folder per class")
    pixels, targets = _read(place, labels)
    name = f"images:{folder.name}"
    apart = nested and (folder / "test").is_dir()
    rows: Split = Arrays(torch.arange(len(targets)), targets, what=name)
    held, tested = max(1, len(targets) // 10), None
    if not apart:
        rows, tested = hold_out(rows, held, seed=1)
    trained, validated = hold_out(rows, held)
    scaled = pixels[_numbers(trained)].double() / 255
    mean, deviation = float(scaled.mean()), max(float(scaled.std()), 1e-3)
    images = Images(pixels, targets, mean=mean, deviation=deviation, what=name)
    train, validation = (Subset(images, _numbers(part)) for part in (trained, validated))
    if tested is None:
        test: Split = Images(*_read(folder / "test", labels), mean=mean, deviation=deviation, what=f"{name}, test")
    else:
        test = Subset(images, _numbers(tested))
    return Task.classification(name, train, validation, test, labels=labels)


def _numbers(part: Split) -> torch.Tensor:
    """Return the numbers of the images in a part of them."""
    numbers: torch.Tensor = part.batch(part.order(None)).args[0]
    return numbers


def _read(folder: Path, labels: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 pixels (N, channels, height, width) and class indices of all images under the class folders."""
    arrays: list[np.ndarray] = []
    targets: list[int] = []
    for number, label in enumerate(labels):
        for path in sorted((folder / label).glob("*")):
            if path.suffix.lower() in SUFFIXES:
                array = _pixels(path)
                if arrays and array.shape != arrays[0].shape:
                    raise DataError(f"{path}: channels, height, width {array.shape}, the first image {arrays[0].shape}")
                arrays.append(array)
                targets.append(number)
    if not arrays:
        raise DataError(f"{folder}: no images in its class folders", hint=f"known are {', '.join(sorted(SUFFIXES))}")
    return torch.from_numpy(np.stack(arrays)), torch.tensor(targets)


def _pixels(path: Path) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError as error:
        raise DataError("reading images needs Pillow", hint="pip install pillow") from error
    try:
        with Image.open(path) as image:
            grey = image.mode in {"1", "L", "I", "I;16", "F"}
            array = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
