"""Targets drawn from a model's outputs."""

import torch

from gossamer.task import IGNORE, cross_entropy, nll, squared_error
from gossamer.task.drawing import drawn


def generator():
    return torch.Generator().manual_seed(0)


def test_classes_come_as_often_as_the_model_believes():
    scores = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    for loss in (cross_entropy, nll):
        found = drawn(loss, scores, torch.zeros(20_000, dtype=torch.int64), generator())
        share = found.bincount(minlength=3) / 20_000
        torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_padding_stays_padding_and_steps_keep_their_shape():
    targets = torch.zeros(4, 5, dtype=torch.int64)
    targets[:, 3:] = IGNORE
    found = drawn(cross_entropy, torch.randn(4, 5, 7), targets, generator())
    assert found.shape == (4, 5)
    assert bool((found[:, 3:] == IGNORE).all())
    assert bool((found[:, :3] >= 0).all())


def test_numbers_are_normal_about_the_outputs_with_variance_one_half():
    found = drawn(squared_error, torch.full((20_000,), 3.0), None, generator())
    assert abs(float(found.mean()) - 3) < 0.02
    assert abs(float(found.var()) - 0.5) < 0.02


def test_of_another_loss_nothing_is_known():
    targets = torch.ones(3)
    assert drawn(lambda a, b: (a - b).mean(), torch.zeros(3), targets, generator()) is targets
    assert drawn(cross_entropy, (torch.zeros(3, 2),), targets, generator()) is targets
