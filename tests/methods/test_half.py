"""Half precision: rounding by hand, what is left alone, and that the file is half as long."""

import pytest
import torch
from torch import nn

from gossamer import artifact
from gossamer.methods.quantize import Half, PostTraining
from gossamer.model import Mask, Plan, Subject, apply, freeze, load, to_artifact


def subject_of(model: nn.Module, *args) -> Subject:
    return Subject.of(model.eval(), *args)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        # Next to 1 float16 has steps of 2^-10, bfloat16 of 2^-7; half of one goes to the even neighbour.
        ("float16", [1.0, 1.0, 1 + 2**-9, -1 - 2**-7]),
        ("bfloat16", [1.0, 1.0, 1.0, -1 - 2**-7]),
    ],
)
def test_rounding_by_hand(dtype, wanted):
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-7]]))
    subject = subject_of(layer, torch.randn(1, 4))
    plan = Half(dtype=dtype).plan(subject)
    assert plan.tensors["weight"].tolist() == [wanted]
    assert apply(subject, plan).model.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_file_is_half_as_long_and_gives_equal_bits(dtype, tmp_path):
    torch.manual_seed(0)
    subject = subject_of(nn.LSTM(64, 64), torch.randn(3, 1, 64))
    sizes = []
    for name, one in (("whole", subject), ("half", apply(subject, Half(dtype=dtype).plan(subject)))):
        artifact.save(tmp_path / f"{name}.goss", to_artifact(freeze(one)))
        sizes.append((tmp_path / f"{name}.goss").stat().st_size)
    assert sizes[1] <= 0.54 * sizes[0]
    filled = load(tmp_path / "half.goss").into(nn.LSTM(64, 64))
    assert torch.equal(filled.weight_hh_l0, subject.model.weight_hh_l0.to(getattr(torch, dtype)).float())


def test_what_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[0, 0] = 1e6
    subject = subject_of(model, torch.randn(1, 4))
    subject = apply(subject, PostTraining(inputs=False, include=("0.weight",)).plan(subject))
    plan = Half().plan(subject)
    assert {skip.site: skip.reason for skip in plan.skipped} == {
        "0.weight": "it is on a grid of 8 bits",
        "1.weight": "it has values beyond those of float16",
    }
    assert list(plan.tensors) == ["2.weight"]
    assert list(Half(dtype="bfloat16").plan(subject).tensors) == ["1.weight", "2.weight"]
    half = subject_of(nn.Linear(4, 4).half(), torch.randn(1, 4).half())
    assert [skip.reason for skip in Half().plan(half).skipped] == ["it is float16 already"]


def test_zeros_stay_zero():
    subject = subject_of(nn.Linear(4, 4), torch.randn(1, 4))
    keep = torch.eye(4, dtype=torch.bool)
    subject = apply(subject, Plan("t", {"weight": Mask(keep)}))
    done = apply(subject, Half().plan(subject))
    assert not done.model.weight[~keep].any()
