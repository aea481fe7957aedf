"""What a command prints: tables or JSON on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress

from gossamer.bars import display
from gossamer.figure import measured
from gossamer.report import Sheet, amount

WIDE = 160
"""Columns of a table that does not go to a terminal."""


def stdout() -> Console:
    """Return the console for results; wide where nobody looks, so that a table in a file or pipe is not folded."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


def stderr() -> Console:
    """Return the console for progress and notes, so that stdout stays clean for ``--json`` and pipes."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Write ``value`` (builtins, dataclasses, structs, paths) as JSON, indented, and nothing else, on stdout."""
    data = msgspec.json.encode(value, enc_hook=_builtin, order="deterministic")
    sys.stdout.write(msgspec.json.format(data, indent=2).decode() + "\n")


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], *, left: Collection[str] = ()) -> Sheet:
    """Return a table that fits its console; the first column and those named in ``left`` hold text, others numbers."""
    return Sheet(tuple(columns), tuple(tuple(map(str, row)) for row in rows), tuple(left))


def count_bytes(size: int) -> str:
    """Return ``size`` in bytes as people read it, in powers of ten."""
    return amount(measured(size, "B"))


def progress() -> Progress:
    """Return what shows progress on stderr, to be used as a context: bars on a terminal, else a line now and then."""
    return display(stderr())


def _builtin(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a numpy or torch number or array, without importing either
        return value.tolist()
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
