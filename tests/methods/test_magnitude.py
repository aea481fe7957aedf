"""Magnitude pruning: exact counts, ties, nesting, scopes."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.errors import ModelError, PatternError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.prune.ranking import keep_largest
from gossamer.model import Subject, apply, live_weight


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def subject():
    return Subject.of(network(), torch.randn(2, 6))


def zeros(found):
    return {name: int((live_weight(found, name) == 0).sum()) for name in found.sites}


def test_by_hand():
    a = np.array([3, 1, 2], dtype=np.float32)
    b = np.array([0.5, 4], dtype=np.float32)
    keep = keep_largest([a, b], 0.4)
    assert keep[0].tolist() == [True, False, True]
    assert keep[1].tolist() == [False, True]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.5, 0.9, 0.999, 1.0])
def test_against_a_full_sort(sparsity):
    rng = np.random.default_rng(3)
    parts = [np.abs(rng.integers(-4, 5, size)).astype(np.float32) for size in (7, 40, 13)]
    together = np.concatenate(parts)
    order = sorted(range(together.size), key=lambda i: (together[i], i))
    gone = max(int(sparsity * together.size + 0.5), int((together == 0).sum()))
    expected = np.ones(together.size, bool)
    expected[order[:gone]] = False
    np.testing.assert_array_equal(np.concatenate(keep_largest(parts, sparsity)), expected)


def test_ties_go_in_order_and_masks_nest():
    same = [np.ones(10, dtype=np.float32)]
    assert keep_largest(same, 0.3)[0].tolist() == [False] * 3 + [True] * 7
    before = keep_largest(same, 0.3)[0]
    for sparsity in np.linspace(0.3, 1, 8):
        after = keep_largest(same, sparsity)[0]
        assert not (after & ~before).any()
        before = after


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exact_count_and_nothing_but_the_smallest(scope):
    plain = subject()
    pruned = apply(plain, Magnitude(sparsity=0.6, scope=scope).plan(plain))
    assert sum(zeros(pruned).values()) == 30
    if scope == "layer":
        assert zeros(pruned) == {"0.weight": 18, "2.weight": 12}
    scores = torch.cat([live_weight(plain, name).flatten().abs() for name in plain.sites])
    kept = torch.cat([live_weight(pruned, name).flatten() != 0 for name in plain.sites])
    if scope == "global":
        assert scores[kept].min() > scores[~kept].max()


def test_more_sparsity_keeps_earlier_zeros_and_less_brings_none_back():
    half = apply(subject(), Magnitude(sparsity=0.5).plan(subject()))
    more = apply(half, Magnitude(sparsity=0.8).plan(half))
    less = apply(half, Magnitude(sparsity=0.2).plan(half))
    for name in half.sites:
        gone = live_weight(half, name) == 0
        assert bool((live_weight(more, name)[gone] == 0).all())
        assert torch.equal(live_weight(less, name), live_weight(half, name))
    assert sum(zeros(more).values()) == 40


def test_include_and_exclude():
    plain = subject()
    plan = Magnitude(sparsity=0.5, exclude=("2.*",)).plan(plain)
    assert list(plan.constraints) == ["0.weight"]
    with pytest.raises(PatternError, match="matches no site"):
        Magnitude(sparsity=0.5, include=("conv*",)).plan(plain)


def test_zero_sparsity_plans_nothing():
    assert not Magnitude(sparsity=0.0).plan(subject()).constraints


def test_half_precision_weights():
    plain = Subject.of(network().half(), torch.randn(2, 6).half())
    pruned = apply(plain, Magnitude(sparsity=0.6).plan(plain))
    assert sum(zeros(pruned).values()) == 30


def test_bad_settings_and_weights():
    for sparsity in (-0.1, 1.1, "half", float("nan")):
        with pytest.raises(SettingError, match=r"Magnitude\.sparsity"):
            Magnitude(sparsity=sparsity)
    with pytest.raises(SettingError, match=r"Magnitude\.scope"):
        Magnitude(sparsity=0.5, scope="column")
    plain = subject()
    plain.model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"2\.weight: a weight is not finite"):
        Magnitude(sparsity=0.5).plan(plain)
