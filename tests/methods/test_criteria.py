"""The criteria that rank weights, each against numbers worked by hand or a slow reference."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError, PatternError
from gossamer.methods.prune import Lamp, Obd, Snip, Threshold, Wanda
from gossamer.methods.prune.lamp import lamp_scores
from gossamer.methods.prune.wanda import wanda_scores
from gossamer.model import Subject, apply, live_weight


def linear(weight) -> Subject:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weight))
    return Subject.of(layer, torch.zeros(1, len(weight[0])))


def evidence(subject, inputs, needs, targets=None, loss=None):
    return calibrate(
        subject, [((x,), {}, y) for x, y in zip(inputs, targets or [None] * len(inputs), strict=True)], needs, loss=loss
    )


def squared(outputs, targets):
    return 0.5 * (outputs - targets).square().sum()


def test_lamp_by_hand():
    # Squares 1, 4, 9, 16: over what is left above them: 1/30, 4/29, 9/25, 16/16.
    scores = lamp_scores(torch.tensor([[4.0, -1], [3, 2]]))
    torch.testing.assert_close(scores, torch.tensor([[1.0, 1 / 30], [9 / 25, 4 / 29]], dtype=torch.float64))
    # Of equals the earlier has the lower score, and zeros have none.
    assert lamp_scores(torch.tensor([0.0, 2, 2])).tolist() == [0, 0.5, 1]


def test_lamp_empties_no_layer_that_magnitude_would():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    model[1].weight.data *= 1e-3
    subject = Subject.of(model, torch.zeros(1, 10))
    pruned = apply(subject, Lamp(sparsity=0.9).plan(subject))
    counts = [int((live_weight(pruned, name) != 0).sum()) for name in pruned.sites]
    assert sum(counts) == 20
    assert min(counts) > 5


def test_snip_by_hand():
    # y = Wx, L = |y - t|²/2: gradient (y - t) xᵀ. x = (1, 2), t = 0, W = [[1, 1], [-1, 2]]: y = (3, 3).
    subject = linear([[1.0, 1.0], [-1.0, 2.0]])
    seen = evidence(subject, [torch.tensor([[1.0, 2]])], {"gradient"}, [torch.zeros(1, 2)], squared)
    scores = Snip(sparsity=0.5).scores(subject, seen, tuple(subject.sites.values()))["weight"]
    torch.testing.assert_close(scores * 24, torch.tensor([[3.0, 6], [3, 12]], dtype=torch.float64))
    kept = apply(subject, Snip(sparsity=0.5).plan(subject, seen)).constraints["weight"].mask.keep
    assert kept.tolist() == [[False, True], [False, True]]


def test_scores_of_zero_do_not_add_to_the_share():
    subject = linear([[1.0, 2.0, 3.0, 4.0]])
    seen = evidence(subject, [torch.tensor([[0.0, 0, 0, 1]])], {"gradient"}, [torch.zeros(1, 1)], squared)
    plan = Snip(sparsity=0.5).plan(subject, seen)
    assert plan.on("weight")[0].keep.tolist() == [[False, False, True, True]]


def test_obd_by_hand():
    # Two batches with gradients (1, 4) and (3, 0): Fisher (5, 8); saliencies ½·5·1, ½·8·¼.
    subject = linear([[1.0, 0.5]])
    inputs = [torch.tensor([[1.0, 4]]), torch.tensor([[3.0, 0]])]
    targets = [torch.tensor([[2.0]]), torch.tensor([[2.0]])]
    seen = evidence(subject, inputs, {"gradient"}, targets, lambda y, t: (y - y.detach() + 1).sum())
    scores = Obd(sparsity=0.5).scores(subject, seen, tuple(subject.sites.values()))["weight"]
    assert scores.tolist() == [[2.5, 1.0]]
    assert Obd(sparsity=0.5).plan(subject, seen).on("weight")[0].keep.tolist() == [[True, False]]


def test_wanda_by_hand():
    # Column norms 5 and 1: scores 5·|0.1|, 1·|-1| and 5·3, 1·20.
    subject = linear([[0.1, -1.0], [3.0, 20.0]])
    seen = evidence(subject, [torch.tensor([[3.0, 1]]), torch.tensor([[4.0, 0]])], {"second_moment"})
    scores = wanda_scores(live_weight(subject, "weight"), seen.second_moment("weight"))
    torch.testing.assert_close(scores, torch.tensor([[0.5, 1], [15, 20]]))
    assert Wanda(sparsity=0.5).plan(subject, seen).on("weight")[0].keep.tolist() == [[False, True], [False, True]]
    assert Wanda(sparsity=0.5, scope="layer").plan(subject, seen).on("weight")[0].keep.tolist() == [
        [False, False],
        [True, True],
    ]


def test_wanda_is_the_error_that_the_removal_of_one_weight_makes():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    subject = Subject.of(layer, torch.zeros(1, 4, 5, 5))
    x = torch.randn(3, 4, 5, 5)
    seen = evidence(subject, [x], {"second_moment"})
    scores = wanda_scores(live_weight(subject, "weight"), seen.second_moment("weight"))
    for place in [(0, 0, 0, 0), (2, 1, 2, 1), (5, 0, 1, 2)]:
        changed = layer.weight.detach().clone()
        changed[place] = 0
        error = (nn.functional.conv2d(x, changed, groups=2) - layer(x)).square().sum().sqrt()
        torch.testing.assert_close(scores[place], error.detach(), rtol=1e-4, atol=1e-5)


def test_tied_weights_add_up():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)
            self.out = nn.Linear(2, 3, bias=False)
            self.out.weight = self.table.weight

        def forward(self, tokens):
            return self.out(self.table(tokens))

    model = Tied()
    model.table.weight.data = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    subject = Subject.of(model, torch.tensor([0]))
    seen = evidence(subject, [torch.tensor([0, 0, 1])], {"second_moment"})
    scores = wanda_scores(live_weight(subject, "table.weight"), seen.second_moment("table.weight"))
    into = torch.tensor([1.0 + 1 + 9, 4 + 4 + 16])
    counts = torch.tensor([2.0, 1, 0])
    torch.testing.assert_close(scores, model.table.weight.detach() * (counts[:, None] + into).sqrt())


def test_criteria_say_what_evidence_they_lack():
    subject = linear([[1.0, 2.0]])
    for method in (Snip(sparsity=0.5), Obd(sparsity=0.5), Wanda(sparsity=0.5)):
        with pytest.raises(EvidenceError, match="given no evidence"):
            method.plan(subject)
    with pytest.raises(EvidenceError, match="no gradient was collected"):
        Snip(sparsity=0.5).plan(subject, evidence(subject, [torch.ones(1, 2)], {"range"}))


def test_threshold_by_hand():
    # Of ±1 and ±3 the standard deviation is √5 ≈ 2.236.
    subject = linear([[1.0, -1.0, 3.0, -3.0]])
    assert Threshold(q=1.0).plan(subject).on("weight")[0].keep.tolist() == [[False, False, True, True]]
    assert Threshold(q=0.4).plan(subject).on("weight")[0].keep.all()
    # What is gone does not count: of ±3 the deviation is 3, of (0, 0, 3, -3) it were 2.12.
    pruned = apply(subject, Threshold(q=1.0).plan(subject))
    assert Threshold(q=1.0).plan(pruned).on("weight")[0].keep.tolist() == [[False, False, True, True]]
    assert not Threshold(q=1.01).plan(pruned).on("weight")[0].keep.any()


def test_threshold_of_single_sites():
    torch.manual_seed(0)
    subject = Subject.of(nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 40), nn.Linear(40, 40)), torch.zeros(1, 50))
    plan = Threshold(q=1.0, q_of={"[12].*": 0.5, "2.weight": 0.0}).plan(subject)
    shares = {name: 1 - plan.on(name)[0].kept / subject.sites[name].numel for name in plan.constraints}
    # Of a uniform distribution on [-√3σ, √3σ] the share below qσ is q/√3.
    assert shares["0.weight"] == pytest.approx(1 / 3**0.5, abs=0.05)
    assert shares["1.weight"] == pytest.approx(0.5 / 3**0.5, abs=0.05)
    assert [(skip.site, skip.reason) for skip in plan.skipped] == [("2.weight", "its q is 0")]
    with pytest.raises(PatternError, match=r"'fc\*' matches no site"):
        Threshold(q=1.0, q_of={"fc*": 0.5}).plan(subject)
