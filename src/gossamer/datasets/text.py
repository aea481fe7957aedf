"""Text for language models over characters, in one fixed alphabet of 80 symbols."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import DataError
from gossamer.task import Task, Windows

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ALPHABET = "\n !\"&'()*,-./0123456789:;?_" + LETTERS
"""79 characters, symbols 1 to 79 in this order; symbol 0 is any other character."""
STEPS = 128
BLOCKS = 100
HELD = 5
"""Of 100 blocks of equal length, 5 are validation and 5 test data, drawn with seed 0."""


def task(path: Path) -> Task:
    """Return the task of predicting each next character of a text file.

    Args:
        path: UTF-8.

    Raises:
        DataError: no such file, not UTF-8, or too short.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return from_text(content, f"text:{path.name}", str(path))


def from_text(content: str, name: str, where: str) -> Task:
    """Return the task called ``name`` of a text; ``where`` is named in errors.

    Raises:
        DataError: the text is too short to be split.
    """
    shortest = BLOCKS * (STEPS // HELD + 1)
    if len(content) < shortest:
        raise DataError(f"{where}: {len(content)} characters are too few, wanted at least {shortest}")
    blocks = encode(content).tensor_split(BLOCKS)
    order = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(0))
    parts = torch.split(order, [BLOCKS - 2 * HELD, HELD, HELD])
    train, validation, test = (
        Windows(torch.cat([blocks[i] for i in part.sort().values.tolist()]), STEPS, what=where) for part in parts
    )
    return Task.sequence(name, train, validation, test, labels=("unknown", *ALPHABET))


def encode(content: str) -> Tensor:
    """Return the symbols of a text, int64."""
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    table = np.zeros(128, np.int64)
    table[[ord(character) for character in ALPHABET]] = range(1, len(ALPHABET) + 1)
    return torch.from_numpy(np.where(points < 128, table[np.minimum(points, 127)], 0))
