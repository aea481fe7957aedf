"""The order of units before product quantization: spreads by a slow reference, orders by hand, functions preserved."""

import itertools

import numpy as np
import pytest
import torch
from awkward import checks
from awkward.checks import planned
from awkward.networks import BY_NAME
from torch import nn

from gossamer import artifact
from gossamer.calibrate import calibrate
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import Product
from gossamer.methods.share.errors import measured
from gossamer.methods.share.order import Spread, reordered, searched
from gossamer.model import Plan, Subject, apply, freeze, live_weight, load, to_artifact
from gossamer.model.resize import stored_tensors


def spread(matrix, width, each=1):
    units = matrix.shape[1] // each
    return Spread.of(np.asarray(matrix, np.float64), width, np.arange(units * each).reshape(units, each))


def covariance(matrix, width, order, each=1):
    units = matrix.reshape(len(matrix), -1, each)[:, order].reshape(-1, width)
    return np.cov(units, rowvar=False)


@pytest.mark.parametrize(("width", "each"), [(2, 1), (4, 1), (4, 2), (3, 4)])
def test_exchanges_keep_track_of_the_covariance(width, each):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(15, 24)) * rng.random(24) + rng.normal(size=24)
    found, order = spread(matrix, width, each), np.arange(24 // each)
    for one, other in rng.integers(len(order), size=(30, 2)):
        found.swap(one, other)
        order[[one, other]] = order[[other, one]]
        wanted = covariance(matrix, width, order, each)
        np.testing.assert_allclose(found.covariance, wanted, atol=1e-9)
        assert found.loss == pytest.approx(15 * 24 / width * np.linalg.det(wanted) ** (1 / width))


def test_units_are_dealt_out_by_hand():
    """Variances 1, 100, 2, 90: the two large ones come first in their subvectors, the small ones second."""
    matrix = np.array([[-1.0, -10.0, -(2**0.5), -(90**0.5)], [1.0, 10.0, 2**0.5, 90**0.5]])
    found = spread(matrix, 2)
    order = found.dealt()
    assert order.tolist() == [1, 2, 3, 0]
    found.put(order)
    np.testing.assert_allclose(found.covariance, covariance(matrix, 2, [1, 2, 3, 0]))


@pytest.mark.parametrize(("width", "each"), [(3, 2), (4, 4)])
def test_subvectors_of_half_units_or_one_are_not_dealt(width, each):
    assert spread(np.random.default_rng(0).normal(size=(9, 12)), width, each).dealt() is None


def test_no_exchange_betters_what_the_search_finds():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(40, 6)) @ (rng.normal(size=(6, 6)) + 2 * np.eye(6))

    def loss(order):
        return float(np.linalg.det(covariance(matrix, 2, list(order))))

    order = searched([spread(matrix, 2)], 200, seed=0)
    assert sorted(order.tolist()) == list(range(6))
    assert loss(order) < min(loss(range(6)), loss(spread(matrix, 2).dealt()))
    for one, other in itertools.combinations(range(6), 2):
        changed = order.copy()
        changed[[one, other]] = changed[[other, one]]
        assert loss(changed) >= loss(order) - 1e-9


def test_the_best_order_stays():
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    order = searched([spread(matrix, 2)], 300, seed=0)
    assert searched([spread(matrix[:, order], 2)], 300, seed=0) is None


def test_two_weights_have_a_say():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(30, 8)) * rng.random(8), rng.normal(size=(20, 8)) * rng.random(8)
    spreads = [spread(one, 4), spread(other, 2)]
    before = sum(found.loss for found in spreads)
    order = searched(spreads, 500, seed=0)
    after = sum(spread(matrix[:, order], width).loss for matrix, width in ((one, 4), (other, 2)))
    assert after < before


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 16, 1)
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        return self.last(x.flatten(1))


def mlp(norm):
    return nn.Sequential(nn.Linear(6, 16), norm, nn.ReLU(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8))


def shaken(model, *shape):
    torch.manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand_like(tensor) + 0.2 if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3)
    return Subject.of(model.eval(), torch.randn(*shape))


def orders(subject, **settings):
    method = Product(measure="none", **settings)
    widths = {name: method.width(site) for name, site in subject.sites.items()}
    widths = {
        name: width
        for name, width in widths.items()
        if subject.sites[name].numel // len(live_weight(subject, name)) % width == 0
    }
    return reordered(subject, subject.sites, widths, 200, 0)


