"""Trellis-coded quantization: the Viterbi search against every path and against a slow one."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.artifact import dumps, loads
from gossamer.calibrate import calibrate
from gossamer.codings import Affine, Paths
from gossamer.codings.paths import BEFORE, FIRST, GRIDS, STATES, follow
from gossamer.codings.rates import Rates
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining, RateDistortion
from gossamer.methods.quantize.feedback import Part
from gossamer.methods.quantize.trellis import traced
from gossamer.model import Subject, apply, freeze, live_weight, to_artifact
from gossamer.task import Batch, cross_entropy


def flat(shape, bits=1.0):
    every = np.full(shape, bits)
    return Rates(every, every + 1, every + 1.5, np.arange(1.0, 40.0))


def bits_of(costs, r, c, k):
    sign = costs.zero[r, c] if k == 0 else (costs.above if k > 0 else costs.below)[r, c]
    return sign + (costs.distance[abs(k) - 1] if k else 0)


@pytest.mark.parametrize("price", [1e-9, 0.02, 0.1])
def test_the_best_of_all_paths(price):
    rng = np.random.default_rng(0)
    W, g, H = rng.normal(size=(3, 5)), rng.uniform(0.5, 2, 3), rng.uniform(0.5, 2, 5)
    found = traced(Part(W, g, H, 0.0).bands(0.0), 0.4, price, flat(W.shape), np.ones(W.shape, bool))
    every = np.array(list(itertools.product(range(-4, 5), repeat=5)))
    errors = follow(every) * 0.4
    for r in range(3):
        spent = np.where(every == 0, 1, np.where(every > 0, 2.5, 2) + abs(every)).sum(1)
        costs = 0.5 * g[r] * ((errors - W[r]) ** 2) @ H + price * spent
        np.testing.assert_array_equal(found[r], every[costs.argmin()])


def slow(W, g, H, step, price, costs, free):
    """One row at a time; every survivor solves anew for all its later columns, and every index up to 9 is tried."""
    rows, inputs = W.shape
    K = np.zeros(W.shape, np.int64)
    for r in range(rows):
        paths = {FIRST: (0.0, [], np.zeros(inputs))}
        for c in range(inputs):
            rest, done, later = np.arange(c, inputs), np.arange(c), np.arange(c + 1, inputs)
            cross = H[c, later]
            left = H[c, c] - (cross @ np.linalg.solve(H[np.ix_(later, later)], cross) if len(later) else 0)
            tried = {}
            for state, (spent, path, e) in paths.items():
                w = W[r, c] + np.linalg.solve(H[np.ix_(rest, rest)], H[np.ix_(rest, done)] @ e[done])[0]
                for k in range(-9, 10) if free[r, c] else [0]:
                    value = step * (2 * k - np.sign(k) * GRIDS[state])
                    cost = spent + 0.5 * g[r] * left * (w - value) ** 2 + price * bits_of(costs, r, c, k)
                    after = next(s for s in range(STATES) if (state, k & 1) in BEFORE[s])
                    if after not in tried or cost < tried[after][0]:
                        error = e.copy()
                        error[c] = W[r, c] - value
                        tried[after] = cost, [*path, k], error
            paths = tried
        K[r] = min(paths.values(), key=lambda one: one[0])[1]
    return K


@pytest.mark.parametrize("price", [1e-9, 0.01, 0.05])
def test_every_survivor_has_its_own_errors(price):
    rng = np.random.default_rng(2)
    W, g = rng.normal(size=(3, 40)), rng.uniform(0.5, 2, 3)
    X = rng.normal(size=(40, 90))
    H = X @ X.T / 90
    free = rng.uniform(size=W.shape) < 0.9
    found = traced(Part(W, g, H, 0.0).bands(0.0), 0.3, price, flat(W.shape), free)
    np.testing.assert_array_equal(found, slow(W, g, H, 0.3, price, flat(W.shape), free))
    assert not found[~free].any()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 24)
        self.conv, self.fc = nn.Conv1d(24, 32, 3, padding=1, groups=2), nn.Linear(32, 12)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(self.embed(x).transpose(1, 2))).transpose(1, 2)).transpose(1, 2)


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return Subject.of(Net().eval(), torch.zeros(1, 20, dtype=torch.int64))


@pytest.fixture(scope="module")
def evidence(subject):
    generator = torch.Generator().manual_seed(1)
    given = [torch.randint(0, 12, (8, 20), generator=generator) for _ in range(6)]
    batches = [Batch((x,), {}, x) for x in given]
    return calibrate(subject, batches, RateDistortion.needs, loss=cross_entropy)


@pytest.mark.slow
def test_paths_take_fewer_bytes_at_no_more_error_and_are_read_back(subject, evidence):
    found = {}
    for trellis, price in ((False, 0.002), (True, 0.0018)):
        live = apply(subject, RateDistortion(price=price, trellis=trellis).plan(subject, evidence))
        stored = to_artifact(freeze(live))
        data = dumps(stored)
        read = loads(data)
        for name in subject.sites:
            np.testing.assert_array_equal(read.array(name), live_weight(live, name).detach().numpy())
        errors = [live_weight(live, name) - live_weight(subject, name) for name in ("conv.weight", "fc.weight")]
        codes = {name: tree.codes for name, tree in stored.tensors.items() if isinstance(tree, Affine)}
        found[trellis] = len(data), float(sum((error**2).sum() for error in errors)), codes
    assert isinstance(found[True][2]["conv.weight"], Paths)
    assert not isinstance(found[True][2]["embed.weight"], Paths), "its rows are columns of what is rounded"
    assert not any(isinstance(code, Paths) for code in found[False][2].values())
    assert found[True][0] < found[False][0]
    assert found[True][1] < found[False][1]


@pytest.mark.slow
def test_a_narrow_grid_that_paths_do_not_fit_on_leaves_plain_numbers(subject, evidence):
    seen = calibrate(subject, [((torch.zeros(1, 20, dtype=torch.int64),), {}, None)], {"range"})
    narrow = apply(subject, PostTraining(weight_bits=4, inputs=False).plan(subject, seen))
    plain, traced_ = (RateDistortion(price=0.002, trellis=trellis).plan(narrow, evidence) for trellis in (False, True))
    assert set(plain.constraints) == set(traced_.constraints)
    assert all(grid.bits <= 4 for grid in traced_.constraints.values())


def test_two_rows_of_many_columns_are_not_on_paths():
    torch.manual_seed(0)
    wide = Subject.of(nn.Linear(600, 2), torch.zeros(1, 600))
    batches = [Batch((torch.randn(8, 600),), {}, torch.zeros(8, dtype=torch.int64)) for _ in range(3)]
    evidence = calibrate(wide, batches, RateDistortion.needs, loss=cross_entropy)
    plan = RateDistortion(price=0.5, trellis=True).plan(wide, evidence)
    stored = to_artifact(freeze(apply(wide, plan))).tensors["weight"]
    assert not (isinstance(stored, Affine) and isinstance(stored.codes, Paths))


@pytest.mark.slow
def test_zeros_of_a_mask_stay(subject, evidence):
    masked = apply(subject, Magnitude(sparsity=0.5).plan(subject))
    live = apply(masked, RateDistortion(price=0.002, trellis=True).plan(masked, evidence))
    for name in subject.sites:
        keep = masked.constraints[name].mask.keep
        assert not live_weight(live, name)[~keep].any()
    plain = apply(masked, RateDistortion(price=0.002).plan(masked, evidence))
    for name in subject.sites:
        assert torch.equal(live_weight(live, name), live_weight(plain, name)), "codes under a mask lie apart"
