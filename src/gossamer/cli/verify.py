"""``gossamer verify``: whether files are sound, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.artifact import verify as check
from gossamer.cli.boundary import FAILED_CHECK
from gossamer.cli.options import Json
from gossamer.cli.output import print_json, stdout


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.goss...", help="Files to check.")],
    *,
    as_json: Json = False,
) -> None:
    """Check that files are sound.

    Checksums, bounds, and that every tensor decodes; exits with 1 if anything is wrong.
    """
    found = {str(file): check(file) for file in files}
    if as_json:
        print_json({file: {"sound": not problems, "problems": problems} for file, problems in found.items()})
    else:
        for file, problems in found.items():
            for line in problems or ["sound"]:
                stdout().print(f"{file}: {line}", markup=False, soft_wrap=True)
    if any(found.values()):
        raise typer.Exit(FAILED_CHECK)
