"""What tells one training run from another, so that a checkpoint is never continued as something else."""

import hashlib
from collections.abc import Mapping

import msgspec
from torch import Tensor

from gossamer.task import Task
from gossamer.task.digest import digest, tensor_bytes
from gossamer.train.settings import Training


def identity(task: Task, training: Training) -> str:
    """Return a digest of the settings and the task, samples of its data included."""
    told = [msgspec.to_builtins(training), task.augment, digest(task)]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of the names, shapes, dtypes and bits of a state dict."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} ".encode() + tensor_bytes(tensor))
    return found.hexdigest()
