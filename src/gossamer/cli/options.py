"""Arguments that several commands share, each declared once."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer.errors import SettingError

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="zoo:NAME, path/to/file.py:factory or package.module:factory."),
]
File = Annotated[Path, typer.Argument(metavar="FILE.goss", help="A file written by compress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Trained weights: .safetensors, .goss, or a state dict as .pt (read without running code)."),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="A built-in set, text:PATH, images:PATH or file.py:factory returning a Task."),
]

Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting.")]


def changes_of(changes: list[str]) -> dict[str, Any]:
    """Return what ``--set NAME=VALUE`` options say; a value is JSON, or else a string.

    Raises:
        SettingError: one of them is no NAME=VALUE.
    """
    found = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise SettingError(f"--set {change}: wanted NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
