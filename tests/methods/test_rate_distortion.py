"""Rate-distortion quantization: the sweep against a slow one, what is kept, what is skipped, the price of bits."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.artifact import dumps, loads
from gossamer.calibrate import calibrate
from gossamer.codings.rates import Rates, rates
from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining, RateDistortion
from gossamer.methods.quantize.feedback import Part, rounded
from gossamer.methods.quantize.rate_search import Search
from gossamer.methods.share import KMeans
from gossamer.model import Subject, apply, freeze, live_weight, to_artifact
from gossamer.model.arrays import to_tensor
from gossamer.task import Batch, cross_entropy

NEEDS = RateDistortion.needs


def flat(shape, bits=1.0):
    every = np.full(shape, bits)
    return Rates(every, every + 1, every + 1, np.arange(1.0, 40.0))


def slow(W, g, H, step, price, costs, free):
    """One column at a time; all later columns are solved for anew, and every number up to 20 is tried."""
    rows, inputs = W.shape
    Q = np.zeros(W.shape, np.int64)
    for r in range(rows):
        e = np.zeros(inputs)
        for c in range(inputs):
            rest, done = np.arange(c, inputs), np.arange(c)
            w = W[r, rest] + np.linalg.solve(H[np.ix_(rest, rest)], H[np.ix_(rest, done)] @ e[done])
            later = np.arange(c + 1, inputs)
            cross = H[c, later]
            left = H[c, c] - (cross @ np.linalg.solve(H[np.ix_(later, later)], cross) if len(later) else 0)
            best = None
            for k in range(-20, 21) if free[r, c] else [0]:
                sign = costs.zero[r, c] if k == 0 else (costs.above if k > 0 else costs.below)[r, c]
                bits = sign + (costs.distance[abs(k) - 1] if k else 0)
                cost = 0.5 * g[r] * left * (w[0] - k * step) ** 2 + price * bits
                if best is None or cost < best[0]:
                    best = cost, k
            Q[r, c] = best[1]
            e[c] = W[r, c] - step * best[1]
    return Q


@pytest.mark.parametrize("price", [1e-9, 0.01, 0.05])
def test_the_sweep_against_one_number_at_a_time(price):
    rng = np.random.default_rng(0)
    W, g = rng.normal(size=(3, 7)), rng.uniform(0.5, 2, 3)
    X = rng.normal(size=(7, 30))
    H = X @ X.T / 30
    free = rng.uniform(size=W.shape) < 0.9
    found = rounded(Part(W, g, H, 0.0).bands(0.0), 0.3, price, flat(W.shape), free)
    np.testing.assert_array_equal(found, slow(W, g, H, 0.3, price, flat(W.shape), free))


def test_by_hand():
    # H is diagonal, so nothing makes up for anything: 1.4 steps at an error price of 1/2 · 4 · 0.25 = 0.5 a square.
    W, H = np.array([[0.7, -0.2, 0.7]]), np.array([4.0, 4.0, 0.0])
    costs = Rates(np.zeros((1, 3)), np.ones((1, 3)), np.ones((1, 3)), np.array([1.0, 2.0]))
    # One: 0.5 · 0.16 + 0.1 · 2 = 0.28; zero: 0.5 · 1.96 = 0.98. At a price of 0.5: 1.08 against 0.98.
    np.testing.assert_array_equal(rounded(Part(W, np.ones(1), H, 0.0).bands(0.0), 0.5, 0.1, costs, W != 0), [[1, 0, 0]])
    np.testing.assert_array_equal(rounded(Part(W, np.ones(1), H, 0.0).bands(0.0), 0.5, 0.5, costs, W != 0), [[0, 0, 0]])


def test_feedback_makes_outputs_better():
    rng = np.random.default_rng(1)
    W = rng.normal(size=(20, 40))
    X = rng.normal(size=(40, 10)) @ rng.normal(size=(10, 200)) + 0.1 * rng.normal(size=(40, 200))
    part = Part(W, np.ones(20), X @ X.T / 200, 0.01)
    fed = rounded(part.bands(0.0), 0.5, 1e-9, flat(W.shape), np.ones(W.shape, bool))
    plain = np.rint(W / 0.5)
    assert part.distortion(W - 0.5 * fed) < 0.3 * part.distortion(W - 0.5 * plain)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 12, 3, groups=2)
        self.norm = nn.BatchNorm1d(12)
        self.rnn = nn.LSTM(12, 10, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.norm(self.conv(self.table(x).transpose(1, 2)))
        return self.head(self.rnn(x.transpose(1, 2))[0][:, -1])


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Net()
    tokens = torch.randint(0, 11, (256, 9))
    targets = tokens[:, 0] % 4
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        cross_entropy(model(tokens), targets).backward()
        optimizer.step()
    subject = Subject.of(model.eval(), tokens[:1])
    data = [Batch((tokens[i : i + 8],), {}, targets[i : i + 8]) for i in range(0, 256, 8)]
    return subject, data, calibrate(subject, data, NEEDS, loss=cross_entropy)


def size(subject):
    return len(dumps(to_artifact(freeze(subject))))


def loss(subject, data):
    with torch.no_grad():
        return float(torch.stack([cross_entropy(subject.model(*b.args), b.targets) for b in data]).mean())


@pytest.mark.slow
def test_every_kind_of_site_goes_and_a_dearer_bit_makes_a_smaller_file(trained):
    subject, data, evidence = trained
    sizes, losses = [], []
    for price in (1e-4, 0.01, 0.5):
        plan = RateDistortion(price=price).plan(subject, evidence)
        assert not plan.skipped
        assert set(plan.constraints) == set(subject.sites)
        new = apply(subject, plan)
        sizes.append(size(new))
        losses.append(loss(new, data))
    assert sizes[0] > sizes[1] > sizes[2]
    assert losses[0] == pytest.approx(loss(subject, data), abs=0.01)
    assert losses[0] < losses[2]


def test_values_are_on_the_grid_and_come_back_from_a_file(trained):
    subject, _, evidence = trained
    plan = RateDistortion(price=0.01).plan(subject, evidence)
    new = apply(subject, plan)
    for name, grid in plan.constraints.items():
        codes = live_weight(new, name) / grid.scale
        torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    frozen = freeze(new)
    read = loads(dumps(to_artifact(frozen)))
    for name, tensor in frozen.model.state_dict().items():
        np.testing.assert_array_equal(read.array(name), tensor.numpy())


def test_biases_are_rounded_alone_where_no_site_is_named(trained):
    subject, _, evidence = trained
    plan = RateDistortion(price=0.01, exclude=tuple(subject.sites)).plan(subject, evidence)
    assert not plan.constraints
    whole = RateDistortion(price=0.01).plan(subject, evidence).tensors
    assert set(plan.tensors) == set(whole) - set(subject.sites)
    moved = {"conv.bias", "head.bias"}
    assert all(torch.equal(values, whole[name]) for name, values in plan.tensors.items() if name not in moved)


@pytest.mark.slow
def test_biases_and_statistics_are_rounded_by_the_price_too(trained):
    subject, data, evidence = trained
    plan = RateDistortion(price=0.01).plan(subject, evidence)
    small = {"conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "head.bias"}
    assert small <= set(plan.tensors)
    for name in small:
        codes = plan.tensors[name] * 2**20
        assert bool((codes == codes.round()).all()), name
    plain = RateDistortion(price=0.01, others=False).plan(subject, evidence)
    assert set(plain.tensors) - set(subject.sites) == {"conv.bias", "head.bias"}  # which take up means
    one, other = apply(subject, plan), apply(subject, plain)
    assert size(one) < size(other)
    assert loss(one, data) == pytest.approx(loss(other, data), abs=0.02)


def test_zeros_of_a_mask_stay_and_shared_values_are_left_alone(trained):
    subject, data, _ = trained
    pruned = apply(subject, Magnitude(sparsity=0.6, include=("head*", "rnn*")).plan(subject))
    shared = apply(pruned, KMeans(bits=2, include=("conv*",)).plan(pruned))
    evidence = calibrate(shared, data, NEEDS, loss=cross_entropy)
    plan = RateDistortion(price=1e-4).plan(shared, evidence)
    assert [(skip.site, skip.reason) for skip in plan.skipped] == [("conv.weight", "its values are shared")]
    new = apply(shared, plan)
    for name in ("head.weight", "rnn.weight_hh_l0"):
        assert bool((live_weight(new, name)[live_weight(pruned, name) == 0] == 0).all())


def test_it_gets_no_finer_than_a_grid_that_holds(trained):
    subject, data, _ = trained
    coarse = apply(subject, PostTraining(weight_bits=2, inputs=False, include=("head*",)).plan(subject))
    evidence = calibrate(coarse, data, NEEDS, loss=cross_entropy)
    plan = RateDistortion(price=1e-4).plan(coarse, evidence)
    held = plan.constraints.get("head.weight")
    assert held is None or held.bits <= 2


def test_outputs_alone_can_be_what_counts(trained):
    subject, data, _ = trained
    evidence = calibrate(subject, data, {"second_moment", "mean"})
    plan = RateDistortion(price=0.05, weigh="outputs", others=False).plan(subject, evidence)
    assert set(plan.constraints) == set(subject.sites)


def test_bad_input_is_told(trained):
    subject, data, evidence = trained
    with pytest.raises(EvidenceError, match="given no evidence"):
        RateDistortion().plan(subject)
    with pytest.raises(EvidenceError, match="evidence without curvature"):
        RateDistortion().plan(subject, calibrate(subject, data, "range"))
    broken = subject.copy()
    broken.model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"head\.weight: a weight is not finite"):
        RateDistortion().plan(broken, evidence)


def test_all_zero_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(model[0].weight)
    subject = Subject.of(model, torch.zeros(1, 4))
    data = [Batch((torch.randn(4, 4),), {}, torch.zeros(4, dtype=torch.int64))]
    plan = RateDistortion().plan(subject, calibrate(subject, data, NEEDS, loss=cross_entropy))
    assert [skip.reason for skip in plan.skipped] == ["all its values are zero"]


@pytest.mark.slow
def test_plans_are_the_same_twice(trained):
    subject, _, evidence = trained
    one, two = (RateDistortion(price=0.01).plan(subject, evidence) for _ in range(2))
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    assert to_tensor(freeze(apply(subject, one)).tensors["head.weight"]).shape == (4, 10)
    assert rates(np.zeros((4, 4), np.int64)).zero.shape == (4, 4)


def test_a_weight_with_two_uses_or_rows_without_one_is_left_alone():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 4)
            self.wide = nn.Parameter(torch.randn(8, 4))

        def forward(self, x):
            x = nn.functional.linear(self.table(x), self.wide[:4])
            return nn.functional.linear(x, self.table.weight)

    model = Tied()
    data = [Batch((torch.randint(0, 6, (8,)),), {}, torch.zeros(8, dtype=torch.int64)) for _ in range(4)]
    subject = Subject.of(model, data[0].args[0])
    plan = RateDistortion().plan(subject, calibrate(subject, data, NEEDS, loss=cross_entropy))
    assert {skip.site for skip in plan.skipped} == {"table.weight", "wide"}
    assert not plan.constraints


def test_a_variance_stays_positive():
    model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.Linear(24, 3)).eval()
    model[1].running_var.copy_(torch.logspace(-4, 1, 24))
    data = [Batch((torch.randn(8, 6),), {}, torch.zeros(8, dtype=torch.int64)) for _ in range(8)]
    subject = Subject.of(model, torch.zeros(1, 6))
    evidence = calibrate(subject, data, NEEDS, loss=cross_entropy)
    found = RateDistortion(price=0.1).plan(subject, evidence).tensors["1.running_var"]
    assert bool((found > 0).all())


def test_inputs_that_are_always_zero_are_told():
    subject = Subject.of(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4))
    data = [Batch((torch.zeros(4, 4),), {}, torch.zeros(4, dtype=torch.int64))]
    plan = RateDistortion().plan(subject, calibrate(subject, data, NEEDS, loss=cross_entropy))
    assert [skip.reason for skip in plan.skipped] == ["its inputs are all zero"]


@pytest.mark.parametrize("price", [1e-12, 1e3])
def test_no_price_is_too_small_or_too_great(trained, price):
    subject, _, evidence = trained
    plan = RateDistortion(price=price).plan(subject, evidence)
    assert all(grid.bits <= 16 for grid in plan.constraints.values())


def test_finer_steps_are_within_reach(trained):
    subject, _, evidence = trained
    problem = RateDistortion()._problem(subject, "rnn.weight_ih_l0", evidence)
    search = Search(problem, 1e-6)
    coarse = search._better(search._start(problem.first_step(1e-6)))
    finer = search._better(coarse, coarse.step / 2)
    assert int(np.abs(finer.codes).max()) > 1.6 * int(np.abs(coarse.codes).max())


def test_bits_of_later_weights_count():
    # W = (1, 1), H = ((2, 1), (1, 2)), g = 1: with a prior of 1, H' = ((3, 1), (1, 3)) and W H = (3, 3) gives 3/4 each.
    W, H = np.array([[1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 2.0]])
    (band,) = Part(W, np.ones(1), H, 0.0).bands(np.log(2))
    np.testing.assert_allclose(band.start, [[0.75, 0.75]])
    np.testing.assert_allclose(band.left, [3 - 1 / 3, 3])  # of the first once the second is free; of the last
    np.testing.assert_allclose(band.moves, [[1, -1 / 3], [0, 1]])
    assert band.worth == pytest.approx(1.0)


@pytest.mark.slow
def test_the_prior_makes_the_whole_cost_less():
    rng = np.random.default_rng(2)
    W, X = rng.normal(size=(64, 96)), rng.normal(size=(96, 96)) @ rng.normal(size=(96, 500))
    part = Part(W, np.geomspace(0.5, 2, 64), X @ X.T / len(X) / 500, 0.01)
    step, price = 0.7, 0.1

    def cost(bands):
        codes = np.rint(W / step).astype(np.int64)
        for _ in range(4):
            codes = rounded(bands, step, price, rates(codes), np.ones(W.shape, bool))
        return part.distortion(W - step * codes) + price * rates(codes).total(codes)

    bands = part.bands(price)
    assert len(bands) > 1
    assert sorted(row for band in bands for row in band.rows) == list(range(64))
    assert cost(bands) < 0.98 * cost(part.bands(0.0))


def test_outputs_that_do_not_count_have_bands():
    part = Part(np.full((3, 4), 1e-4), np.array([0.0, 1.0, 1.0]), np.eye(4), 0.01)
    for band in part.bands(1e-6, 0.5):
        assert np.isfinite(band.moves).all()
        assert np.isfinite(band.left).all()


class Cells(nn.Module):
    """Two layers of an LSTM, and a GRU, whose two biases do not simply add up."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.gru = nn.GRU(5, 3, batch_first=True)

    def forward(self, x):
        return self.gru(self.lstm(x)[0])[0][:, -1]


