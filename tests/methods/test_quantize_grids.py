"""Kinds of grids and ranges: divergence against a slow reference, averages, groups, powers of two, widths."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import artifact
from gossamer.calibrate import calibrate
from gossamer.calibrate.extremes import Extremes
from gossamer.errors import SettingError
from gossamer.methods.quantize import PostTraining, kl
from gossamer.methods.quantize.ranges import choose_input_levels
from gossamer.methods.quantize.uniform import affine, coarse, symmetric
from gossamer.methods.quantize.weights import group_size
from gossamer.model import Subject, apply, freeze, live_weight, load, to_artifact


def slow_divergence(bins: list[float], cut: int, levels: int) -> float:
    """One number after the other, as the algorithm is told."""
    reference = list(bins[:cut])
    reference[-1] += sum(bins[cut:])
    members = {}
    for place in range(cut):
        if bins[place] > 0:
            members.setdefault(int(np.digitize(place, np.linspace(0, cut, levels + 1))) - 1, []).append(place)
    spread = [0.0] * cut
    for places in members.values():
        for place in places:
            spread[place] = sum(bins[p] for p in places) / len(places)
    total = 0.0
    for p, q in zip(reference, spread, strict=True):
        if p > 0:
            total += np.inf if q == 0 else p / sum(reference) * np.log(p / sum(reference) / (q / sum(spread)))
    return total


def test_a_divergence_by_hand():
    # Cut after 4 of 5 bins, 2 levels: P = (1, 3, 2, 2 + 2) / 10; Q = (2, 2, 2, 2) / 8.
    bins = np.array([1.0, 3.0, 2.0, 2.0, 2.0])
    wanted = sum(p * np.log(p / 0.25) for p in (0.1, 0.3, 0.2, 0.4))
    assert kl.divergence(bins, 4, 2) == pytest.approx(wanted)
    # An empty last bin cannot stand for what lies beyond.
    assert kl.divergence(np.array([1.0, 3.0, 2.0, 0.0, 2.0]), 4, 2) == np.inf


@pytest.mark.parametrize(("levels", "size"), [(4, 40), (5, 33), (8, 64)])
def test_the_range_of_least_divergence_is_that_of_the_slow_reference(levels, size, monkeypatch):
    monkeypatch.setattr(kl, "BINS", size)
    sizes = np.abs(np.random.default_rng(levels).laplace(size=500)).astype(np.float32)
    bins = np.histogram(sizes, size, (0.0, float(sizes.max())))[0].astype(float)
    bins[0] = bins[1]
    found = {cut: slow_divergence(list(bins), cut, levels) for cut in range(levels, size + 1)}
    for cut, wanted in found.items():
        assert kl.divergence(bins, cut, levels) == pytest.approx(wanted, abs=1e-12)
    best = min(sorted(found, reverse=True), key=found.__getitem__)
    assert kl.least_divergence(sizes, levels) == pytest.approx(float(sizes.max()) * best / size)


def test_divergence_clamps_a_far_outlier_and_nothing_at_many_levels():
    sizes = np.append(np.abs(np.random.default_rng(0).normal(size=20000)), 40.0).astype(np.float32)
    assert kl.least_divergence(sizes, 128) < 10
    assert kl.least_divergence(sizes, 1 << 15) == 40.0
    assert kl.least_divergence(np.zeros(4, np.float32), 128) == 0.0


def test_divergence_counts_the_levels_of_one_side():
    sample = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    ends = float(sample.min()), float(sample.max())
    one = choose_input_levels(sample, "kl", partial(affine, bits=8), ends)
    reach = kl.least_divergence(sample, 256)
    assert float(one.scale[0]) == pytest.approx(reach / 255)
    both = np.concatenate([sample, -sample / 4])
    two = choose_input_levels(both, "kl", partial(affine, bits=8), (-ends[1] / 4, ends[1]))
    assert two.zero[0] > 0


def test_moving_averages_of_ends_by_hand():
    ends = Extremes()
    for batch, low, high in [(0, -1.0, 2.0), (0, -3.0, 1.0), (1, 0.0, 4.0)]:
        ends.see(low, high, batch)
    # Batch 0 is -3 to 2, batch 1 is 0 to 4; weights 0.99 * 0.01 and 0.01, divided by their sum.
    assert ends.average() == pytest.approx((0.99 * -3 / 1.99, (0.99 * 2 + 4) / 1.99))
    assert (ends.low, ends.high) == (-3.0, 4.0)


def test_an_average_range_is_used():
    model = nn.Linear(3, 2)
    subject = Subject.of(model, torch.zeros(1, 3))
    batches = [((torch.tensor([[0.0, 1.0, high]]),), {}, None) for high in (2.0, 4.0)]
    evidence = calibrate(subject, batches, {"range"})
    plan = PostTraining(input_range="average").plan(subject, evidence)
    assert float(plan.activations["weight"].scale) == pytest.approx((0.99 * 2 + 4) / 1.99 / 255)


def test_powers_of_two_by_hand():
    # 1 / 3 goes to 1 / 2, 3 / 3 stays 1, 0.7 / 3 goes to 1 / 4.
    scale = symmetric(np.float32([-1, -1, 0]), np.float32([0, 3, 0.7]), 3, powers=True).scale
    np.testing.assert_array_equal(scale, np.float32([0.5, 1.0, 0.25]))
    levels = affine(np.float32([-1.0]), np.float32([1.9]), 2, powers=True)
    assert (levels.scale[0], levels.zero[0]) == (1.0, 1)


def test_coarse_scales_by_hand():
    levels = symmetric(np.float32([-1.0]), np.float32([0.0]), 3)
    # 1 / 3 = 0.101010101...b; three digits, rounded up: 0.0110b = 0.375.
    assert coarse(levels, 3).scale[0] == np.float32(0.375)
    assert coarse(symmetric(np.float32([0.0]), np.float32([3.0]), 3), 3).scale[0] == 1.0


class Every(nn.Module):
    """One of each kind of weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 32)
        self.conv = nn.Conv1d(32, 16, 3, padding=1)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        seen = self.conv(self.table(x).transpose(1, 2)).transpose(1, 2)
        return self.fc(self.lstm(seen)[0])


