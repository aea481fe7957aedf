"""What tells the data of one task from those of another: a hash of samples of each split."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gossamer.task.splits import Split
from gossamer.task.task import Task

SAMPLES = 64
"""Samples that are read of each split, at equal distances."""


def digest(task: Task) -> str:
    """Return a hash of the name, the sizes, and samples of each split of ``task``.

    What two readings of the same samples do not agree on (random changes that a data set makes) is left out.
    """
    found = hashlib.sha256(task.name.encode())
    for split in (task.train, task.validation, task.test):
        found.update(b"none" if split is None else str(len(split)).encode())
        for told in () if split is None else _samples(split):
            found.update(told)
    return found.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return shape, dtype and bits of ``tensor``."""
    plain = tensor.detach().cpu().contiguous().flatten()
    return f"{tuple(tensor.shape)} {tensor.dtype}".encode() + (plain.view(torch.uint8).numpy().tobytes())


def _samples(split: Split) -> Iterator[bytes]:
    order = split.order(None)
    step = max(1, len(order) // SAMPLES)
    for one, other in zip(_leaves(split, order[::step]), _leaves(split, order[::step]), strict=False):
        if one == other:
            yield one


def _leaves(split: Split, indices: Tensor) -> list[bytes]:
    with torch.random.fork_rng(devices=[]):
        leaves = pytree.tree_leaves(tuple(split.batch(indices[:SAMPLES])))
    return [tensor_bytes(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
