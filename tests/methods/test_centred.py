"""Errors in view of a bias that takes up the mean: by hand, on real layers, and where no bias can."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError
from gossamer.methods.quantize import RateDistortion
from gossamer.methods.quantize.centred import covariances, taken_up, taking_up
from gossamer.model import Mask, Plan, Subject, apply
from gossamer.task import Batch, cross_entropy


def evidence_of(module, *inputs):
    subject = Subject.of(module.eval(), inputs[0])
    return subject, calibrate(subject, [Batch((x,), {}, None) for x in inputs], {"second_moment", "mean"})


def test_by_hand():
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([0.5])})
    subject, evidence = evidence_of(layer, torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    # Inputs (1, 0) and (3, 4): mean (2, 2), second moment ((5, 6), (6, 8)), covariance ((1, 2), (2, 4)).
    np.testing.assert_allclose(covariances("weight", evidence), [[[1, 2], [2, 4]]], rtol=1e-5)
    # Without the second weight the mean output lacks 2 · 2.
    assert float(taken_up(subject, "weight", "bias", torch.tensor([[1.0, 0.0]]), evidence)) == pytest.approx(4.5)


LAYERS = {
    "linear": (nn.Linear(5, 3), (16, 5), nn.functional.linear),
    "grouped convolution": (
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        (16, 4, 5, 5),
        lambda x, w, b: nn.functional.conv2d(x, w, b, padding=1, groups=2).transpose(1, -1),
    ),
}


@pytest.mark.parametrize(("layer", "shape", "call"), LAYERS.values(), ids=LAYERS)
def test_the_mean_of_what_a_layer_adds_up_stays(layer, shape, call):
    torch.manual_seed(0)
    x = torch.rand(shape) + 0.5
    subject, evidence = evidence_of(layer, x)
    assert taking_up(subject, "weight", evidence) == "bias"
    new = torch.zeros_like(layer.weight)
    means = [
        call(x, weight, bias).flatten(0, -2).mean(0)
        for weight, bias in ((layer.weight, layer.bias), (new, taken_up(subject, "weight", "bias", new, evidence)))
    ]
    torch.testing.assert_close(means[1], means[0])


class Tied(nn.Module):
    """Two layers of one bias."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.bias = self.one.bias

    def forward(self, x):
        return self.two(self.one(x))


def test_a_bias_of_two_layers_or_none_or_a_held_one_takes_up_nothing():
    x = torch.rand(8, 4)
    assert taking_up(*_named("one.weight", Tied(), x)) is None
    assert taking_up(*_named("weight", nn.Linear(4, 3, bias=False), x)) is None
    assert taking_up(*_named("weight", nn.ConvTranspose1d(4, 3, 2), torch.rand(2, 4, 6))) is None
    assert taking_up(*_named("weight_ih_l0", nn.GRU(4, 3), torch.rand(2, 6, 4))) is None
    subject, evidence = evidence_of(nn.Linear(4, 3), x)
    held = apply(subject, Plan("test", constraints={"bias": Mask(torch.ones(3, dtype=torch.bool))}))
    assert taking_up(held, "weight", evidence) is None


def test_of_inputs_that_hardly_vary_all_counts():
    assert taking_up(*_named("weight", nn.Linear(4, 3), torch.rand(8, 4) / 1000 + 1)) is None
    assert taking_up(*_named("weight", nn.Linear(4, 3), torch.ones(8, 4))) is None


class Turned(nn.Module):
    """A layer read the other way round, one whose bias is never added, and one that scales the product first."""

    def __init__(self):
        super().__init__()
        self.turned, self.silent, self.scaled = nn.Linear(6, 6), nn.Linear(6, 6), Scaled(6, 6)

    def forward(self, x):
        return self.scaled(nn.functional.linear(x @ self.turned.weight, self.silent.weight))


class Scaled(nn.Linear):
    """A layer whose product is a tenth."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight) / 10 + self.bias


def test_a_bias_that_is_not_simply_added_takes_up_nothing():
    model = Turned().eval()
    subject = Subject.of(model, torch.rand(1, 6))
    data = [Batch((torch.rand(8, 6),), {}, torch.arange(8) % 6)]
    evidence = calibrate(subject, data, RateDistortion.needs, loss=cross_entropy)
    assert [taking_up(subject, f"{name}.weight", evidence) for name in ("turned", "silent", "scaled")] == [None] * 3
    plan = RateDistortion(price=1e-4).plan(subject, evidence)
    torch.testing.assert_close(plan.tensors["scaled.bias"], model.scaled.bias.detach(), atol=0.05, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_rate_distortion_counts_what_no_bias_takes_up(bias):
    torch.manual_seed(0)
    x = torch.randn(512, 24) @ torch.randn(24, 24) + 10
    layer = nn.Linear(24, 8, bias=bias).eval()
    subject = Subject.of(layer, x[:1])
    method = RateDistortion(price=30.0, weigh="outputs", others=False)
    evidence = calibrate(subject, [Batch((x,), {}, torch.arange(512) % 8)], method.needs, loss=cross_entropy)
    ((_, part),) = method._problem(subject, "weight", evidence).parts
    wanted = np.cov(x.T, bias=True) if bias else x.T.double() @ x.double() / len(x)
    np.testing.assert_allclose(part.moment, wanted, rtol=1e-3, atol=1e-2)
    plan = method.plan(subject, evidence)
    with torch.no_grad():
        errors = nn.functional.linear(x, plan.tensors["weight"], plan.tensors.get("bias")) - layer(x)
    assert bool((errors.mean(0).abs() < 1e-3).all()) == bias


def test_covariances_are_positive_where_float32_has_lost_their_last_digits():
    torch.manual_seed(0)
    x = torch.randn(64, 1) * 0.05 + 1 + torch.zeros(64, 900)
    subject, evidence = evidence_of(nn.Linear(900, 4), x)
    assert taking_up(subject, "weight", evidence) == "bias"
    [covariance] = covariances("weight", evidence)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_a_plan_leaves_biases_of_double_precision_alone():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double().eval()
    subject = Subject.of(layer, torch.rand(1, 4).double())
    data = [Batch((torch.rand(8, 4).double(),), {}, torch.arange(8) % 3)]
    before = subject.model.bias.detach().clone()
    RateDistortion(price=1.0).plan(subject, calibrate(subject, data, RateDistortion.needs, loss=cross_entropy))
    torch.testing.assert_close(subject.model.bias.detach(), before, rtol=0, atol=0)


def test_without_means_it_is_told():
    subject = Subject.of(nn.Linear(4, 3).eval(), torch.rand(1, 4))
    data = [Batch((torch.rand(8, 4),), {}, torch.zeros(8, dtype=torch.long))]
    with pytest.raises(EvidenceError, match="no mean was collected for weight"):
        RateDistortion().plan(subject, calibrate(subject, data, "curvature", loss=cross_entropy))


def _named(name, module, *inputs):
    subject, evidence = evidence_of(module, *inputs)
    return subject, name, evidence
