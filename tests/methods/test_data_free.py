"""Quantization without data: clipped normal numbers against sampling, the expected error by hand, a network whole."""

import math

import pytest
import torch
from torch import nn

from gossamer.errors import SettingError
from gossamer.methods.quantize import DataFree, Equalize
from gossamer.methods.quantize.beliefs import believed_inputs, clipped_normal
from gossamer.methods.quantize.data_free import expected
from gossamer.model import Fold, Subject, apply, live_weight


def test_relu_of_normal_numbers_by_hand():
    mean, variance = clipped_normal(torch.tensor([0.0, 9.0, -9.0]).double(), torch.ones(3).double(), 0.0, math.inf)
    # E[ReLU(z)] = 1 / √(2π) and E[ReLU(z)²] = 1/2 for a standard normal z; far from zero nothing or all is clipped.
    torch.testing.assert_close(mean, torch.tensor([1 / math.sqrt(2 * math.pi), 9.0, 0.0]).double())
    torch.testing.assert_close(variance, torch.tensor([0.5 - 1 / (2 * math.pi), 1.0, 0.0]).double())


@pytest.mark.parametrize("ends", [(0.0, math.inf), (0.0, 6.0), (-1.0, 1.0), (-math.inf, math.inf)])
def test_clipped_normal_numbers_are_as_sampled(ends):
    torch.manual_seed(0)
    mean, deviation = torch.tensor([-2.0, 0.5, 5.0, 1.0]).double(), torch.tensor([1.5, 0.7, 2.0, 0.0]).double()
    drawn = (mean + deviation * torch.randn(400_000, 4).double()).clamp(*ends)
    found = clipped_normal(mean, deviation, *ends)
    torch.testing.assert_close(found[0], drawn.mean(0), rtol=0, atol=0.015)
    torch.testing.assert_close(found[1], drawn.var(0, correction=0), rtol=0.02, atol=0.002)


def test_the_expected_error_of_a_grouped_convolution():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False).double()
    mean = torch.randn(4).double()
    still = mean.view(1, 4, 1, 1).expand(1, 4, 3, 3)
    torch.testing.assert_close(expected(conv.weight.detach(), 2, mean), conv(still).detach().flatten())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4))
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.pool(self.relu(x + self.deep(x))).flatten(1))


@pytest.fixture
def subject():
    torch.manual_seed(0)
    model = Residual()
    for norm in (model.stem[1], model.deep[1]):
        norm.weight.data.uniform_(0.2, 2)
        norm.bias.data.uniform_(-1, 2)
    return Subject.of(model.eval(), torch.randn(2, 1, 4, 4))


def test_beliefs_pass_sums_pools_and_flattening(subject):
    first = Equalize(scale=False).equalized(subject)
    found = believed_inputs(apply(subject, first.plan), first.made, 6)
    assert set(found) == {"deep.0.weight", "fc.weight"}
    stem, deep = subject.model.stem[1], subject.model.deep[1]
    entering = found["deep.0.weight"]
    wanted = clipped_normal(stem.bias.detach().double(), stem.weight.detach().double(), 0, 6)
    torch.testing.assert_close(entering.mean, wanted[0])
    assert float(entering.low.min()) == 0
    assert float(entering.high.max()) <= 6
    added = clipped_normal(
        wanted[0] + deep.bias.detach().double(),
        (wanted[1] + deep.weight.detach().double() ** 2).sqrt(),
        0,
        math.inf,
    )
    torch.testing.assert_close(found["fc.weight"].mean, added[0].repeat_interleave(4))
    high = entering.high + deep.bias.detach() + 6 * deep.weight.detach()
    torch.testing.assert_close(found["fc.weight"].high, high.repeat_interleave(4))


def test_a_network_without_data(subject):
    plan = DataFree().plan(subject)
    assert [type(edit) for edit in plan.edits[:2]] == [Fold, Fold]
    assert set(plan.constraints) == {"stem.0.weight", "deep.0.weight", "fc.weight"}
    assert set(plan.activations) == {"deep.0.weight", "fc.weight", "deep.0:output"}
    reasons = [skip.reason for skip in plan.skipped if skip.site == "stem.0.weight"]
    assert len(reasons) == 2
    assert all("no batch norm tells" in reason for reason in reasons)
    done = apply(subject, plan)
    assert live_weight(done, "fc.weight").unique().numel() <= 256
    torch.testing.assert_close(done.model(*subject.args), subject.model(*subject.args), rtol=0, atol=0.4)


def test_the_bias_makes_up_for_the_expected_error(subject):
    plain, fixed = (DataFree(correct=on, equalize=False, weight_bits=4).plan(subject) for on in (False, True))
    assert set(fixed.tensors) - set(plain.tensors) == {"deep.0.bias", "fc.bias"}
    first = Equalize(scale=False).equalized(subject)
    ready = apply(subject, first.plan)
    mean = believed_inputs(ready, first.made, 6)["fc.weight"].mean
    rounded = live_weight(apply(subject, fixed), "fc.weight").double()
    moved = (rounded - subject.model.fc.weight.detach().double()) @ mean
    torch.testing.assert_close(fixed.tensors["fc.bias"].double(), subject.model.fc.bias.detach().double() - moved)


def test_the_range_of_the_models_input_can_be_told(subject):
    plan = DataFree(model_input=(-1.0, 1.0)).plan(subject)
    grid = plan.activations["stem.0.weight"]
    assert float(grid.scale) == pytest.approx(2 / 255)


@pytest.mark.parametrize("ends", [(1.0, -1.0), (0.0, math.inf)])
def test_a_range_must_rise(ends):
    with pytest.raises(SettingError, match="model_input"):
        DataFree(model_input=ends)
