"""The L1 penalty by gradient and by proximal step."""

import pytest
import torch
from torch import nn

from gossamer.errors import ModelError, SettingError
from gossamer.methods.factorize import Svd
from gossamer.methods.prune import Magnitude
from gossamer.methods.regularize import L1
from gossamer.methods.regularize.l1 import soft_threshold
from gossamer.methods.share import KMeans
from gossamer.model import StepContext, Subject, apply, live_weight


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8))


def subject():
    return Subject.of(network(), torch.randn(2, 16))


def context(found):
    return StepContext(subject=found, args=(), kwargs={}, outputs=None, targets=None, loss=torch.zeros(()))


def test_soft_threshold_by_hand():
    values = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0])
    assert soft_threshold(values, 0.5).tolist() == [-1.5, 0, 0, 0, 0.5]


def test_soft_threshold_solves_its_problem():
    """It must minimise (x - v)² / 2 + t |x|, found here on a fine grid."""
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for v in (-2.2, -0.1, 0.4, 1.7):
        best = grid[((grid - v).square() / 2 + 0.7 * grid.abs()).argmin()]
        assert soft_threshold(torch.tensor(v, dtype=torch.float64), 0.7) == pytest.approx(float(best), abs=1e-4)


def test_gradient_form():
    found = apply(subject(), L1(amount=0.01, proximal=False).plan(subject()))
    (penalty,) = found.penalties
    term = penalty.term(context(found))
    expected = 0.01 * sum(live_weight(found, name).abs().sum() for name in found.sites)
    torch.testing.assert_close(term, expected)
    term.backward()
    weight = found.model[0].weight
    torch.testing.assert_close(weight.grad, 0.01 * weight.detach().sign())
    before = weight.detach().clone()
    penalty.proximal(found, 0.1)
    assert torch.equal(weight, before)


def test_values_that_do_not_train_are_left_out_with_the_reason():
    model = network()
    model[0].weight.requires_grad_(False)
    found = Subject.of(model, torch.randn(2, 16))
    others = [name for name in found.sites if name != "0.weight"]
    shared = apply(found, KMeans(bits=2, trained=False, include=(others[0],)).plan(found))
    plan = L1(amount=0.1).plan(shared)
    assert {skip.site for skip in plan.skipped} == {"0.weight", others[0]}
    assert not plan.penalties or set(plan.penalties[0].sites) == set(others[1:])


def test_proximal_form_has_no_gradient_and_reaches_exact_zeros():
    found = apply(subject(), L1(amount=1.0).plan(subject()))
    (penalty,) = found.penalties
    assert penalty.term(context(found)) is None
    before = {name: live_weight(found, name).clone() for name in found.sites}
    penalty.proximal(found, 0.1)
    for name, weight in before.items():
        assert torch.equal(live_weight(found, name), soft_threshold(weight, 0.1))
    assert int((live_weight(found, "0.weight") == 0).sum()) > 20
    assert torch.equal(found.model[0].bias, subject().model[0].bias)


def test_shared_values_shrink_by_the_number_of_their_members():
    plain = subject()
    shared = apply(plain, KMeans(bits=2).plan(plain))
    found = apply(shared, L1(amount=1e-3, include=("0.weight",)).plan(shared))
    codebook = found.constraints["0.weight"].codebook
    members = torch.bincount(codebook.codes.flatten(), minlength=4)
    found.penalties[0].proximal(found, 0.5)
    expected = soft_threshold(codebook.centers, 0.5e-3 * members)
    torch.testing.assert_close(found.constraints["0.weight"].codebook.centers, expected)


def test_masked_weights_count_as_zero():
    plain = subject()
    pruned = apply(plain, Magnitude(sparsity=0.9).plan(plain))
    found = apply(pruned, L1(amount=1.0, proximal=False).plan(pruned))
    expected = sum(live_weight(found, name).abs().sum() for name in found.sites)
    torch.testing.assert_close(found.penalties[0].term(context(found)), expected)


def test_ista_finds_the_lasso_solution():
    """With an orthogonal design the lasso is the soft threshold of least squares."""
    torch.manual_seed(0)
    X = torch.linalg.qr(torch.randn(20, 6)).Q
    y = X @ torch.tensor([2.0, -1.0, 0.3, 0.0, 0.05, -0.6])
    net = nn.Linear(6, 1, bias=False)
    found = apply(Subject.of(net, X), L1(amount=0.4).plan(Subject.of(net, X)))
    optimizer = torch.optim.SGD(found.model.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        (0.5 * (found.model(X)[:, 0] - y).square().sum()).backward()
        optimizer.step()
        found.penalties[0].proximal(found, 0.5)
    torch.testing.assert_close(live_weight(found, "weight")[0], soft_threshold(X.T @ y, 0.4), rtol=1e-4, atol=1e-5)


def test_zero_amount_plans_nothing_and_bad_settings_are_refused():
    assert not L1(amount=0.0).plan(subject()).penalties
    with pytest.raises(SettingError, match=r"L1\.amount"):
        L1(amount=-1.0)


def test_a_site_that_went_away_is_an_error():
    plain = subject()
    penalised = apply(plain, L1().plan(plain))
    split = apply(penalised, Svd(criterion="rank", amount=2).plan(penalised))
    with pytest.raises(ModelError, match=r"site 0\.weight is no longer there"):
        split.penalties[0].proximal(split, 0.1)
