"""Mixed precision: the knapsack against brute force, estimates by hand, and widths under a limit."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gossamer.artifact import dumps
from gossamer.calibrate import calibrate, tried
from gossamer.errors import EvidenceError, SettingError
from gossamer.methods.quantize import Mixed, PostTraining
from gossamer.methods.quantize.estimates import by_curvature, by_trace
from gossamer.methods.quantize.knapsack import cheapest
from gossamer.model import Layout, Moment, Reading, Subject, apply, freeze, to_artifact
from gossamer.recipe.evidence import Collector
from gossamer.targets import Profile


def best_of_all(losses, costs, budget):
    """The least loss of all combinations within the budget."""
    found = [
        sum(each[i] for each, i in zip(losses, picks, strict=True))
        for picks in itertools.product(*(range(len(each)) for each in losses))
        if sum(each[i] for each, i in zip(costs, picks, strict=True)) <= budget
    ]
    return min(found, default=None)


def total(table, picks):
    return sum(each[i] for each, i in zip(table, picks, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_whole_costs_give_the_best_of_all_combinations(seed):
    draw = np.random.default_rng(seed)
    losses = [list(draw.random(draw.integers(1, 5))) for _ in range(6)]
    costs = [[int(cost) for cost in draw.integers(0, 40, len(each))] for each in losses]
    for budget in (int(draw.integers(0, 200)), 60, 120):
        best = best_of_all(losses, costs, budget)
        picks = cheapest(losses, costs, budget)
        if best is None:
            assert picks is None
            continue
        assert total(costs, picks) <= budget
        assert total(losses, picks) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
def test_costs_that_are_rounded_stay_within_the_bound(seed):
    draw = np.random.default_rng(seed)
    losses = [list(draw.random(4)) for _ in range(5)]
    costs = [list(draw.random(4)) for _ in range(5)]
    least = sum(min(each) for each in costs)
    budget, cells = least + 1.0, 50
    picks = cheapest(losses, costs, budget, cells=cells)
    assert total(costs, picks) <= budget + 1e-9
    assert total(losses, picks) <= best_of_all(losses, costs, budget - 5 / cells) + 1e-12


def test_the_knapsack_at_its_ends():
    assert cheapest([[0.0, 1.0]], [[5, 3]], 3) == [1]
    assert cheapest([[0.0, 1.0]], [[5, 3]], 2) is None
    assert cheapest([[0.5, 0.5]], [[0.1, 0.1]], 0.1) == [0]
    assert cheapest([[float("inf"), 1.0], [float("nan"), 2.0]], [[1, 2], [1, 9]], 3) == [1, 0]
    assert cheapest([], [], 1) == []


def test_estimates_by_hand():
    """Two outputs of two inputs: H = [[2, 1], [1, 4]], g = (1, 3), the error one step in two places."""
    moment = Moment(Layout(Reading.ROWS, 0, 2), torch.tensor([[4.0, 2.0], [2.0, 8.0]]), 2)
    g, error = torch.tensor([1.0, 3.0]), torch.tensor([[1.0, -1.0], [0.0, 1.0]])
    # First row: 2 - 1 - 1 + 4 = 4, times 1; second: 4, times 3.
    assert by_curvature(error, [moment], [g]) == pytest.approx(0.5 * (4 + 12))
    # Trace of g x H: (1 + 3) (2 + 4) = 24, a mean of 6 over four weights; squared error 3.
    assert by_trace(error, [moment], [g]) == pytest.approx(0.5 * 6 * 3)


class Lame(nn.Module):
    """Of two layers of one size, the second hardly matters."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 2)

    def forward(self, x):
        return self.last(torch.relu(self.one(x)) + 0.01 * self.two(x))


@pytest.fixture(scope="module")
def lame():
    torch.manual_seed(0)
    return Subject.of(Lame().eval(), torch.zeros(1, 8))


def size(subject, plan):
    return len(dumps(to_artifact(freeze(apply(subject, plan)))))


@pytest.mark.parametrize("measure", ["loss", "curvature", "trace"])
def test_bits_go_where_they_matter_and_the_file_fits(lame, task, measure):
    uniform = PostTraining(weight_bits=4, inputs=False).plan(lame)
    limit = size(lame, uniform)
    method = Mixed(limit=limit, widths=(2, 4, 8), measure=measure, inputs=False)
    plan = method.plan(lame, Collector(task).of(method, lame))
    assert size(lame, plan) <= limit
    bits = {site: grid.bits for site, grid in plan.constraints.items()}
    assert bits["two.weight"] < bits["one.weight"]


