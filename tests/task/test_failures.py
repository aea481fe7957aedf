"""Code of a caller's own that fails is told in one line that names it and its place."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gossamer.errors import ModelError, TaskError
from gossamer.model import Subject
from gossamer.task import Metric, Task, evaluate


def fails(*_):
    raise ZeroDivisionError("nothing\nthere")


class Few(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) if len(inputs) < 2 else fails()


@pytest.fixture
def task():
    return Task.classification("t", (torch.randn(20, 3), torch.zeros(20, dtype=torch.long)))


@pytest.mark.parametrize("part", ["metric", "loss", "forward"])
def test_what_fails_is_named(task, part):
    odd = {
        "metric": replace(task, metrics=dict(task.metrics) | {"odd": Metric(fails, higher_is_better=True)}),
        "loss": replace(task, loss=fails),
        "forward": task,
    }[part]
    said = {"metric": "the task's metric odd failed", "loss": "the task's loss failed", "forward": "Few failed on"}[
        part
    ]
    model = Few(3, 2) if part == "forward" else nn.Linear(3, 2)
    with pytest.raises(TaskError, match=rf"{said}.*, at .*test_failures.py:\d+: ZeroDivisionError: nothing there$"):
        evaluate(model, odd)


def test_torchscript_is_refused():
    class Scripted(torch.jit.ScriptModule):
        pass

    with pytest.raises(ModelError, match="a TorchScript module cannot be compressed"):
        Subject.of(Scripted(), torch.zeros(1, 3))
