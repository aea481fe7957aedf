"""Progress of long work: bars on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn

EVERY = 30.0
"""Seconds from one line to the next where no bar can be drawn."""


class Lines(Progress):
    """Bars that cannot be drawn: one line of what is under way, at once and then every :data:`EVERY` seconds."""

    _due = 0.0

    def add_task(self, description: str, *args: Any, **settings: Any) -> TaskID:
        """Add a bar, and say so if the next line is due."""
        task = super().add_task(description, *args, **settings)
        if description:
            self._say()
        return task

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a bar, and say so if the next line is due."""
        super().update(task_id, **changes)
        self._say()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Move a bar on, and say so if the next line is due."""
        super().advance(task_id, advance)
        self._say()

    def _say(self) -> None:
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        self.console.print(", ".join(_told(task) for task in self.tasks), markup=False, soft_wrap=True)


def _told(task: Task) -> str:
    """Return what a bar is of, and how far it is unless its name says so."""
    counted = task.total is None or "/" in task.description
    return task.description if counted else f"{task.description} {task.completed:.0f}/{task.total:.0f}"


def display(console: Console) -> Progress:
    """Return what shows progress on ``console``, to be used as a context."""
    if not (console.is_terminal or console.is_jupyter):
        return Lines(console=console, disable=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


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
