"""Post-training quantization: what is put on which grid, what is left, and that it runs in integers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from awkward.networks import BY_NAME, NETWORKS
from torch import nn
from torch.utils import _pytree as pytree

from gossamer import datasets, zoo
from gossamer.artifact import dumps, loads
from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError, GossamerError, ModelError, SettingError
from gossamer.methods.quantize import DataFree, PostTraining
from gossamer.methods.quantize.post_training import channel_axis
from gossamer.model import Subject, apply, freeze, live_weight, plain_copy, to_artifact
from gossamer.targets import (
    OnnxRuntime,
    Runner,
    arrays_of,
    compare,
    frozen_graph,
    lower_artifact,
    not_integer,
    operators_of,
    read_cpu,
    to_onnx,
)
from gossamer.task import evaluate
from gossamer.zoo.resnet20 import ResNet20


class Small(nn.Module):
    """One of each: convolution, transposed convolution, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.fc = nn.Linear(50, 4)

    def forward(self, x):
        return self.fc(self.up(torch.relu(self.conv(x))).flatten(1))


def subject_of(model, *args) -> Subject:
    return Subject.of(model.eval(), *args)


def evidence_of(subject):
    return calibrate(subject, [(subject.args, subject.kwargs, None)], {"range"})


@pytest.fixture
def small():
    return subject_of(Small(), torch.rand(2, 1, 6, 6))


def test_weights_get_a_scale_per_output_channel(small):
    plan = PostTraining(weight_bits=8, weight_range="minmax").plan(small, evidence_of(small))
    grid = plan.constraints["conv.weight"]
    weight = small.model.conv.weight.detach()
    torch.testing.assert_close(grid.scale, weight.abs().amax((1, 2, 3)) / 127)
    assert (grid.axis, grid.bits, grid.signed) == (0, 8, True)
    assert plan.constraints["up.weight"].axis == 1
    torch.testing.assert_close(
        plan.constraints["up.weight"].scale, small.model.up.weight.detach().abs().amax((0, 2, 3)) / 127
    )


def test_inputs_get_one_scale_from_zero(small):
    plan = PostTraining(input_range="minmax").plan(small, evidence_of(small))
    grid = plan.activations["conv.weight"]
    assert (grid.bits, grid.signed, grid.axis) == (8, False, None)
    assert float(grid.scale) == pytest.approx(float(small.args[0].max()) / 255)
    assert int(grid.zero) == 0


def test_auto_takes_the_bits_of_the_processor_where_it_multiplies(small):
    plan = PostTraining().plan(small, evidence_of(small))
    assert plan.constraints["fc.weight"].bits == read_cpu().weight_bits
    assert plan.constraints["up.weight"].bits == 8


def test_what_stays_in_float_is_listed(small):
    plan = PostTraining().plan(small, evidence_of(small))
    assert set(plan.activations) == {"conv.weight", "fc.weight", "conv:output"}
    assert {skip.site: skip.reason for skip in plan.skipped} == {
        "up.weight": "stored in 8 bits, multiplied in float: "
        "the target has no integer operator for conv transpose weights"
    }


def test_storage_only_needs_no_evidence(small):
    plan = PostTraining(inputs=False).plan(small)
    assert set(plan.constraints) == set(small.sites)
    assert not plan.activations


def test_without_evidence_it_says_what_to_do(small):
    with pytest.raises(EvidenceError, match="needs the range of inputs"):
        PostTraining().plan(small)


def test_the_subject_is_left_alone_and_the_grid_holds(small):
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    done = apply(small, PostTraining(weight_bits=4).plan(small, evidence_of(small)))
    assert all(torch.equal(before[name], value) for name, value in small.model.state_dict().items())
    for row in live_weight(done, "fc.weight"):
        assert len(row.unique()) <= 16


def test_a_weight_that_is_not_finite_is_named(small):
    evidence = evidence_of(small)
    with torch.no_grad():
        small.model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"fc\.weight: a weight is not finite"):
        PostTraining().plan(small, evidence)


