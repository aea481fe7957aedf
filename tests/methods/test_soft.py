"""Soft weight sharing: the mixture by hand and against autograd, merging, and networks that are trained under it."""

import math

import pytest
import torch
from awkward import checks
from awkward.networks import NETWORKS
from torch import nn

from gossamer import datasets, zoo
from gossamer import recipe as recipes
from gossamer.errors import ModelError, PlanError, RecipeError
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import KMeans, Soft
from gossamer.methods.share.merging import divergence, merged
from gossamer.methods.share.prior import MixturePenalty, description_length, responsible
from gossamer.model import (
    Components,
    Grid,
    Mask,
    Mixture,
    Plan,
    Rates,
    StepContext,
    Subject,
    apply,
    freeze,
    live_weight,
    own_rates,
    retarget,
    settle,
)
from gossamer.model.live import live_parts
from gossamer.recipe import Gauge, Recipe, Step
from gossamer.recipe.evidence import Collector
from gossamer.recipe.step import perform
from gossamer.task import Task, evaluate
from gossamer.train import Training, train
from gossamer.train.optimizer import make_optimizer


def mixture(means, deviations, shares) -> Components:
    means, deviations, shares = (torch.tensor(part, dtype=torch.float64) for part in (means, deviations, shares))
    return Components(means, -2 * deviations.log(), shares.log())


def slow(values, one: Components):
    """Return the description length as it is written down, by autograd through a table of all by all."""
    away = values.unsqueeze(-1) - one.means
    height = (one.log_precisions / 2).exp() / math.sqrt(2 * math.pi)
    density = height * (-away.square() * one.log_precisions.exp() / 2).exp()
    return -(density * one.log_shares.exp()).sum(-1).log().sum()


def context(subject, samples=1):
    outputs = subject.model(*subject.args, **subject.kwargs)
    return StepContext(subject, subject.args, subject.kwargs, outputs, None, torch.zeros(()), samples)


def mixes(subject):
    return {id(live.mix): live.mix for _, _, live, _ in live_parts(subject.model) if live.mix is not None}.values()


def network() -> Subject:
    torch.manual_seed(0)
    return Subject.of(nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4)), torch.randn(3, 8))


def test_length_and_gradients_by_hand():
    # Half way between two components that are alike, each has half of the responsibility and both pull alike.
    one = Components(*(part.requires_grad_() for part in mixture([0, 2], [1, 1], [0.5, 0.5])))
    value = torch.tensor([1.0], requires_grad=True)
    length = description_length(value, one)
    length.backward()
    assert float(length.detach()) == pytest.approx(0.5 * math.log(2 * math.pi) + 0.5)
    assert value.grad.tolist() == [0]
    assert one.means.grad.tolist() == pytest.approx([-0.5, 0.5])
    assert one.log_precisions.grad.tolist() == pytest.approx([0, 0])
    assert one.log_shares.grad.tolist() == pytest.approx([-0.5, -0.5])


