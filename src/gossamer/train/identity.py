"""What tells one training run from another, so that a checkpoint is never continued as something else."""

import hashlib

import msgspec
from torch import nn

from gossamer.task import Task
from gossamer.train.settings import Training


def identity(module: nn.Module, task: Task, training: Training) -> str:
    """Return a digest of the settings, the task's name and sizes, and the model's tensor names, shapes and types."""
    tensors = [[name, list(t.shape), str(t.dtype)] for name, t in module.state_dict().items()]
    told = [msgspec.to_builtins(training), task.name, task.augment, len(task.train), len(task.validation), tensors]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()