@pytest.mark.parametrize(
    "settings",
    [{"weight_bits": 17}, {"weight_bits": 1}, {"weight_range": 40.0}, {"input_range": "best"}, {"weight_bits": "all"}],
)
def test_settings_are_checked(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        PostTraining(**settings)


def test_grouped_transposed_convolutions_have_one_scale():
    subject = subject_of(nn.ConvTranspose1d(4, 4, 3, groups=2), torch.randn(1, 4, 5))
    assert channel_axis(subject, subject.sites["weight"]) is None


def through_a_file(subject, method=None):
    """Quantize, freeze, write, read; return the plan, the quantized subject and the artifact."""
    plan = (method or PostTraining()).plan(subject, evidence_of(subject))
    done = apply(subject, plan)
    frozen = freeze(done)
    graph = frozen_graph(frozen, subject.args, subject.kwargs)
    return plan, done, loads(dumps(to_artifact(frozen, graph=graph)))


@pytest.fixture(scope="module")
def residual():
    torch.manual_seed(0)
    model = ResNet20(4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return subject_of(model, torch.rand(4, 1, 28, 28))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "integer"),
    [
        (PostTraining(), 20),
        (PostTraining(exclude=("blocks.1.conv2.weight",)), 19),
        (PostTraining(powers_of_two=True), 20),
        (DataFree(model_input=(0.0, 1.0)), 14),
    ],
)
def test_convolutions_of_a_residual_network_go_from_codes_to_codes(residual, method, integer):
    plan, done, stored = through_a_file(residual, method)
    lowered = lower_artifact(stored)
    inputs = set(plan.activations) & set(residual.sites)
    assert set(lowered.integer) == inputs
    assert len(inputs) == integer, "without data nothing is known of what sums make"
    assert set(operators_of(lowered.proto, inputs).values()) <= {"QLinearConv", "QGemm"}
    with torch.no_grad():
        wanted = done.model(*residual.args)
    got = Runner(lowered.proto)(*residual.args)
    assert float((got - wanted).abs().max()) <= 0.06 * float(wanted.max() - wanted.min())


@pytest.mark.slow
def test_outputs_get_grids_after_a_training_that_gave_inputs_theirs(residual):
    plan = PostTraining().plan(residual, evidence_of(residual))
    inputs = {name: grid for name, grid in plan.activations.items() if name in residual.sites}
    trained = apply(residual, replace(plan, activations=inputs))
    later = PostTraining().plan(trained, evidence_of(trained))
    assert {name for name in later.activations if name not in residual.sites} == set(plan.activations) - set(inputs)
    only = PostTraining(include=()).plan(trained, evidence_of(trained))
    assert set(only.activations) == set(plan.activations) - set(inputs)
    assert not only.constraints
    assert not only.skipped


@pytest.mark.slow
def test_a_convolutional_network_runs_in_integers_from_its_file():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    subject = subject_of(model, torch.rand(4, 1, 10, 10))
    _, done, stored = through_a_file(subject)
    lowered = lower_artifact(stored)
    assert operators_of(lowered.proto, stored.activations) == {"0.weight": "QLinearConv", "5.weight": "QGemm"}
    assert OnnxRuntime().refuses(stored) == []
    with torch.no_grad():
        wanted = done.model(*subject.args)
    got = Runner(lowered.proto)(*subject.args)
    torch.testing.assert_close(got, wanted, atol=0.01, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_awkward_network_exports_and_runs_quantized(network):
    args, kwargs = network.inputs()
    subject = Subject.of(network.build(), *args, **kwargs)
    model = plain_copy(subject)
    exact = 1e-4 if "half" not in network.name and "bfloat" not in network.name else 5e-3
    assert compare(model, to_onnx(model, args, kwargs), args, kwargs) <= exact
    plan, done, stored = through_a_file(subject)
    lowered = lower_artifact(stored)
    assert set(lowered.integer) == set(plan.activations) & set(subject.sites)
    assert not_integer(lowered.proto, lowered.integer) == []
    told = {skip.site for skip in plan.skipped} | {reason.what for reason in lowered.reasons}
    assert set(plan.constraints) - set(plan.activations) <= told
    with torch.no_grad():
        outputs = pytree.tree_leaves(done.model(*args, **kwargs))
    inputs = arrays_of(lowered.proto, args, kwargs)
    for left, right in zip(outputs, OnnxRuntime().run(stored, inputs).values(), strict=True):
        assert np.abs(left.detach().float().numpy() - right).max() <= 0.02 * max(1.0, float(left.abs().max()))


def test_the_awkward_networks_are_there():
    assert "weight norm" in BY_NAME


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "lenet300"])
def test_the_bar_on_fashion_mnist(name):
    if not zoo.trained(name):
        pytest.skip(f"no trained weights of {name} data")
    try:
        task = datasets.load("fashion-mnist")
    except GossamerError as error:
        pytest.skip(f"no data: {error}")
    args, kwargs = task.example
    model = zoo.build(name, pretrained=True).eval()
    subject = Subject.of(model, *args, **kwargs)
    picked = torch.Generator().manual_seed(0)
    evidence = calibrate(subject, task.batches("train", samples=512, generator=picked), {"range"})
    frozen = freeze(apply(subject, PostTraining().plan(subject, evidence)))
    floats, integers = to_onnx(model, args, kwargs), to_onnx(frozen, args, kwargs)
    assert len(integers.SerializeToString()) <= 0.3 * len(floats.SerializeToString())
    assert not_integer(integers, frozen.activations) == []
    before = evaluate(Runner(floats), task, "test")["accuracy"]
    assert evaluate(Runner(integers), task, "test")["accuracy"] >= before - 0.003
