"""Second-order pruning against slow references: elimination one by one, least squares, and the worked example."""

import itertools

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError, SettingError
from gossamer.methods.prune import Magnitude, Obs, SparseGpt
from gossamer.methods.prune import obs as exact
from gossamer.methods.prune.obs import refit, trace
from gossamer.methods.prune.pattern import Few, Free
from gossamer.methods.prune.second_order import Part, damped
from gossamer.methods.prune.sparsegpt import sweep
from gossamer.methods.share import KMeans
from gossamer.model import Layout, Moment, Reading, Subject, apply, live_weight

METHODS = [Obs, SparseGpt]


def layer(rows=5, inputs=12, seed=0):
    torch.manual_seed(seed)
    X = torch.randn(3 * inputs, inputs, dtype=torch.float64) @ torch.randn(inputs, inputs, dtype=torch.float64)
    return torch.randn(rows, inputs, dtype=torch.float64), X.T @ X / len(X)


def part(W, H, damping=0.0):
    return Part(W, Moment(Layout(Reading.ROWS, 0, len(W)), H, 1), damping)


def slow_trace(w, H):
    """The order and losses of one row, each elimination by inverting H on what is left."""
    w, left, order, losses = w.clone(), list(range(len(w))), [], []
    while left:
        inverse = torch.linalg.inv(H[left][:, left])
        scores = w[left].square() / inverse.diagonal()
        at = int(scores.argmin())
        losses.append(0.5 * float(scores[at]))
        order.append(left[at])
        w[left] -= w[left[at]] / inverse[at, at] * inverse[at]
        w[left.pop(at)] = 0
    return order, losses


def least_squares(w, H, kept):
    out = torch.zeros_like(w)
    if kept:
        out[kept] = torch.linalg.solve(H[kept][:, kept], H[kept] @ w)
    return out


def error(W, new, H):
    return float(((W - new) @ H * (W - new)).sum())


def test_obs_by_hand():
    # H = [[2, 1], [1, 2]], H⁻¹ = [[2, -1], [-1, 2]]/3, w = (1, 3): scores 1.5 and 13.5, loss 0.75;
    # δ = -1/(2/3) · (2, -1)/3 = (-1, ½), so w becomes (0, 3.5).
    H = torch.tensor([[2.0, 1], [1, 2]], dtype=torch.float64)
    W = torch.tensor([[1.0, 3]], dtype=torch.float64)
    found = trace(W, torch.linalg.inv(H), Free())
    assert found.order.tolist() == [[0, 1]]
    assert float(found.loss[0, 0]) == pytest.approx(0.75)
    ((new, kept),) = exact.prune({"a": [part(W, H)]}, 0.5, "layer", Free())["a"]
    torch.testing.assert_close(new, torch.tensor([[0, 3.5]], dtype=torch.float64))
    assert kept.tolist() == [[False, True]]


@pytest.mark.parametrize("steps", [1, 4, 64])
@pytest.mark.parametrize("numbers", [1, 1 << 24])
def test_traces_are_those_of_one_elimination_at_a_time(monkeypatch, steps, numbers):
    monkeypatch.setattr(exact, "STEPS", steps)
    monkeypatch.setattr(exact, "NUMBERS", numbers)
    W, H = layer()
    found = trace(W, torch.linalg.inv(H), Free())
    for row, w in enumerate(W):
        order, losses = slow_trace(w, H)
        assert found.order[row].tolist() == order
        torch.testing.assert_close(found.loss[row].double(), torch.tensor(losses).double(), rtol=1e-3, atol=1e-6)


def test_rows_compete_by_the_head_of_their_traces():
    W, H = layer(rows=4, inputs=8)
    slow = [slow_trace(w, H) for w in W]
    counts = [0] * 4
    for _ in range(16):
        heads = [losses[count] if count < 8 else float("inf") for (_, losses), count in zip(slow, counts, strict=True)]
        counts[heads.index(min(heads))] += 1
    ((new, kept),) = exact.prune({"a": [part(W, H)]}, 0.5, "layer", Free())["a"]
    assert (8 - kept.sum(1)).tolist() == counts
    for row, ((order, _), count) in enumerate(zip(slow, counts, strict=True)):
        torch.testing.assert_close(new[row], least_squares(W[row], H, sorted(order[count:])))


@pytest.mark.parametrize("gone", [0, 2, 9, 12])
def test_refit_is_least_squares(gone):
    W, H = layer()
    lost = torch.zeros_like(W, dtype=torch.bool)
    for row in range(len(W)):
        lost[row, torch.randperm(12)[:gone]] = True
    new = refit(W, H, torch.linalg.inv(H), lost)
    for w, out, row in zip(W, new, lost, strict=True):
        torch.testing.assert_close(out, least_squares(w, H, (~row).nonzero()[:, 0].tolist()))
    assert not new[lost].any()