@pytest.mark.parametrize("chunk", [7, 1 << 15])
def test_length_and_gradients_are_those_of_a_slow_reference(monkeypatch, chunk):
    monkeypatch.setattr("gossamer.methods.share.prior._CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    found = []
    for of in (description_length, slow):
        one = mixture([0, -0.4, 0.1, 0.5], [0.05, 0.1, 0.02, 0.3], [0.7, 0.1, 0.1, 0.1])
        leaves = [torch.randn(5, 4, generator=generator.manual_seed(1), dtype=torch.float64), *one]
        for leaf in leaves:
            leaf.requires_grad_()
        length = 3 * of(leaves[0], Components(*leaves[1:]))
        found.append((length, *torch.autograd.grad(length, leaves)))
    for fast, reference in zip(*found, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-9)


def test_a_value_far_from_every_component_has_a_finite_length():
    one = mixture([0, 0.1], [1e-3, 1e-3], [0.99, 0.01])
    value = torch.tensor([5.0], requires_grad=True)
    length = description_length(value, one)
    length.backward()
    assert torch.isfinite(length)
    assert value.grad.tolist() == pytest.approx([4.9e6])


def test_responsibility_by_hand():
    # log 0.9 - w²/2 = log 0.1 - (w - 2)²/2 where w = 1 + log(9) / 2.
    edge = 1 + math.log(9) / 2
    one = mixture([0, 2], [1, 1], [0.9, 0.1])
    assert responsible(torch.tensor([[-3.0, edge - 0.01], [edge + 0.01, 5]]), one).tolist() == [[0, 0], [1, 1]]
    assert responsible(torch.zeros(0, 3), one).shape == (0, 3)


def test_merging_by_hand():
    distance = divergence(torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 1, 4]))
    assert float(distance[0, 1]) == pytest.approx(0.5)
    assert float(distance[0, 2]) == pytest.approx((math.log(4) + 1 / 4 - 1) / 2)
    assert float(distance[2, 0]) == pytest.approx((4 - 1 - math.log(4)) / 2)
    one = mixture([0, 1, 1.02, 0.03, -1], [0.1, 0.1, 0.2**0.5 / 10**0.5, 0.1, 0.1], [0.5, 0.1, 0.3, 0.05, 0.05])
    left = merged(one, 0.5)
    # The second and third become one; the fourth is part of that at zero; the last stays.
    assert left.means.tolist() == pytest.approx([0, (0.1 * 1 + 0.3 * 1.02) / 0.4, -1])
    assert (-left.log_precisions).exp().tolist() == pytest.approx([0.01, (0.1 * 0.01 + 0.3 * 0.02) / 0.4, 0.01])
    assert left.log_shares.exp().tolist() == pytest.approx([0.55, 0.4, 0.05])
    assert merged(one, 0.0).means.tolist() == one.means.tolist()
    assert merged(one, 1e9).means.tolist() == [0]


def test_the_mixture_starts_evenly_over_the_range_of_the_weights():
    subject = network()
    plan = Soft(components=6, width=2.0, zero=0.9).plan(subject)
    weights = torch.cat([live_weight(subject, name).flatten() for name in subject.sites])
    found = [plan.on(name)[0] for name in subject.sites]
    assert all(torch.equal(part.means, torch.linspace(weights.min(), weights.max(), 5)) for part in found)
    assert {part.tie for part in found} == {"0.weight"}
    whole = found[0].components
    assert whole.means[0] == 0
    assert whole.log_shares.exp().tolist() == pytest.approx([0.9, *[0.02] * 5])
    distance = float(weights.max() - weights.min()) / 4
    assert (-whole.log_precisions / 2).exp().tolist() == pytest.approx([2 * distance] * 6)
    assert plan.penalties[0].expected["0.weight"] == pytest.approx(0.25 * distance)
    assert len(mixes(apply(subject, plan))) == 1
    assert len(mixes(apply(subject, Soft(scope="layer").plan(subject)))) == 2


def test_the_penalty_counts_ties_once_and_masked_weights_not_at_all():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.embed(x))

    torch.manual_seed(0)
    subject = Subject.of(Tied(), torch.arange(9))
    subject = apply(subject, Magnitude(sparsity=0.5).plan(subject))
    held = apply(subject, Soft(tau=2.0, components=5, shape=1, zero_shape=1).plan(subject))
    (mix,) = mixes(held)
    weight = live_weight(subject, "embed.weight")
    one = Components(*(part.detach().double() for part in mix.components))
    expected = held.penalties[0].expected["embed.weight"]
    wanted = slow(weight[weight != 0].double(), one) + (expected**2 * one.log_precisions.exp()).sum()
    term = held.penalties[0].term(context(held, samples=100))
    assert float(term.detach()) == pytest.approx(float(2.0 / 100 * wanted), rel=1e-5)
    term.backward()
    assert mix.means.grad.abs().sum() > 0
    parameter = next(part for _, _, _, part in live_parts(held.model))
    assert not parameter.grad[weight == 0].any()
    assert parameter.grad[weight != 0].all()


