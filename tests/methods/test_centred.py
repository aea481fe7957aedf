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
    np.testing.assert_allclose(covariances("weight", evidence), [[[1, 2], [2, 4]]])
    # Without the second weight the mean output lacks 2 · 2.
    assert float(taken_up(subject, "weight", torch.tensor([[1.0, 0.0]]), evidence)) == pytest.approx(4.5)


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
        for weight, bias in ((layer.weight, layer.bias), (new, taken_up(subject, "weight", new, evidence)))
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


def test_rate_distortion_keeps_mean_outputs_and_makes_less_of_the_rest():
    torch.manual_seed(0)
    x = torch.randn(512, 24) @ torch.randn(24, 24) + 20
    layer = nn.Linear(24, 8)
    subject = Subject.of(layer.eval(), x[:1])
    data = [Batch((x,), {}, torch.randint(0, 8, (512,)))]
    method = RateDistortion(price=0.5, weigh="outputs", others=False)
    plan = method.plan(subject, calibrate(subject, data, method.needs, loss=cross_entropy))
    with torch.no_grad():
        new = nn.functional.linear(x, plan.tensors["weight"], plan.tensors["bias"])
        torch.testing.assert_close(new.mean(0), layer(x).mean(0), rtol=0, atol=1e-3)


def test_without_means_it_is_told():
    subject = Subject.of(nn.Linear(4, 3).eval(), torch.rand(1, 4))
    data = [Batch((torch.rand(8, 4),), {}, torch.zeros(8, dtype=torch.long))]
    with pytest.raises(EvidenceError, match="no mean was collected for weight"):
        RateDistortion().plan(subject, calibrate(subject, data, "curvature", loss=cross_entropy))


def _named(name, module, *inputs):
    subject, evidence = evidence_of(module, *inputs)
    return subject, name, evidence