@pytest.mark.parametrize(
    ("model", "shape", "moved"),
    [
        (mlp(nn.BatchNorm1d(16)), (5, 6), {"0.weight", "0.bias", "1.running_var", "3.weight", "3.bias", "5.weight"}),
        (mlp(nn.LayerNorm(16)), (5, 6), {"0.weight", "1.weight", "3.weight", "5.weight"}),
        (Residual(), (2, 3, 4, 4), {"first.weight", "norm.running_mean", "inner.weight", "outer.bias", "last.weight"}),
    ],
    ids=["batch norm", "layer norm", "residual and flattened"],
)
def test_the_network_computes_the_same(model, shape, moved):
    subject = shaken(model, *shape)
    found = orders(subject)
    assert moved <= set(found)
    stored = stored_tensors(subject.model)
    assert all(torch.equal(stored[name].flatten()[place], values) for name, (values, place) in found.items())
    assert all(place.flatten().sort().values.equal(torch.arange(place.numel())) for _, place in found.values())
    assert any(not torch.equal(stored[name], values) for name, (values, _) in found.items())
    after = apply(subject, Plan("t", tensors={name: values for name, (values, _) in found.items()}))
    with torch.no_grad():
        torch.testing.assert_close(after.model(*subject.args), subject.model(*subject.args), rtol=1e-4, atol=1e-5)


def test_units_whose_order_matters_keep_it():
    """A group normalisation takes neighbours together, so channels may not move; nothing says so but the outcome."""
    subject = shaken(mlp(nn.GroupNorm(4, 16)), 5, 6)
    assert not {"0.weight", "1.weight"} & set(orders(subject))


def test_constrained_units_keep_their_order():
    subject = shaken(mlp(nn.BatchNorm1d(16)), 5, 6)
    masked = apply(subject, Magnitude(sparsity=0.3, include=("0.weight",)).plan(subject))
    assert set(orders(masked)) == {"3.weight", "3.bias", "5.weight"}


def test_excluded_weights_keep_their_order():
    subject = shaken(mlp(nn.BatchNorm1d(16)), 5, 6)
    plan = Product(measure="none", permute=100, block=2, exclude=("0.weight",)).plan(subject)
    assert set(plan.tensors) == {"3.weight", "3.bias", "5.weight"}


class Permuted(Product, frozen=True, tag="test.permuted"):
    permute: int = 40
    block: int = 2
    kernels: int = 2


@pytest.mark.parametrize(
    "name", ["plain", "tied weights", "lstm", "grouped convolution", "attention", "half precision"]
)
@pytest.mark.parametrize(
    "promise",
    [
        checks.input_is_untouched,
        checks.plan_is_deterministic,
        checks.excluded_sites_are_identical,
        checks.ties_survive,
        checks.every_site_is_treated_or_skipped,
    ],
    ids=lambda promise: promise.__name__,
)
def test_promises_are_kept_in_another_order(promise, name):
    promise(Permuted, BY_NAME[name])


def test_kernels_that_are_subvectors_need_no_order():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
    assert not orders(shaken(model, 1, 2, 7, 7))
    assert "2.weight" in orders(shaken(model, 1, 2, 7, 7), kernels=2)


def test_errors_are_those_of_the_inputs_in_their_new_order():
    subject = shaken(mlp(nn.BatchNorm1d(16)), 50, 6)
    found = orders(subject)
    after = apply(subject, Plan("t", tensors={name: values for name, (values, _) in found.items()}))
    batches = [(subject.args, {}, None)]
    site = subject.sites["3.weight"]
    here = measured("own", calibrate(subject, batches, {"second_moment"}), site, 4, found["3.weight"][1])
    there = measured("own", calibrate(after, batches, {"second_moment"}), site, 4)
    torch.testing.assert_close(here.forms[here.of], there.forms[there.of], rtol=1e-4, atol=1e-5)


def test_codewords_lose_less_in_a_better_order(tmp_path):
    """Columns of four very different sizes, mixed up: in order, each has a place in the codewords."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    with torch.no_grad():
        model[2].weight.mul_(torch.tensor([1.0, 3.0, 10.0, 30.0]).repeat_interleave(8)[torch.randperm(32)])
    subject = Subject.of(model, torch.randn(20, 8))

    def lost(permute):
        method = Product(bits=6, permute=permute, measure="none")
        plan = planned(method, subject)
        exact = apply(subject, Plan("t", tensors=plan.tensors))
        return float(
            (live_weight(apply(subject, plan), "2.weight") - live_weight(exact, "2.weight")).square().sum()
        ), plan

    (plain, _), (better, plan) = lost(0), lost(500)
    assert better < 0.5 * plain
    assert set(plan.tensors) == {"0.weight", "0.bias", "2.weight"}
    shared = apply(subject, plan)
    assert torch.equal(shared.model[0].bias, plan.tensors["0.bias"])
    artifact.save(tmp_path / "p.goss", to_artifact(freeze(shared)))
    filled = load(tmp_path / "p.goss").into(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64)))
    with torch.no_grad():
        assert torch.equal(filled(*subject.args), freeze(shared).model(*subject.args))