def test_gamma_priors_want_the_expected_deviation():
    penalty = MixturePenalty(("weight",), 1.0, {"weight": 0.02}, 5000.0, 250.0)
    shape = torch.tensor([5000.0, 250.0], dtype=torch.float64)
    # The mode of the precision's logarithm with density λ^(α - 1) exp(-β λ), β = α σ².
    precisions = ((shape - 1) / (shape * 0.02**2)).log().requires_grad_()
    penalty._hyper(Components(torch.zeros(2), precisions, torch.zeros(2)), 0.02).backward()
    assert precisions.grad.tolist() == pytest.approx([0, 0], abs=1e-8)


def test_what_is_left_alone_is_told():
    torch.manual_seed(0)
    layers = [nn.Linear(12, 12) for _ in range(4)] + [nn.Linear(12, 2)]
    layers[3].weight.requires_grad_(requires_grad=False)
    with torch.no_grad():
        layers[2].weight.zero_()
    subject = Subject.of(nn.Sequential(*layers), torch.randn(2, 12))
    subject = apply(subject, KMeans(bits=2, include=("0.*",)).plan(subject))
    plan = Soft(scope="layer", components=40).plan(subject)
    assert {skip.site: skip.reason for skip in plan.skipped} == {
        "0.weight": "its values are shared already",
        "2.weight": "all its weights are zero",
        "3.weight": "its values do not train",
        "4.weight": "39 shared values for 24 weights would save nothing",
    }
    assert set(plan.constraints) == {"1.weight"}
    assert Soft(tau=0.0).plan(subject).penalties == ()
    with torch.no_grad():
        subject.model[1].weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"1\.weight: a weight is not finite"):
        Soft().plan(subject)


def test_a_mixture_is_checked_saved_and_printed_and_goes_when_it_has_settled():
    rates = Rates(1e-4, 3e-3, 3e-3)
    with pytest.raises(PlanError, match="wanted shapes"):
        Mixture(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0.9, rates)
    with pytest.raises(PlanError, match="share above 0"):
        Mixture(torch.zeros(2), torch.zeros(3), torch.zeros(2), 1.0, rates)
    with pytest.raises(PlanError, match=r"Mixture\.means: wanted finite"):
        Mixture(torch.tensor([torch.inf]), torch.zeros(2), torch.zeros(1), 0.9, rates)
    subject = network()
    plan = Soft().plan(subject)
    assert "mixture of 17 components while training, with other sites" in str(plan)
    again = Plan.from_dict(*plan.to_dict()).on("0.weight")[0]
    held = apply(subject, plan).constraints["0.weight"].mixture
    for one in (again, held):
        assert (one.zero, one.rates, one.tie) == (0.99, rates, "0.weight")
        assert torch.equal(one.means, plan.on("0.weight")[0].means)
    live = apply(subject, plan)
    with pytest.raises(PlanError, match="mixture cannot appear"):
        retarget(live, Plan("x", plan.constraints))
    settle(live)
    assert not any(live.constraints.values())
    assert live.penalties[0].term(context(live)) is None


def test_the_optimizer_has_the_rates_of_the_mixture():
    subject = network()
    live = apply(subject, Soft(mean_lr=0.1, precision_lr=0.2, share_lr=0.3).plan(subject))
    (mix,) = mixes(live)
    assert {id(part): rate for part, rate in own_rates(live.model)} == {
        id(mix.means): 0.1,
        id(mix.log_precisions): 0.2,
        id(mix.log_shares): 0.3,
    }
    groups = make_optimizer(live.model, Training(weight_decay=0.5)).param_groups
    assert [group.get("own") for group in groups] == [None, None, 0.1, 0.2, 0.3]
    assert [group["weight_decay"] for group in groups] == [0.5, 0, 0, 0, 0]
    assert groups[2]["params"][0] is mix.means
    assert sum(len(group["params"]) for group in groups) == len(list(live.model.parameters()))


