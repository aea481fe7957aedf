"""Batch-norm statistics measured anew."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import reset_batch_norm
from gossamer.errors import EvidenceError
from gossamer.model import Subject


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(2, 3, 3))


def test_statistics_are_the_average_of_the_batches():
    torch.manual_seed(1)
    net = network().eval()
    data = [3 * torch.randn(4, 1, 6, 6) + 1 for _ in range(3)]
    subject = Subject.of(net, data[0])
    out = reset_batch_norm(subject, [((x,), {}, None) for x in data])
    seen = [subject.model[0](x) for x in data]
    mean = torch.stack([y.mean((0, 2, 3)) for y in seen]).mean(0)
    variance = torch.stack([y.var((0, 2, 3)) for y in seen]).mean(0)
    torch.testing.assert_close(out.model[1].running_mean, mean.detach())
    torch.testing.assert_close(out.model[1].running_var, variance.detach())
    assert torch.equal(subject.model[1].running_mean, torch.zeros(2))
    assert not any(module.training for module in out.model.modules())
    assert out.model[1].momentum == 0.1
    for (name, before), after in zip(subject.model.named_parameters(), out.model.parameters(), strict=True):
        assert torch.equal(before, after), name


def test_bad_batches_are_refused():
    subject = Subject.of(network(), torch.randn(2, 1, 6, 6))
    with pytest.raises(EvidenceError, match="no batches"):
        reset_batch_norm(subject, [])
    bad = torch.full((2, 1, 6, 6), float("inf"))
    with pytest.raises(EvidenceError, match="statistics of 1 are not finite"):
        reset_batch_norm(subject, [((bad,), {}, None)])
