"""Dynamic network surgery: the operation worked by hand, gradients behind the mask, and what it may never undo."""

import itertools

import pytest
import torch
from torch import nn

from gossamer import recipe as recipes
from gossamer.errors import PatternError, PlanError
from gossamer.methods.prune import Magnitude, Surgery
from gossamer.methods.prune.surgery import operate, threshold
from gossamer.methods.share import KMeans
from gossamer.model import Mask, Plan, Splice, Subject, apply, cost_of, freeze, live_weight, settle, trainable
from gossamer.recipe import Gauge, Recipe, Step
from gossamer.task import Task
from gossamer.train import Training


def linear(weight) -> Subject:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight = nn.Parameter(torch.tensor(weight))
    return Subject.of(layer, torch.zeros(1, len(weight[0])))


def test_threshold_by_hand():
    # Magnitudes 1, 3 (and a zero that does not count): mean 2, deviation 1.
    assert threshold(torch.tensor([-1.0, 3, 0]), 1.5) == pytest.approx(3.5)
    assert threshold(torch.tensor([-1.0, 3, 0]), -5) == 0


def test_operation_by_hand():
    hidden = torch.tensor([0.9, -0.91, 1.1, -1.11, 1.0, 1.0])
    keep = torch.tensor([True, True, False, False, True, False])
    assert operate(keep, hidden, 1.0).tolist() == [False, True, False, True, True, False]


def test_gradients_reach_what_a_splice_zeroes_and_not_what_a_mask_does():
    subject = linear([[1.0, 2.0, 3.0]])
    plan = Plan(
        "x", {"weight": (Mask(torch.tensor([[True, True, False]])), Splice(torch.tensor([[False, True, True]])))}
    )
    held = apply(subject, plan)
    assert live_weight(held, "weight").tolist() == [[0, 2, 0]]
    held.model(torch.tensor([[5.0, 6, 7]])).sum().backward()
    assert trainable(held, "weight").grad.tolist() == [[5, 6, 0]]


def test_a_splice_is_replaced_and_a_mask_is_not():
    subject = linear([[1.0, 2.0, 3.0]])
    masked = apply(subject, Plan("x", {"weight": Mask(torch.tensor([[True, True, False]]))}))
    once = apply(masked, Plan("x", {"weight": Splice(torch.tensor([[False, True, True]]))}))
    back = apply(once, Plan("x", {"weight": Splice(torch.tensor([[True, True, True]]))}))
    assert live_weight(back, "weight").tolist() == [[1, 2, 0]]
    with pytest.raises(PlanError, match="splice of shape"):
        apply(subject, Plan("x", {"weight": Splice(torch.tensor([True]))}))
    with pytest.raises(PlanError, match="bool"):
        Splice(torch.tensor([1.0]))
    settle(once)
    assert once.constraints["weight"].splice is None
    assert once.constraints["weight"].mask.keep.tolist() == [[False, True, False]]
    assert live_weight(once, "weight").tolist() == [[0, 2, 0]]


def test_plans_and_files_know_splices():
    subject = linear([[1.0, -2.0, 3.0]])
    plan = Plan("x", {"weight": Splice(torch.tensor([[False, True, True]]))})
    assert "keep 2 of 3 for now" in str(plan)
    again = Plan.from_dict(*plan.to_dict())
    assert torch.equal(again.on("weight")[0].keep, plan.on("weight")[0].keep)
    held = apply(subject, plan)
    assert freeze(held).model.weight.tolist() == [[0, -2, 3]]
    assert cost_of(held).sites["weight"].nonzeros == 2


def test_weights_come_back_when_they_grow():
    subject = linear([[1.0, 0.1, 1.0, 0.1]])
    method = Surgery(c_rate=0.0, gamma=0.0, stop=1.0)
    live = apply(subject, method.plan(subject))
    assert live_weight(live, "weight").tolist() == [[1, 0, 1, 0]]
    revise = method.revision(subject)
    with torch.no_grad():
        trainable(live, "weight").copy_(torch.tensor([[1.0, 0.7, 0.3, 0.55]]))
    assert revise(live, 0, 10) is None
    plan = revise(live, 1, 10)
    # Mean magnitude 0.55: on above 0.605, off up to 0.495.
    assert plan.on("weight")[0].keep.tolist() == [[True, True, False, False]]


