"""The four points of XOR as a regression task; they are at once training, validation and test data."""

import torch

from gossamer.task import Arrays, Task


def task() -> Task:
    """Return the task: x in {0, 1}², target x₁ xor x₂."""
    points = Arrays(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
    return Task.regression("xor", points, points, points)
