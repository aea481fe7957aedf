"""The task named on the command line."""

from gossamer import datasets
from gossamer.cli.resolve import made
from gossamer.errors import DataError
from gossamer.task import Task


def task_of(spec: str) -> Task:
    """Return the task that ``spec`` names: a built-in set, ``text:PATH``, ``images:PATH``, or a factory.

    Raises:
        DataError: there is no such set, its files are missing or damaged, or the factory fails.
    """
    kind, colon, _ = spec.partition(":")
    if not colon or kind in datasets.BY_PATH:
        return datasets.load(spec)
    task: Task = made(spec, wanted=Task, kind=DataError)
    return task