def test_operations_get_rare_and_stop():
    subject = linear([[1.0, 0.1, 1.0, 0.1]])
    live = apply(subject, Surgery().plan(subject))
    method = Surgery(gamma=0.01, power=1.0, stop=0.5, seed=3)
    revise, again, other = (
        method.revision(subject),
        method.revision(subject),
        Surgery(gamma=0.01, seed=4).revision(subject),
    )
    happened = [revise(live, step, 2000) is not None for step in range(1500)]
    assert not any(happened[1000:])
    assert sum(happened[:50]) > 30
    assert 50 < sum(happened[500:1000]) < 90  # Σ 1/(1 + 0.01 i) from 500 to 999 is 100 ln(11/6) = 60.6
    assert [again(live, step, 2000) is not None for step in reversed(range(300))][::-1] == happened[:300]
    assert [other(live, step, 2000) is not None for step in range(300)] != happened[:300]


def test_rates_of_single_sites_and_what_is_skipped():
    torch.manual_seed(0)
    subject = Subject.of(nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)), torch.zeros(1, 20))
    plan = Surgery(c_rate=0.0, c_rate_of={"1.*": 1.5}).plan(subject)
    kept = [int(plan.on(name)[0].keep.sum()) for name in subject.sites]
    assert kept[0] > 200 > kept[1]
    with pytest.raises(PatternError, match="matches no site"):
        Surgery(c_rate_of={"fc*": 1.0}).plan(subject)
    shared = apply(subject, KMeans(bits=2, include=("0.*",)).plan(subject))
    assert [(s.site, s.reason) for s in Surgery().plan(shared).skipped] == [
        ("0.weight", "its values are shared, so they do not grow one by one")
    ]


@pytest.fixture
def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 8, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    parts = [(inputs[a:b], targets[a:b]) for a, b in ((0, 160), (160, 200), (200, 240))]
    return Task.classification("signs", *parts, batch_size=40)


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    return Subject.of(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2)), torch.zeros(1, 8))


RECIPE = Recipe(
    name="surgery",
    steps=(
        Step(method=Magnitude(sparsity=0.3)),
        Step(method=Surgery(gamma=0.05, stop=0.8, c_rate=0.5), train=Training(epochs=4, lr=0.05, batch_size=20)),
        Step(train=Training(epochs=1, lr=0.05, batch_size=20)),
    ),
)


def run(subject, task, folder):
    return recipes.run(RECIPE, subject, task, folder, gauge=Gauge(graph=False))


def test_in_a_recipe_it_ends_as_a_mask_that_holds(subject, task, tmp_path, monkeypatch):
    spliced = []
    original = Surgery.revision

    def revision(self, before):
        revise = original(self, before)

        def watched(live, step, total):
            plan = revise(live, step, total)
            back = [plan.on(n)[0].keep & ~live.constraints[n].splice.keep for n in plan.constraints] if plan else []
            spliced.extend(int(one.sum()) for one in back)
            return plan

        return watched

    monkeypatch.setattr(Surgery, "revision", revision)
    outcome = run(subject, task, tmp_path)
    assert sum(spliced) > 0, "nothing came back"
    ends = [recipes.state.load_subject(tmp_path / f"step-{n:02d}", subject) for n in (1, 2, 3)]
    for earlier, later in itertools.pairwise(ends):
        for name in subject.sites:
            assert later.constraints[name].splice is None
            assert not live_weight(later, name)[~earlier.constraints[name].mask.keep].any()
    assert outcome.report.steps[1].treated == ("0.weight", "2.weight")
    assert outcome.report.steps[1].after.sites[0].density.value < 0.7


@pytest.mark.parametrize("stop_at", [3, pytest.param(17, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_bits(subject, task, tmp_path, monkeypatch, stop_at):
    whole = run(subject, task, tmp_path / "whole")
    original = Surgery.revision

    def revision(self, before):
        revise = original(self, before)

        def dies(live, step, total):
            if step == stop_at:
                raise ZeroDivisionError
            return revise(live, step, total)

        return dies

    with monkeypatch.context() as patch:
        patch.setattr(Surgery, "revision", revision)
        with pytest.raises(ZeroDivisionError):
            run(subject, task, tmp_path / "killed")
    again = run(subject, task, tmp_path / "killed")
    left, right = whole.subject.model.state_dict(), again.subject.model.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.file.read_bytes() == whole.file.read_bytes()
