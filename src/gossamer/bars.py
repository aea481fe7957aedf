"""A progress bar for the time being, where there is something to show it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def bar(progress: Progress | None, what: str, total: float | None) -> Iterator[Callable[[], None]]:
    """Add a bar named ``what`` of ``total`` steps to ``progress``, give what moves it on by one, and take it away.

    Args:
        progress: None shows nothing.
        what: its name.
        total: steps in all; None if that is not known.
    """
    if progress is None:
        yield lambda: None
        return
    task = progress.add_task(what, total=total)
    try:
        yield lambda: progress.advance(task)
    finally:
        progress.remove_task(task)
