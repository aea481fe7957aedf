"""Folders of images: one folder per class, alone or under ``train`` and ``test``. Reading them needs Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gossamer.errors import DataError
from gossamer.task import Images, Task, hold_out

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm"})


def task(folder: Path) -> Task:
    """Return the task of telling which folder an image is from.

    All images must have one size. With ``train`` and ``test`` folders, a tenth of train is held out for validation
    (seed 0); otherwise a tenth each for validation and test.

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
    scaled = pixels.double() / 255
    mean, deviation = float(scaled.mean()), max(float(scaled.std()), 1e-3)
    name = f"images:{folder.name}"
    train: Any = Images(pixels, targets, mean=mean, deviation=deviation, what=name)
    held = max(1, len(train) // 10)
    if nested and (folder / "test").is_dir():
        test_pixels, test_targets = _read(folder / "test", labels)
        test: Any = Images(test_pixels, test_targets, mean=mean, deviation=deviation, what=f"{name}, test")
    else:
        train, test = hold_out(train, held, seed=1)
    train, validation = hold_out(train, held)
    return Task.classification(name, train, validation, test, labels=labels)


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
