"""A small task and a network trained on it, for tests of what acts while a network trains."""

import pytest
import torch
from torch import nn

from gossamer.model import Subject
from gossamer.task import Task
from gossamer.train import Training, train


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return Task.classification("signs", (x[:200], y[:200]), (x[200:], y[200:]), batch_size=50)


@pytest.fixture(scope="module")
def trained(task):
    torch.manual_seed(0)
    subject = Subject.of(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(1, 8))
    train(subject, task, Training(epochs=30, lr=1e-2, batch_size=50))
    return subject
