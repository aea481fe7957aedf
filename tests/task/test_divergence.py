"""How far outputs are from others, by hand."""

import math

import pytest
import torch

from gossamer.task.batch import IGNORE
from gossamer.task.divergence import divergence
from gossamer.task.losses import cross_entropy, nll, squared_error


def test_classes_by_hand():
    """KL of (1/2, 1/2) from (1/4, 3/4) is ½ ln 2 + ½ ln 2/3; the padded position does not count."""
    before = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    after = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    for loss, first in ((cross_entropy, before), (nll, before.log_softmax(-1))):
        total, count = divergence(loss, first, after, torch.tensor([1, IGNORE]))
        assert total == pytest.approx(expected, rel=1e-6)
        assert count == 1


def test_a_class_without_a_chance_adds_nothing():
    before = torch.tensor([[0.0, -math.inf]])
    total, _ = divergence(nll, before, torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
    assert total == pytest.approx(math.log(2))


def test_numbers_and_other_losses():
    before, after = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 0.0]])
    assert divergence(squared_error, before, after, None) == (4.25, 2)
    assert divergence(lambda outputs, _: outputs.sum(), before, after, None) == (-1.5, 1)
