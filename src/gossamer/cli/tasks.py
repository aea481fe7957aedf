"""The task named on the command line."""

from typing import Any

from torch import Tensor

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
    if kind != "zoo":
        raise DataError(f"{model} does not say which data it is for", hint="name them with --data")
    own = zoo.network(name).data
    if own is None:
        shapes = " and ".join(f"{_type(given)} {tuple(given.shape)}" for given in zoo.example(name))
        raise DataError(f"{model}: no built-in data are for it", hint=f"name yours with --data; it takes {shapes}")
    return task_of(own)


def inputs_for(model: str, spec: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs: those of the task that ``spec`` names, or else what the zoo network ``model`` takes.

    Raises:
        DataError: see :func:`task_for`.
    """
    kind, _, name = model.partition(":")
    if spec is None and kind == "zoo":
        return zoo.example(name), {}
    return task_for(model, spec).example


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
