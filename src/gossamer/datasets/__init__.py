"""Data sets as tasks: ``load("fashion-mnist")``, ``load("text:PATH")`` and so on."""

import difflib
from collections.abc import Callable
from pathlib import Path

from gossamer.datasets import bible, digits, fashion, images, spoken, text, xor
from gossamer.errors import DataError
from gossamer.task import Task

__all__ = ["BY_NAME", "BY_PATH", "load"]

BY_NAME: dict[str, Callable[[Path | None], Task]] = {
    "xor": lambda _: xor.task(),
    "digits": lambda _: digits.task(),
    "fashion-mnist": fashion.task,
    "spoken-digits": spoken.task,
    "bible": bible.task,
}
"""Built-in sets by name; each takes the folder to look in first."""

BY_PATH: dict[str, Callable[[Path], Task]] = {"text": text.task, "images": images.task}
"""Kinds of one's own files, written ``text:PATH``."""


def load(spec: str, folder: Path | str | None = None) -> Task:
    """Return the task of a data set.

    Validation data are held out of the training set with a fixed seed.

    Args:
        spec: a name (``fashion-mnist``, ``digits``, ``spoken-digits``, ``bible``, ``xor``), ``text:PATH`` for a text
            file, or ``images:PATH`` for a folder with one folder of images per class.
        folder: where to look first, before $GOSSAMER_DATA, ``./data`` and Debian's ``/usr/share/datasets``.

    Raises:
        DataError: an unknown name; data that are missing or damaged, with a hint on how to get them.
    """
    kind, colon, path = spec.partition(":")
    if colon and kind in BY_PATH and path:
        return BY_PATH[kind](Path(path))
    if spec in BY_NAME:
        return BY_NAME[spec](None if folder is None else Path(folder))
    known = [*BY_NAME, *(f"{kind}:PATH" for kind in BY_PATH)]
    close = difflib.get_close_matches(spec, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
    raise DataError(f"no data set called {spec!r}", hint=hint)
