"""The one place where an error becomes a line of text and an exit code."""

import functools
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from gossamer.errors import GossamerError

FAILED_CHECK = 1
USER_ERROR = 2
INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")


def guarded(command: Callable[P, R], *, resumes: bool = False) -> Callable[P, R]:
    """Wrap ``command`` so that errors meant for a person are printed as such, without a traceback.

    A :class:`GossamerError` or an ``OSError`` (a full disk, a missing file, no permission) exits with 2, an interrupt
    with 130. Anything else is a fault of ours and keeps its traceback.

    Args:
        command: the function of one command.
        resumes: whether running the same command again continues the work; said when it is interrupted.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except GossamerError as error:
            _stop(error.message, error.hint)
        except BrokenPipeError:  # the reader of a pipe went away: nothing is wrong
            raise
        except OSError as error:
            _stop(_describe(error), None)
        except KeyboardInterrupt:
            told = "run the same command again to continue where it stopped" if resumes else None
            _stop("interrupted", told, code=INTERRUPTED)

    return run


def _describe(error: OSError) -> str:
    """Say what an ``OSError`` is about: the file first where there is one, then the system's own words."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def _stop(message: str, hint: str | None, *, code: int = USER_ERROR) -> NoReturn:
    sys.stdout.flush()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), " ".join(message.split())))
    if hint is not None:
        console.print(Text.assemble(("hint: ", "bold"), hint))
    raise typer.Exit(code)
