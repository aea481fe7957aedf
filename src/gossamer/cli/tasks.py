"""The task named on the command line."""

from gossamer import datasets, zoo
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


def task_for(model: str, spec: str | None) -> Task:
    """Return the task that ``spec`` names, or without it the one that the zoo network ``model`` is for.

    Raises:
        DataError: see :func:`task_of`; or no data are named and the model does not know its own.
    """
    if spec is not None:
        return task_of(spec)
    kind, _, name = model.partition(":")
    own = zoo.network(name).data if kind == "zoo" else None
    if own is None:
        raise DataError(f"{model} does not say which data it is for", hint="name them with --data")
    return task_of(own)
