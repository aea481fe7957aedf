"""Rate-aware training: gradients worked out by hand, prices of the coder, and what training under them makes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.artifact import dumps
from gossamer.codings.rates import rates
from gossamer.errors import ModelError, PlanError, RecipeError
from gossamer.methods.distill import Logits
from gossamer.methods.prune import Magnitude, Units
from gossamer.methods.quantize import RateAware, RateDistortion
from gossamer.methods.quantize.rate_aware import RatePenalty, first_step
from gossamer.methods.quantize.spent import spent, tabled
from gossamer.methods.share import KMeans
from gossamer.model import Grid, Plan, StepContext, Subject, apply, freeze, live_weight, retarget, to_artifact
from gossamer.model.learned import learned_snap, noisy, step_of
from gossamer.recipe import Recipe, Step, run
from gossamer.recipe.evidence import Collector
from gossamer.recipe.schedule import Cubic
from gossamer.recipe.step import _eased, perform
from gossamer.task import Task
from gossamer.train import Training, train


def settings(**changes):
    return Training(**{"epochs": 12, "lr": 1e-2, "batch_size": 50, "keep": "last", **changes})


def treated(trained, **changes):
    return apply(trained, RateAware(**changes).plan(trained))


def total_bits(subject):
    found = 0.0
    for name, held in subject.constraints.items():
        codes = held.grid.quantize(live_weight(subject, name)).numpy().astype(np.int64)
        found += rates(codes).total(codes)
    return found


def test_the_gradient_of_the_step_is_that_of_the_paper():
    value = torch.tensor([[0.2, -0.7, 1.6, 9.0, -9.0]], requires_grad=True)
    step = torch.tensor(1.0, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    snapped = learned_snap(value, step, bits=3)
    assert snapped.tolist() == [[0.0, -1.0, 2.0, 3.0, -4.0]]
    (snapped * weights).sum().backward()
    assert value.grad.tolist() == [[1.0, 2.0, 3.0, 0.0, 0.0]]
    # round(v) - v inside, the last code outside (Esser et al., equation 3)
    inside = 1 * (0 - 0.2) + 2 * (-1 + 0.7) + 3 * (2 - 1.6)
    assert float(step.grad) == pytest.approx(inside + 4 * 3 + 5 * -4, abs=1e-5)


def test_the_gradient_of_the_logarithm_moves_the_step_as_the_paper_scales_it():
    log_step = torch.tensor(math.log(0.5), requires_grad=True)
    step = step_of(log_step, count=100, bits=3)
    assert float(step.detach()) == pytest.approx(0.5)
    (3.0 * step).backward()  # the gradient of the step is 3
    moved = float(step.detach()) * -float(log_step.grad)  # to first order, by plain descent at rate 1
    assert moved == pytest.approx(-3.0 / math.sqrt(100 * 3), rel=1e-5)


def test_noise_is_even_and_as_wide_as_a_step():
    torch.manual_seed(0)
    step = torch.tensor(0.5, requires_grad=True)
    found = noisy(torch.ones(20000), step)
    values = found.detach()
    assert float(values.min()) == pytest.approx(0.75, abs=1e-3)
    assert float(values.max()) == pytest.approx(1.25, abs=1e-3)
    assert float(values.var()) == pytest.approx(0.25 / 12, rel=0.03)
    found[found > 1].sum().backward()
    assert float(step.grad) > 0


def test_bits_at_whole_numbers_are_the_coders_and_between_them_linear():
    codes = torch.zeros(6, 50, dtype=torch.int16)
    codes[:, ::7] = torch.tensor([1, -1, 2, 1, 0, 3], dtype=torch.int16)[:, None]
    table = tabled(codes)
    prices = rates(codes.numpy().astype(np.int64))
    step = torch.tensor(0.25)
    assert float(spent(codes * 0.25, step, table)) == pytest.approx(
        prices.total(codes.numpy().astype(np.int64)), rel=1e-5
    )
    weight = torch.zeros(6, 50)
    for value, expected in (
        (0.5, 0.5 * prices.zero[0, 0] + 0.5 * (prices.above[0, 0] + prices.distance[0])),
        (-1.75, prices.below[0, 0] + 0.25 * prices.distance[0] + 0.75 * prices.distance[1]),
        (2.5, prices.above[0, 0] + 0.5 * prices.distance[1] + 0.5 * prices.distance[2]),
        (6.0, prices.above[0, 0] + prices.distance[3] + 2 * (prices.distance[3] - prices.distance[2])),
    ):
        weight[0, 0] = value * 0.25
        rest = float(prices.zero.sum() - prices.zero[0, 0])
        assert float(spent(weight, step, table)) - rest == pytest.approx(expected, rel=1e-3)


def test_bits_have_the_slopes_of_the_lines():
    codes = torch.randint(-2, 3, (5, 40), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    table = tabled(codes)
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    step = torch.tensor(0.4, requires_grad=True)
    keep = torch.rand(5, 40, generator=torch.Generator().manual_seed(2)) > 0.3
    spent(weight, step, table, keep).backward()
    assert not weight.grad[~keep].any()
    small = 1e-4
    with torch.no_grad():
        for place in ((0, 0), (2, 7), (4, 39)):
            moved = [weight.clone() for _ in range(2)]
            moved[0][place] -= small
            moved[1][place] += small
            low, high = (spent(one, step, table, keep).double() for one in moved)
            assert float(weight.grad[place]) == pytest.approx(float(high - low) / (2 * small), rel=0.05, abs=1.0)
        low, high = (spent(weight, step + by, table, keep).double() for by in (-small, small))
    assert float(step.grad) == pytest.approx(float(high - low) / (2 * small), rel=0.05)


def test_a_step_starts_by_the_mean_or_where_a_grid_is():
    weight = torch.tensor([[0.0, 1.0], [-3.0, 0.0]])
    assert float(first_step(weight, 8)) == pytest.approx(2 * 2 / math.sqrt(7))
    assert float(first_step(weight, 2)) == pytest.approx(2 * 2)  # codes up to 1
    assert float(first_step(torch.tensor([1e-4] * 99 + [1.0]), 8)) == pytest.approx(1 / 127)  # all codes fit
    subject = Subject.of(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4))
    held = apply(subject, Plan("before", {"0.weight": Grid(torch.tensor(0.125), torch.tensor(0), 4)}))
    grid = RateAware().plan(held).constraints["0.weight"]
    assert float(grid.scale) == 0.125
    assert grid.bits == 4


def test_what_cannot_be_treated_is_told(trained):
    shared = apply(trained, KMeans(bits=2).plan(trained))
    assert {skip.reason for skip in RateAware().plan(shared).skipped} == {"its values are shared"}
    subject = trained.copy()
    with torch.no_grad():
        subject.model[0].weight.zero_()
    subject.model[2].weight.requires_grad_(requires_grad=False)
    reasons = {skip.site: skip.reason for skip in RateAware().plan(subject).skipped}
    assert reasons == {"0.weight": "all its values are zero", "2.weight": "its values do not train"}
    with torch.no_grad():
        subject.model[0].weight[0, 0] = math.nan
    with pytest.raises(ModelError, match=r"0\.weight: a weight is not finite"):
        RateAware().plan(subject)


@pytest.mark.parametrize("noise", [False, True])
def test_a_price_makes_zeros_and_fewer_bits(task, trained, noise):
    found = {}
    for price in (0.0, 0.3):
        subject = treated(trained, price=price, noise=noise, every=10)
        train(subject, task, settings(epochs=25))
        found[price] = subject
    assert total_bits(found[0.3]) < 0.6 * total_bits(found[0.0])
    zeros = [sum(int((live_weight(one, name) == 0).sum()) for name in one.sites) for one in found.values()]
    assert zeros[1] > 1.5 * zeros[0]
    for name, held in found[0.3].constraints.items():
        assert held.grid.scale != treated(trained, price=0.3).constraints[name].grid.scale
        value = live_weight(found[0.3], name)
        assert torch.equal(held.grid.snap(value), value)


def test_masked_weights_stay_zero(task, trained):
    pruned = apply(trained, Magnitude(sparsity=0.6).plan(trained))
    subject = treated(pruned, price=0.1, every=10)
    train(subject, task, settings(epochs=3))
    for name, held in pruned.constraints.items():
        assert not live_weight(subject, name)[~held.mask.keep].any()


def test_a_cut_after_it_leaves_it_in_training(task, trained):
    subject = treated(trained, price=0.1, every=10)
    train(subject, task, settings(epochs=2))
    cut = apply(subject, Units(amount=0.4, criterion="l1", repair=False).plan(subject))
    assert len(live_weight(cut, "0.weight")) < 32
    train(cut, task, settings(epochs=2))
    assert cut.constraints["0.weight"].grid.trained


@pytest.mark.parametrize("noise", [False, True])
def test_a_resumed_run_ends_with_the_same_bits(task, trained, tmp_path, noise):
    def fresh():
        return treated(trained, price=0.2, noise=noise, every=7)

    whole = fresh()
    train(whole, task, settings(epochs=4))
    parts = fresh()

    class Stop(Exception):  # noqa: N818  # it is no error
        pass

    def stop(epoch):
        if epoch.epoch == 2:  # step 8: between two times that prices are asked for
            raise Stop

    with pytest.raises(Stop):
        train(parts, task, settings(epochs=4), folder=tmp_path, on_epoch=stop)
    again = fresh()
    train(again, task, settings(epochs=4), folder=tmp_path)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.slow
def test_a_recipe_writes_integers_and_goes_on_with_rate_distortion(task, trained, tmp_path):
    recipe = Recipe(
        name="aware",
        steps=(
            Step(method=Logits()),
            Step(method=RateAware(price=0.3, every=10), train=settings(epochs=8)),
            Step(method=RateDistortion(price=0.02)),
        ),
    )
    outcome = run(recipe, trained, task, tmp_path)
    for name in ("0.weight", "2.weight"):
        grid = outcome.subject.constraints[name].grid
        assert not grid.trained
        codes = grid.quantize(live_weight(outcome.subject, name))
        assert torch.equal(codes * grid.scale, live_weight(outcome.subject, name))
    assert outcome.file.stat().st_size < 0.7 * len(dumps(to_artifact(freeze(trained))))


def test_a_schedule_ramps_the_price_and_a_stopped_run_takes_it_up(task, trained, tmp_path, monkeypatch):
    seen = []
    term = RatePenalty.term
    monkeypatch.setattr(RatePenalty, "term", lambda self, context: seen.append(self.price) or term(self, context))
    schedule = Cubic(begin=0.25, end=0.75, every=2, initial=0.0)
    step = Step(method=RateAware(price=0.5, every=10), train=settings(epochs=4), schedule=schedule)
    whole = perform(step, trained, task, Collector(task, 0), folder=tmp_path / "whole").subject
    assert seen == [schedule.strength(number, 16, 0.5) for number in range(16)]
    assert seen[:4] == [0.0] * 4
    assert seen[-5] < 0.5
    assert seen[-4:] == [0.5] * 4

    calls = []

    def stop(self, context):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return term(self, context)

    with monkeypatch.context() as patch:
        patch.setattr(RatePenalty, "term", stop)
        with pytest.raises(KeyboardInterrupt):
            perform(step, trained, task, Collector(task, 0), folder=tmp_path / "parts")
    again = perform(step, trained, task, Collector(task, 0), folder=tmp_path / "parts").subject
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_recurrent_and_embedded_weights_train_on_their_grids():
    torch.manual_seed(0)

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 6)
            self.lstm = nn.LSTM(6, 5, batch_first=True)
            self.out = nn.Linear(5, 2)

        def forward(self, words):
            return self.out(self.lstm(self.embedding(words))[0][:, -1])

    x = torch.randint(0, 10, (60, 4))
    task = Task.classification("words", (x, x[:, 0] % 2), (x, x[:, 0] % 2), batch_size=30)
    subject = Subject.of(Words(), x[:1])
    subject = treated(subject, price=0.5, every=5)
    before = {name: float(held.grid.scale) for name, held in subject.constraints.items()}
    assert set(before) == set(subject.sites)
    train(subject, task, settings(epochs=3, batch_size=30))
    for name, held in subject.constraints.items():
        assert float(held.grid.scale) != before[name]


def test_a_trained_scale_is_one_and_stays_what_it_is(trained):
    with pytest.raises(PlanError, match=r"Grid\.noise: wanted one scale"):
        Grid(torch.ones(2), torch.zeros(2), axis=0, trained=True, noise=True)
    with pytest.raises(PlanError, match=r"Grid\.noise"):
        Grid(torch.tensor(1.0), torch.tensor(0), noise=True)
    subject = treated(trained)
    with pytest.raises(PlanError, match="cannot change during training"):
        retarget(subject, Plan("late", {"0.weight": Grid(torch.tensor(1.0), torch.tensor(0))}))


def test_what_is_trained_is_rounded_in_the_end(trained, task, tmp_path):
    step = Step(method=RateAware(price=1.0, noise=True), train=settings(keep="best"))
    new = perform(step, trained, task, Collector(task), folder=tmp_path).subject
    for name, held in new.constraints.items():
        codes = held.grid.quantize(live_weight(new, name))
        assert int(codes.abs().max()).bit_length() + 1 == max(held.grid.bits, 2) < 8
        assert not held.grid.noise
        hidden = dict(new.model.named_parameters())[f"{name[:2]}parametrizations.weight.original"]
        torch.testing.assert_close(hidden, live_weight(new, name))
    with pytest.raises(PlanError, match="would undo that"):
        apply(new, Plan("t", {"0.weight": Grid(torch.tensor(0.001), torch.tensor(0), 8)}))


def test_a_site_that_is_shared_since_costs_nothing(trained, task):
    subject = treated(trained, price=1.0)
    shared = apply(subject, KMeans(bits=2).plan(subject))
    (penalty,) = RateAware(price=1.0).plan(trained).penalties
    batch = next(iter(task.batches("train")))
    outputs = shared.model(*batch.args)
    context = StepContext(shared, batch.args, {}, outputs, batch.targets, task.loss(outputs, batch.targets))
    assert penalty.term(context) is None


def test_it_wants_a_training():
    with pytest.raises(RecipeError, match="train"):
        Step(method=RateAware(price=1.0))


def test_the_last_epoch_is_kept_under_a_schedule_too(trained):
    method = RateAware(price=1.0)
    step = Step(method=method, schedule=Cubic(end=0.5, every=1), train=settings(keep="best"))
    plan = method.plan(trained)
    live = apply(trained, plan)
    hook = _eased(step, trained, live, plan)
    assert hook(90, 100), "weights from before are not to be had back, though the ramp is over"
    assert live.penalties[-1].price == 1.0
