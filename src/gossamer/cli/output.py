"""What a command prints: tables or JSON on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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


@contextmanager
def progress(*, hidden: bool = False) -> Iterator[Progress]:
    """Show progress bars on stderr while the block runs; nothing is drawn where stderr is not a terminal."""
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bars:
        yield bars


def _builtin(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # a numpy or torch number or array, without importing either
        return value.tolist()
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")