def test_floats_stay_where_there_is_room(lame, task):
    method = Mixed(limit=1.0, widths=(2, 32), inputs=False)
    plan = method.plan(lame, Collector(task).of(method, lame))
    small = Mixed(limit=size(lame, plan) - 400, widths=(2, 32), inputs=False)
    plan = small.plan(lame, Collector(task).of(small, lame))
    assert {"two.weight"} <= set(plan.constraints)
    assert any(skip.reason == "left as it is, for which the budget has room" for skip in plan.skipped)
    assert {*plan.constraints, *(skip.site for skip in plan.skipped)} == set(lame.sites)


def test_bit_operations_are_those_of_both_factors(lame, task):
    """All layers with inputs on 8 bits: with weights on 8 and on 2 bits a sixteenth and a sixty-fourth are left."""
    least = 8 * 2 / 32**2
    method = Mixed(limit=least, of="bit_operations", widths=(2, 8, 32))
    evidence = Collector(task).of(method, lame)
    assert {grid.bits for grid in method.plan(lame, evidence).constraints.values()} == {2}
    half = Mixed(limit=0.03, of="bit_operations", widths=(2, 8, 32)).plan(lame, evidence)
    macs = {"one.weight": 256, "two.weight": 256, "last.weight": 64}
    spent = sum(macs[site] * 8 * grid.bits for site, grid in half.constraints.items())
    assert spent <= 0.03 * 32**2 * sum(macs.values())
    with pytest.raises(SettingError, match=r"bit operations cannot be met: the fewest bits leave 9,216"):
        Mixed(limit=0.01, of="bit_operations", widths=(2, 8, 32)).plan(lame, evidence)


@pytest.mark.slow
def test_latency_is_measured_and_a_layer_that_integers_slow_down_stays_in_floats(lame, task, monkeypatch):
    floats = {"one.weight": 30e-6, "two.weight": 20e-6, "last.weight": 10e-6}
    integers = {"one.weight": 10e-6, "two.weight": 25e-6, "last.weight": 6e-6}
    runs = []

    def profile(proto, sites, inputs):
        """Products of codes are fast or slow by site, and a graph with some of them takes 4 microseconds more."""
        codes = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
        done = codes.intersection(sites)
        runs.append((sorted(done), {name: array.shape for name, array in inputs.items()}))
        times = {site: (integers if site in done else floats)[site] for site in sites}
        return Profile(times, sum(times.values()) + 5e-6 + (4e-6 if done else 0))

    monkeypatch.setattr("gossamer.targets.profile", profile)
    method = Mixed(limit=0.8, of="latency", widths=(8, 32))
    evidence = Collector(task).of(method, lame)
    assert set(method.plan(lame, evidence).constraints) == {"one.weight"}, "65 to 49 microseconds, of 52 allowed"
    assert runs[0] == (sorted(floats), {"x": (1, 8)})
    both = Mixed(limit=46, of="latency", widths=(8, 32)).plan(lame, evidence)
    assert set(both.constraints) == {"one.weight", "last.weight"}, "to 45 microseconds"
    assert not Mixed(limit=1.0, of="latency", widths=(8, 32), include=("two.weight",)).plan(lame, evidence).constraints
    with pytest.raises(SettingError, match="44 microseconds cannot be met: the fastest widths take 45, and floats 65"):
        Mixed(limit=44, of="latency", widths=(8, 32)).plan(lame, evidence)


@pytest.mark.slow
def test_latency_is_that_of_this_machine(lame, task):
    method = Mixed(limit=1_000_000, of="latency", widths=(8, 32))
    plan = method.plan(lame, Collector(task).of(method, lame))
    assert {*plan.constraints, *(skip.site for skip in plan.skipped)} == set(lame.sites)


def test_sixteen_bits_leave_inputs_in_floats(lame, task):
    method = Mixed(limit=1_000_000, widths=(16,))
    plan = method.plan(lame, Collector(task).of(method, lame))
    assert {grid.bits for grid in plan.constraints.values()} == {16}
    assert not plan.activations


def test_errors_name_the_limit_and_the_evidence(lame, task):
    method = Mixed(limit=100, inputs=False)
    with pytest.raises(SettingError, match=r"quantize\.mixed\.limit: 100 bytes cannot be met: the fewest bits leave"):
        method.plan(lame, Collector(task).of(method, lame))
    evidence = calibrate(lame, task.batches("train"), method.needs)
    with pytest.raises(EvidenceError, match=r"no trial 'one\.weight in 2 bits' was measured"):
        method.plan(lame, evidence)
    with pytest.raises(EvidenceError, match="no evidence"):
        method.plan(lame)
    with pytest.raises(EvidenceError, match="no batches"):
        tried(lame, method.trials(lame, evidence), [], loss=task.loss)
    with pytest.raises(SettingError, match="limit"):
        Mixed(limit=1.5)
