"""The King James Bible, 4.3 million characters, public domain.

It is read from a file ``bible.txt``, or taken from Debian's program ``bible`` (package ``bible-kjv``).
"""

import shutil
import subprocess
from pathlib import Path

from gossamer.datasets import text
from gossamer.datasets.places import listed, places
from gossamer.errors import DataError
from gossamer.task import Task

COMMAND = ("-l", "100000", "gen1:1-rev22:21")
SECONDS = 120


def task(folder: Path | None = None) -> Task:
    """Return the task of predicting each next character.

    Args:
        folder: where ``bible.txt`` is; by default see :mod:`gossamer.datasets.places`, then the ``bible`` program.

    Raises:
        DataError: neither the file nor the program is there.
    """
    looked = places(folder)
    for place in looked:
        if (place / "bible.txt").is_file():
            path = place / "bible.txt"
            return text.from_text(path.read_text(encoding="utf-8"), "bible", str(path))
    program = shutil.which("bible") if folder is None else None
    if program is None:
        raise DataError(
            f"bible: no bible.txt in {listed(looked)}, and no program `bible`",
            hint="apt install bible-kjv",
        )
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, *COMMAND], capture_output=True, check=True, timeout=SECONDS, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"{program} {' '.join(COMMAND)}: {error}", hint="is package bible-kjv whole?") from error
    return text.from_text(done.stdout, "bible", program)
