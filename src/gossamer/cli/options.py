"""Arguments that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

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
