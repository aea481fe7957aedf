"""What a plan says of the target is what the target does."""

import pytest
import torch
from graphs.build import graph, node
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.targets import lower_frozen, not_integer
from gossamer.targets.convert import graph_of
from gossamer.targets.levels import weight_levels

OWN_ZEROS = "each output has a zero of its own, which only codes of 7 bits or less can be taken less"
FLOAT = "stored in {} bits, multiplied in float: {}"


def planned(layer, x, **settings):
    subject = Subject.of(layer.eval(), x)
    evidence = calibrate(subject, [((x,), {}, None)], PostTraining().needs)
    method = PostTraining(input_range="minmax", weight_range="minmax", **settings)
    plan = method.plan(subject, evidence)
    return plan, freeze(apply(subject, plan))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight_bits": 8}, None),
        ({"weight_bits": 8, "weight_codes": "affine"}, OWN_ZEROS),
        ({"weight_bits": 7, "weight_codes": "affine"}, None),
        ({"weight_bits": 8, "weight_codes": "affine", "weight_scales": "tensor"}, None),
        ({"weight_bits": 12}, "its codes have 12 bits, wanted 8 or less"),
        ({"weight_bits": 12, "weight_scales": 80}, "its codes have 12 bits, wanted 8 or less"),
        ({"weight_bits": 4, "weight_scales": 100}, "its groups of 100 inputs are no blocks of 16, 32, 64 or 128"),
        ({"weight_bits": 8, "weight_scales": 80}, None),
        ({"weight_bits": 4, "weight_codes": "affine", "weight_scales": 80}, None),
        ({"weight_bits": 4, "weight_codes": "affine", "inputs": False}, None),
    ],
)
def test_linear_layers(settings, said):
    plan, frozen = planned(nn.Linear(400, 200, bias=False), torch.randn(4, 400), **settings)
    assert [skip.reason for skip in plan.skipped] == ([FLOAT.format(settings["weight_bits"], said)] if said else [])
    blocks = isinstance(settings.get("weight_scales"), int) or not settings.get("inputs", True)
    assert set(plan.activations) == (set() if said or blocks else {"weight"})
    proto = graph([node("Gemm", "x weight", "y", transB=1)], {"x": ("batch", 400)}, ("y",))
    lowered = lower_frozen(frozen, proto)
    assert lowered.integer == (() if said else ("weight",))
    assert not_integer(lowered.proto, lowered.integer) == []
    assert ("MatMulNBits" in {node.op_type for node in lowered.proto.graph.node}) == (blocks and not said)


def test_weights_beyond_8_bits_are_listed():
    _, frozen = planned(nn.Linear(400, 200, bias=False), torch.randn(4, 400), weight_bits=16, inputs=False)
    lowered = lower_frozen(frozen, graph_of(frozen, (torch.randn(4, 400),)))
    assert [reason.what for reason in lowered.reasons] == ["weight"]
    assert "more than 8 bits" in lowered.reasons[0].why


def test_codes_less_their_zeros_by_hand():
    """Rows 0..3 and -3..0 in 2 bits: zeros 0 and 3, codes 0..3 in both, less their zeros 0..3 and -3..0."""
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1, 2, 3], [-3, -2, -1, 0]])
    plan, frozen = planned(layer, torch.rand(8, 4), weight_bits=2, weight_codes="affine")
    assert plan.constraints["weight"].zero.tolist() == [0, 3]
    weight = weight_levels(to_artifact(frozen).tensors["weight"]).about_zero
    assert weight.codes.tolist() == [[0, 1, 2, 3], [-3, -2, -1, 0]]
    assert weight.zero.tolist() == [0, 0]
    assert weight.scale.tolist() == [1.0, 1.0]
    assert weight.values.tolist() == layer.weight.tolist()


def test_a_small_layer_with_groups_is_multiplied_in_float():
    plan, _ = planned(nn.Linear(64, 8, bias=False), torch.randn(4, 64), weight_bits=4, weight_scales=32)
    assert [skip.reason for skip in plan.skipped] == [FLOAT.format(4, "512 values are too few for blocks of 4 bits")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight_bits": 8}, None),
        ({"weight_bits": 8, "weight_codes": "affine"}, OWN_ZEROS),
        ({"weight_bits": 7, "weight_codes": "affine"}, None),
        ({"weight_bits": 4, "weight_scales": 9}, "its sums would need a scale after every 9 products"),
    ],
)
def test_convolutions(settings, said):
    x = torch.randn(2, 4, 8, 8)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
    plan, frozen = planned(model, x, **settings)
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    assert reasons.get("0.weight") == (FLOAT.format(settings["weight_bits"], said) if said else None)
    assert ("0.weight" in plan.activations) == (said is None)
    assert ("0.weight" in lower_frozen(frozen, graph_of(frozen, (x,))).integer) == (said is None)