def test_obs_of_n_of_m_against_one_row_at_a_time():
    W, H = layer(rows=6, inputs=8)
    ((new, kept),) = exact.prune({"a": [part(W, H)]}, 0.5, "layer", Few(2, 4))["a"]
    assert (kept.view(6, 2, 4).sum(-1) == 2).all()
    for row in range(6):
        w, left, gone = W[row].clone(), list(range(8)), []
        while len(gone) < 4:
            inverse = torch.linalg.inv(H[left][:, left])
            full = [sum(g // 4 == j // 4 for g in gone) == 2 for j in left]
            scores = w[left].square() / inverse.diagonal() + torch.where(torch.tensor(full), torch.inf, 0)
            at = int(scores.argmin())
            w[left] -= w[left[at]] / inverse[at, at] * inverse[at]
            gone.append(left[at])
            w[left.pop(at)] = 0
        assert (~kept[row]).nonzero()[:, 0].tolist() == sorted(gone)
        torch.testing.assert_close(new[row], w)


def test_layers_compete_by_relative_error():
    W, H = layer(rows=4, inputs=8)
    layers = {"a": [part(W, H)], "b": [part(W * 100, H * 7)]}
    pruned = exact.prune(layers, 0.5, "global", Free())
    assert torch.equal(pruned["a"][0][1], pruned["b"][0][1])
    torch.testing.assert_close(pruned["a"][0][0] * 100, pruned["b"][0][0])


def slow_sweep(W, H, sparsity, pattern, block):
    """SparseGPT with H inverted anew for each column, over the columns still to come."""
    W, keep = W.clone(), torch.ones_like(W, dtype=torch.bool)
    n = W.shape[1]
    for j in range(n):
        size = pattern.of if isinstance(pattern, Few) else block
        if j % size == 0:
            some = list(range(j, min(j + size, n)))
            pivots = torch.stack([torch.linalg.inv(H[c:, c:])[0, 0] for c in some])
            scores = W[:, some].square() / pivots
            if isinstance(pattern, Few):
                for row in range(len(W)):
                    keep[row, [some[i] for i in scores[row].argsort()[: pattern.of - pattern.kept].tolist()]] = False
            else:
                places = scores.flatten().argsort()[: int(sparsity * scores.numel() + 0.5)]
                keep[places // len(some), j + places % len(some)] = False
        inverse = torch.linalg.inv(H[j:, j:])
        miss = torch.where(keep[:, j], 0, W[:, j])
        W[:, j:] -= (miss / inverse[0, 0])[:, None] * inverse[0]
    return W, keep


@pytest.mark.parametrize(
    ("pattern", "block"), [(Free(), 4), (Free(), 5), (Free(), 100), (Few(2, 4), 4), (Few(1, 3), 5), (Few(2, 4), 128)]
)
def test_sweep_is_that_of_one_column_at_a_time(pattern, block):
    W, H = layer(rows=6)
    sparsity = 0.5 if isinstance(pattern, Free) else pattern.most
    new, keep = sweep(part(W, H), sparsity, pattern, block)
    slow, kept = slow_sweep(W, H, sparsity, pattern, block)
    assert torch.equal(keep, kept)
    torch.testing.assert_close(new, torch.where(kept, slow, 0))


def test_compensation_helps_and_the_exact_way_most():
    W, H = layer(rows=30, inputs=40)
    ((best, _),) = exact.prune({"a": [part(W, H)]}, 0.6, "layer", Free())["a"]
    swept, keep = sweep(part(W, H), 0.6, Free(), 128)
    threshold = W.abs().flatten().quantile(0.6)
    plain = torch.where(W.abs() >= threshold, W, 0)
    assert error(W, best, H) < min(error(W, swept, H), error(W, plain, H))
    assert error(W, swept, H) < error(W, W * keep, H)


def test_damping_and_inputs_that_are_always_zero():
    H = torch.tensor([[4.0, 0, 1], [0, 0, 0], [1, 0, 2]])
    torch.testing.assert_close(
        damped(H, 0.1), torch.tensor([[4.2, 0, 1], [0, 2e-9, 0], [1, 0, 2.2]]), rtol=0, atol=1e-6
    )
    W = torch.tensor([[1.0, 50, 2], [3, -50, 1]], dtype=torch.float64)
    ((new, kept),) = exact.prune({"a": [part(W, H.double(), 0.01)]}, 1 / 3, "layer", Free())["a"]
    assert kept.tolist() == [[True, False, True]] * 2
    torch.testing.assert_close(new, W * kept)


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(96, 20), nn.Linear(20, 8))
    subject = Subject.of(model, torch.zeros(1, 2, 6, 6))
    x = torch.randn(64, 2, 6, 6)
    return subject, calibrate(subject, [((x,), {}, None)], {"second_moment"}), x


@pytest.mark.parametrize("method", METHODS)
def test_networks(method):
    subject, seen, x = network()
    pruned = apply(subject, method(sparsity=0.5).plan(subject, seen))
    plain = apply(subject, Magnitude(sparsity=0.5, scope="layer").plan(subject))
    for name, site in subject.sites.items():
        assert int((live_weight(pruned, name) == 0).sum()) == pytest.approx(site.numel / 2, abs=1)
    want = subject.model(x)
    assert (pruned.model(x) - want).square().sum() < (plain.model(x) - want).square().sum()


@pytest.mark.parametrize("method", METHODS)
def test_zeros_that_are_there_stay_and_count(method):
    subject, seen, _ = network()
    once = apply(subject, Magnitude(sparsity=0.3, scope="layer").plan(subject))
    twice = apply(once, method(sparsity=0.6).plan(once, seen))
    for name, site in subject.sites.items():
        value = live_weight(twice, name)
        assert not value[live_weight(once, name) == 0].any()
        assert int((value == 0).sum()) == pytest.approx(0.6 * site.numel, abs=1)
    # Fewer zeros than there are: nothing changes.
    less = apply(once, Obs(sparsity=0.1).plan(once, seen))
    assert all(torch.allclose(live_weight(less, name), live_weight(once, name)) for name in once.sites)


@pytest.mark.parametrize("method", METHODS)
def test_patterns_on_networks(method):
    subject, seen, _ = network()
    plan = method(sparsity=0.5, pattern="2:4").plan(subject, seen)
    assert [skip.site for skip in plan.skipped] == ["0.weight"]
    pruned = apply(subject, plan)
    for name in ("3.weight", "4.weight"):
        assert ((live_weight(pruned, name) != 0).view(-1, 4).sum(-1) == 2).all()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens):
        return self.out(self.table(tokens))


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_made_up_for_is_skipped(method):
    tokens = torch.tensor([0, 1, 2, 2])
    tied = Subject.of(Tied(), tokens)
    seen = calibrate(tied, [((tokens,), {}, None)], {"second_moment"})
    (skip,) = method(sparsity=0.5).plan(tied, seen).skipped
    assert "tied" in skip.reason
    subject, seen, _ = network()
    shared = apply(subject, KMeans(bits=2, include=("3.*",)).plan(subject))
    assert [s.reason for s in method(sparsity=0.5).plan(shared, seen).skipped] == [
        "its values are shared, so they cannot make up for others"
    ]


def test_a_table_loses_what_is_rare_and_small():
    table = nn.Embedding(3, 2)
    table.weight.data = torch.tensor([[1.0, 2], [3, 4], [2, 2]])
    tokens = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
    subject = Subject.of(table, tokens)
    seen = calibrate(subject, [((tokens,), {}, None)], {"second_moment"})
    for method in METHODS:
        plan = method(sparsity=0.5).plan(subject, seen)
        assert plan.on("weight")[0].keep.tolist() == [[True, True], [False, False], [False, True]]
        assert not plan.tensors


def test_errors():
    subject, seen, _ = network()
    for method in METHODS:
        with pytest.raises(EvidenceError, match="given no evidence"):
            method(sparsity=0.5).plan(subject)
        with pytest.raises(SettingError, match=r"at most 0\.5 with the pattern 2:4"):
            method(sparsity=0.75, pattern="2:4")
        with pytest.raises(SettingError, match="pattern"):
            method(sparsity=0.5, pattern="2x2")
        few = calibrate(subject, [((torch.zeros(1, 2, 6, 6),), {}, None)], {"second_moment"})
        with pytest.raises(EvidenceError, match="raise the damping"):
            method(sparsity=0.5, damping=0.0).plan(subject, few)
    (skip, *_) = Obs(sparsity=0.5, most_inputs=30).plan(subject, seen).skipped
    assert skip.reason == "it has 96 inputs, more than 30"


def test_the_same_every_time():
    subject, seen, _ = network()
    for method, _ in itertools.product(METHODS, range(2)):
        first, again = (method(sparsity=0.5).plan(subject, seen) for _ in range(2))
        assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
