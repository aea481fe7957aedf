"""Data that live outside the package: any tensors, or any torch ``Dataset`` of pairs, become a ``Task``."""

import torch
from torch.utils.data import TensorDataset

from gossamer import Task
from gossamer.datasets import load
from gossamer.task import Split


def task() -> Task:
    """Return the task the network of ``my_model.py`` is for: handwritten digits turned by 90 degrees.

    The pixels are real (the embedded 8×8 digits); they are turned so that this is nobody's built-in set. What the
    command line compresses with is this ``Task``, and it knows nothing else about the data.
    """
    source = load("digits")
    train, validation, test = (turned(source.split(name)) for name in ("train", "validation", "test"))
    return Task.classification("turned digits", train, validation, test)


def turned(split: Split) -> TensorDataset:
    """Return every sample of a split, its image turned."""
    batch = split.batch(torch.arange(len(split)))
    return TensorDataset(batch.args[0].rot90(dims=(2, 3)), batch.targets)
