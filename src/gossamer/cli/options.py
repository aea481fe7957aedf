"""Arguments that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE.goss", help="A file written by compress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="Trained weights: .safetensors, .goss, or a state dict as .pt (read without running code)."),
]
Data = Annotated[
    str,
    typer.Option(metavar="DATA", help="A built-in set (see the datasets page) or file.py:factory returning a Task."),
]