def test_of_the_two_biases_of_an_lstm_one_is_left():
    torch.manual_seed(0)
    x, targets = torch.randn(32, 6, 4), torch.arange(32) % 3
    subject = Subject.of(Cells().eval(), x[:1])
    data = [Batch((x,), {}, targets)]
    evidence = calibrate(subject, data, NEEDS, loss=cross_entropy)
    method = RateDistortion(price=1e-6)
    new = apply(subject, method.plan(subject, evidence)).model
    for layer in ("l0", "l1"):
        assert not getattr(new.lstm, f"bias_hh_{layer}").any()
        assert getattr(new.lstm, f"bias_ih_{layer}").any()
    assert new.gru.bias_hh_l0.any()
    torch.testing.assert_close(new(x), subject.model(x), atol=2e-3, rtol=0)
    # A name that is left out keeps its value, and so does the other of the two.
    plan = RateDistortion(price=1e-6, exclude=("lstm.*hh_l0",)).plan(subject, evidence)
    assert "lstm.bias_hh_l0" not in plan.tensors
    torch.testing.assert_close(plan.tensors["lstm.bias_ih_l0"], subject.model.lstm.bias_ih_l0, atol=5e-3, rtol=0)


class Tied(nn.Module):
    """Two LSTMs of one bias, and a cell that does more with its two biases than add them up."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.LSTM(4, 4, batch_first=True), nn.LSTM(4, 4, batch_first=True)
        self.two.bias_hh_l0 = self.one.bias_hh_l0
        self.cell = Doubling(4, 3)

    def forward(self, x):
        return self.cell(self.two(self.one(x)[0])[0][:, -1])


class Doubling(nn.RNNCell):
    """A cell whose second bias counts twice."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight_ih, self.bias_ih) + 2 * self.bias_hh


def test_biases_that_do_not_simply_add_up_stay():
    torch.manual_seed(0)
    x, targets = torch.randn(32, 6, 4), torch.arange(32) % 3
    subject = Subject.of(Tied().eval(), x[:1])
    evidence = calibrate(subject, [Batch((x,), {}, targets)], NEEDS, loss=cross_entropy)
    new = apply(subject, RateDistortion(price=1e-6).plan(subject, evidence)).model
    assert new.one.bias_hh_l0.any()
    assert new.cell.bias_hh.any()
    torch.testing.assert_close(new(x), subject.model(x), atol=5e-3, rtol=0)