def test_weights_take_the_mean_of_the_component_that_is_responsible():
    layer = nn.Linear(6, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[0.0, 0.01, 0.52, -0.48, 0.5, -0.02], [0.47, -0.51, 0.03, 0.9, 0, 0.49]]))
    subject = Subject.of(layer, torch.zeros(1, 6))
    subject = apply(subject, Plan("x", {"weight": Mask(layer.weight != 0)}))
    method = Soft(components=4)
    one = Mixture(
        torch.tensor([-0.5, 0.505, 0.495]), torch.full((4,), 0.05).log() * -2, torch.zeros(3), 0.7, Rates(1, 1, 1)
    )
    live = apply(subject, Plan("x", {"weight": one}))
    plan = method.conclusion(live)
    result = apply(live, plan)
    settle(result)
    wanted = [[0, 0, 0.5, -0.5, 0.5, 0], [0.5, -0.5, 0, 0.5, 0, 0.5]]
    torch.testing.assert_close(live_weight(result, "weight"), torch.tensor(wanted))
    held = result.constraints["weight"]
    assert held.mixture is None
    assert held.codebook.centers.tolist() == pytest.approx([-0.5, 0.5])  # two components were one
    assert torch.equal(held.mask.keep, torch.tensor(wanted) != 0)
    assert len(Soft(components=4, merge=0.0).conclusion(live).on("weight")[0].centers) == 3
    assert Soft().conclusion(subject) is None
    channels = Grid(torch.full((2,), 0.01), torch.zeros(2, dtype=torch.int32), axis=0)
    assert method.conclusion(apply(live, Plan("x", {"weight": channels}))) is None


@pytest.fixture
def signs() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 8, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    return Task.classification("signs", (inputs[:160], targets[:160]), (inputs[160:], targets[160:]), batch_size=40)


RECIPE = Recipe(
    name="soft",
    steps=(
        Step(method=Magnitude(sparsity=0.3)),
        Step(
            method=Soft(zero=0.2, width=1.0, mean_lr=0.01, precision_lr=0.05, share_lr=0.05),
            train=Training(epochs=4, lr=0.01, batch_size=20),
        ),
        Step(train=Training(epochs=1, lr=0.01, batch_size=20)),
    ),
)


def test_in_a_recipe_it_ends_as_codebooks_and_a_killed_run_with_the_same_bits(signs, tmp_path, monkeypatch):
    def run(folder):
        return recipes.run(RECIPE, network(), signs, tmp_path / folder, gauge=Gauge(graph=False))

    whole = run("whole")
    original = Soft.revision

    def revision(self, before):
        revise = original(self, before)

        def dies(live, step, total):
            if step == 19:  # in the middle of the third epoch: the checkpoint is that of the second
                assert any("mix.log_precisions" in name for name in live.model.state_dict())
                raise ZeroDivisionError
            return revise(live, step, total)

        return dies

    with monkeypatch.context() as patch:
        patch.setattr(Soft, "revision", revision)
        with pytest.raises(ZeroDivisionError):
            run("killed")
    again = run("killed")
    assert again.file.read_bytes() == whole.file.read_bytes()
    left, right = whole.subject.model.state_dict(), again.subject.model.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert whole.report.steps[1].treated == ("0.weight", "2.weight")
    pruned = recipes.state.load_subject(tmp_path / "whole" / "step-01", network())
    for name, held in whole.subject.constraints.items():
        assert held.mixture is None
        assert held.codebook.size <= 16
        assert not live_weight(whole.subject, name)[~pruned.constraints[name].mask.keep].any()


def test_weights_of_the_last_epoch_are_kept(signs):
    before = network()
    method = Soft()
    live, revise = apply(before, method.plan(before)), method.revision(before)
    training = Training(epochs=3, lr=1e-9, batch_size=20, schedule="constant", patience=1)
    result = train(live, signs, training, schedule=lambda *at: revise(live, *at) is not None)
    assert result.kept == 3


