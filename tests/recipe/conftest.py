"""A tiny network and task that every test of recipes uses."""

import pytest
import torch
from torch import nn

from gossamer.model import Subject
from gossamer.task import Task


@pytest.fixture(scope="session")
def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 8, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return Task.classification(
        "signs",
        (inputs[:160], targets[:160]),
        (inputs[160:200], targets[160:200]),
        (inputs[200:], targets[200:]),
        batch_size=40,
    )


@pytest.fixture(scope="session")
def subject() -> Subject:
    """One for all tests, so that its graph is traced once: a run must not change it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2))
    return Subject.of(model, torch.zeros(1, 8))
