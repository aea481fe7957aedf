"""Expected accuracy: by hand, calibrated, and near to what is counted."""

import pytest
import torch
from torch import nn

from gossamer.task import Task
from gossamer.task.belief import Beliefs


class Says(nn.Module):
    """Gives the scores it was made with, by sample number."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, numbers):
        return self.scores[numbers[:, 0].long()]


def _task(classes):
    numbers = torch.arange(len(classes), dtype=torch.float32)[:, None]
    return Task.classification("t", (numbers, classes), (numbers, classes), (numbers, classes), batch_size=2)


def test_by_hand():
    chances = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25]])
    # Three of four answers are right at a confidence of 3/4, so the likeliest temperature is 1.
    beliefs = Beliefs.of(Says(chances.log()), _task(torch.tensor([0, 1, 1, 0])))
    torch.testing.assert_close(beliefs.chances, chances)
    assert beliefs.accuracy(Says(chances.log())) == pytest.approx(0.75)
    assert beliefs.own == pytest.approx(0.75)
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # another answer to the first
    assert beliefs.accuracy(Says(other)) == pytest.approx(0.75 - 0.5 / 4)


def test_confidence_that_the_labels_do_not_bear_out_is_flattened():
    torch.manual_seed(0)
    true = torch.randn(4000, 5).softmax(1)
    labels = torch.multinomial(true, 1).squeeze(1)
    beliefs = Beliefs.of(Says(true.log() * 2), _task(labels))  # twice as sharp as it should be
    torch.testing.assert_close(beliefs.chances, true, atol=0.03, rtol=0)
    swapped = true.clone()
    swapped[::3] = swapped[::3].roll(1, dims=1)
    counted = (true.argmax(1) == labels).float().mean() - (swapped.argmax(1) == labels).float().mean()
    expected = beliefs.accuracy(Says(true)) - beliefs.accuracy(Says(swapped))
    assert abs(expected - float(counted)) < 0.02


def test_there_is_none_where_accuracy_does_not_count(monkeypatch):
    numbers = torch.randn(4, 1)
    assert Beliefs.of(nn.Linear(1, 1), Task.regression("r", *[(numbers, numbers)] * 3)) is None
    monkeypatch.setattr("gossamer.task.belief.MOST", 3)
    assert Beliefs.of(Says(torch.randn(4, 2)), _task(torch.tensor([0, 1, 1, 0]))) is None