@pytest.mark.slow
def test_digits_end_with_few_values_and_the_same_accuracy(tmp_path):
    task = datasets.load("digits")
    subject = Subject.of(zoo.build("mlp-digits", pretrained=True).eval(), *task.example[0])
    step = Step(
        method=Soft(tau=0.01, zero=0.9, width=1.0, expected=0.1, mean_lr=1e-3, precision_lr=0.03, share_lr=0.03),
        train=Training(epochs=10, lr=5e-3, batch_size=64, schedule="cosine"),
    )
    end = perform(step, subject, task, Collector(task, 0), folder=tmp_path).subject
    values = torch.cat([live_weight(end, name).flatten() for name in end.sites])
    assert len(values.unique()) <= 17
    assert float((values == 0).float().mean()) > 0.8
    held = [end.constraints[name] for name in end.sites]
    assert {one.codebook.tie for one in held} == {"fc1.weight"}
    assert all(one.mixture is None and torch.equal(one.codebook.centers, held[0].codebook.centers) for one in held)
    train(end, task, Training(epochs=2, lr=2e-3, batch_size=64))
    assert evaluate(end, task)["accuracy"] > evaluate(subject, task)["accuracy"] - 0.03


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_sites_and_embeddings_are_drawn_together(kind):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn, self.out = nn.Embedding(10, 8), kind(8, 12, batch_first=True), nn.Linear(12, 10)

        def forward(self, x):
            return self.out(self.rnn(self.embed(x))[0][:, -1])

    torch.manual_seed(0)
    symbols = torch.randint(0, 10, (120, 5))
    task = Task.classification("last", (symbols[:80], symbols[:80, -1]), (symbols[80:], symbols[80:, -1]))
    subject = Subject.of(Reader(), symbols[:2])
    method = Soft(mean_lr=0.01, precision_lr=0.1, share_lr=0.1, tau=0.01)
    live = apply(subject, method.plan(subject))
    train(live, task, Training(epochs=5, lr=0.01, batch_size=16))
    result = apply(live, method.conclusion(live))
    settle(result)
    values = torch.cat([live_weight(result, name).flatten() for name in result.sites])
    assert set(result.constraints) == set(subject.sites)
    assert 1 < len(values.unique()) <= 17
    assert torch.equal(freeze(result).model(symbols), result.model(symbols))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_awkward_network_ends_with_shared_values(network):
    subject = checks.subject_of(network)
    method = Soft(zero=0.5, width=0.5)
    plan = method.plan(subject)
    live = apply(subject, plan)
    checks.train_one_step(live)
    concluded = method.conclusion(live)
    assert (concluded is None) == (not plan.constraints)
    result = live if concluded is None else apply(live, concluded)
    settle(result)
    frozen = freeze(result)
    for name, site in subject.sites.items():
        values = live_weight(result, name)
        assert torch.equal(values, frozen.model.get_parameter(name))
        assert values.dtype == site.dtype
        if name in plan.constraints:
            assert len(values.unique()) <= 17
            assert result.constraints[name].mixture is None


def test_a_step_without_training_is_refused():
    with pytest.raises(RecipeError, match=r"share\.soft: acts while its step trains"):
        Step(method=Soft())


def test_half_precision_feels_a_small_weight_of_the_description():
    values = torch.tensor([0.3, -0.2, 0.05])
    mixture = Components(torch.tensor([0.0, 0.25]), torch.tensor([2.0, 3.0]), torch.tensor([-0.1, -2.0]))

    def gradient(dtype):
        part = values.to(dtype).requires_grad_()
        (1e-8 * 2**10 * description_length(part, mixture)).backward()
        return part.grad.float()

    torch.testing.assert_close(gradient(torch.float16), gradient(torch.float32), rtol=0.1, atol=1e-7)


def test_a_training_too_short_for_it_is_told(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    task = Task.classification("s", *[(x, (x[:, 0] > 0).long())] * 2)
    torch.manual_seed(0)
    subject = Subject.of(nn.Linear(8, 40), torch.zeros(1, 8))
    step = Step(method=Soft(), train=Training(epochs=1, batch_size=32, keep="last"))
    with pytest.raises(ModelError, match="nothing but zero"):
        perform(step, subject, task, Collector(task, 0), folder=tmp_path)