@pytest.fixture
def every():
    torch.manual_seed(0)
    return Subject.of(Every().eval(), torch.arange(6).view(1, 6))


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("codes", ["symmetric", "affine"])
@pytest.mark.parametrize("scales", ["tensor", "channel", 16])
@pytest.mark.parametrize("powers", [False, True])
def test_weights_alone_of_any_width(every, bits, codes, scales, powers):
    method = PostTraining(
        weight_bits=bits,
        weight_codes=codes,
        weight_scales=scales,
        weight_range="minmax",
        powers_of_two=powers,
        inputs=False,
    )
    plan = method.plan(every)
    assert set(plan.constraints) == set(every.sites)
    done = apply(every, plan)
    for name, grid in plan.constraints.items():
        weight = every.model.get_parameter(name).detach()
        assert grid.groups == (weight[0].numel() // 16 if scales == 16 and weight[0].numel() > 16 else 0)
        share = torch.frexp(grid.scale)[0]
        assert not powers or bool((share == 0.5).all())
        # An end may lie half a step off where zero is rounded to a level.
        assert float((live_weight(done, name) - weight).abs().max()) <= 1.01 * float(grid.scale.max())
        assert int(grid.quantize(weight).max()) <= grid.codes_range[1]


def test_groups_err_less_than_channels_and_those_less_than_a_tensor(every):
    errors = []
    for scales in ("tensor", "channel", 16):
        done = apply(every, PostTraining(weight_bits=3, weight_scales=scales, inputs=False).plan(every))
        errors.append(float((live_weight(done, "conv.weight") - every.model.conv.weight.detach()).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.9 * errors[1]


def test_a_group_takes_an_equal_share_of_a_row_or_none(every):
    site = every.sites["conv.weight"]
    assert [group_size(site, most) for most in (0, 96, 64, 50, 32, 7)] == [0, 0, 48, 48, 32, 6]
    prime = Subject.of(nn.Linear(37, 3), torch.zeros(1, 37))
    plan = PostTraining(weight_scales=16, inputs=False).plan(prime)
    assert [skip.reason for skip in plan.skipped] == [
        "one scale per channel, for its rows of 37 weights are no equal groups of about 16"
    ]


def test_groups_are_multiplied_in_floats_and_the_plan_says_so(every):
    plan = PostTraining(weight_bits=4, weight_scales=16).plan(
        every, calibrate(every, [(every.args, {}, None)], {"range"})
    )
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    assert reasons["conv.weight"] == (
        "stored in 4 bits, multiplied in float: its sums would need a scale after every 16 products"
    )
    assert set(plan.activations) == {"fc.weight"}


def test_a_file_of_groups_of_four_bits(every, tmp_path):
    done = apply(every, PostTraining(weight_bits=4, weight_scales=16, inputs=False).plan(every))
    artifact.save(tmp_path / "a.goss", to_artifact(freeze(done)))
    filled = load(tmp_path / "a.goss").into(Every().eval())
    with torch.no_grad():
        assert torch.equal(filled(*every.args), done.model(*every.args))


@pytest.mark.parametrize("codes", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_inputs_of_any_width(bits, codes):
    subject = Subject.of(nn.Linear(8, 4).eval(), torch.randn(64, 8))
    evidence = calibrate(subject, [(subject.args, {}, None)], {"range"})
    method = PostTraining(input_bits=bits, input_codes=codes, input_range="minmax", powers_of_two=True)
    grid = method.plan(subject, evidence).activations["weight"]
    assert (grid.bits, grid.signed) == (bits, codes == "symmetric")
    x = subject.args[0]
    assert float((grid.snap(x) - x).abs().max()) <= float(grid.scale)


@pytest.mark.parametrize(
    "wrong", [{"weight_bits": 17}, {"input_bits": 1}, {"weight_scales": 1}, {"weight_range": "kl"}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        PostTraining(**wrong)
