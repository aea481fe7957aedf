"""Steps that leave out sites, most guilty first, until they cost no more than is allowed."""

from dataclasses import replace

import pytest
import torch
from rich.progress import Progress
from torch import nn

from gossamer import recipe as recipes
from gossamer.calibrate import tried
from gossamer.errors import RecipeError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining
from gossamer.model import Grid, Mask, Method, Plan, Subject, apply, foldable, live_weight
from gossamer.recipe import Fallback, Gauge, Recipe, Step
from gossamer.recipe.evidence import Collector
from gossamer.recipe.step import perform
from gossamer.targets import static_loop
from gossamer.task import evaluate
from gossamer.train import Training, train


@pytest.fixture(scope="module")
def trained(task):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2))
    subject = Subject.of(model, torch.zeros(1, 8))
    train(subject, task, Training(epochs=30, lr=1e-2, batch_size=40))
    return subject


class Harm(Method, frozen=True, tag="test.harm"):
    """Zeroes the second site, and a tenth of a step of the first."""

    def plan(self, subject, evidence=None):
        first, second, third = subject.sites
        one = torch.tensor(1e-4), torch.tensor(0, dtype=torch.int32)
        nothing = Mask(torch.zeros(subject.sites[second].shape, dtype=torch.bool))
        return Plan(self.tag, {first: Grid(*one, 16), second: nothing, third: Grid(*one, 16)})


def test_the_guilty_site_goes_back_and_the_others_stay(trained, task, tmp_path):
    step = Step(method=Harm(), fallback=Fallback(drop=0.01))
    done = perform(step, trained, task, Collector(task), folder=tmp_path)
    assert set(done.plan.constraints) == {"0.weight", "4.weight"}
    assert torch.equal(live_weight(done.subject, "2.weight"), live_weight(trained, "2.weight"))
    (skip,) = done.plan.skipped
    assert skip.site == "2.weight"
    assert skip.reason.startswith(
        "fell back: more than 0.01 of accuracy would be lost with it, alone it raises the loss"
    )
    assert evaluate(trained, task)["accuracy"] - evaluate(done.subject, task)["accuracy"] <= 0.05


def test_nothing_goes_back_where_the_drop_is_within(trained, task, tmp_path):
    step = Step(method=PostTraining(weight_bits=8), fallback=Fallback(drop=0.05, measure="counted"))
    done = perform(step, trained, task, Collector(task), folder=tmp_path)
    assert set(done.plan.constraints) == set(trained.sites)


def test_sites_go_back_in_the_order_of_what_each_alone_does(trained, task, tmp_path):
    method = PostTraining(weight_bits=2, weight_range=60.0, inputs=False)
    collector = Collector(task)
    plan = method.plan(trained)
    alone = {site: Plan("alone", {site: plan.constraints[site]}) for site in plan.constraints}
    rises = tried(trained, alone, collector.batches(), loss=task.loss).rises
    step = Step(method=method, fallback=Fallback(drop=0.0))
    with Progress(disable=True) as bars:
        done = perform(step, trained, task, collector, folder=tmp_path, progress=bars)
    fell = [skip.site for skip in done.plan.skipped if skip.reason.startswith("fell back")]
    assert fell
    assert fell == sorted(rises, key=rises.get, reverse=True)[: len(fell)]
    assert done.plan.constraints.keys() == rises.keys() - set(fell)


class Valued(Harm, frozen=True, tag="test.valued"):
    """Does it by new values, and leaves alone what it is told to."""

    def plan(self, subject, evidence=None):
        values = {site.name: torch.zeros(site.shape) for site in self.chosen(subject) if site.name == "2.weight"}
        whole = Grid(torch.tensor(1e-4), torch.tensor(0, dtype=torch.int32), 16)
        return Plan(self.tag, {site.name: whole for site in self.chosen(subject)}, tensors=values)


def test_a_plan_with_new_values_is_made_anew(trained, task, tmp_path):
    step = Step(method=Valued(), fallback=Fallback(drop=0.01))
    done = perform(step, trained, task, Collector(task), folder=tmp_path)
    assert not done.plan.tensors
    assert "2.weight" not in done.plan.constraints
    assert torch.equal(live_weight(done.subject, "2.weight"), live_weight(trained, "2.weight"))


class Folded(Method, frozen=True, tag="test.folded"):
    """Folds the batch norm and spoils what the second layer becomes; its grids are for the folded weights."""

    def plan(self, subject, evidence=None):
        edits = foldable(subject)
        folded = apply(subject, Plan("fold", edits=edits))
        grids = {}
        for site in self.chosen(subject):
            weight = live_weight(folded, site.name)
            scale = weight.abs().max() * (0.6 if site.name == "3.weight" else 1 / 32767)
            grids[site.name] = Grid(scale, torch.tensor(0, dtype=torch.int32), 16)
        return Plan(self.tag, grids, edits=edits)


def test_the_guilty_site_of_a_plan_with_edits_is_found_in_the_edited_model(task, tmp_path):
    torch.manual_seed(0)
    layers = [nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2)]
    subject = Subject.of(nn.Sequential(*layers), torch.zeros(2, 8))
    train(subject, task, Training(epochs=30, lr=1e-2, batch_size=40))
    with torch.no_grad():
        subject.model[0].weight.mul_(1e-6)
        subject.model[0].bias.mul_(1e-6)
        subject.model[1].running_mean.mul_(1e-6)
        subject.model[1].running_var.mul_(1e-12)
        subject.model[1].eps *= 1e-12
    done = perform(Step(method=Folded(), fallback=Fallback(drop=0.01)), subject, task, Collector(task), folder=tmp_path)
    fell = [skip.site for skip in done.plan.skipped if skip.reason.startswith("fell back")]
    assert fell == ["3.weight"]


class Spoiled(PostTraining, frozen=True, tag="test.spoiled"):
    """Puts a recurrent matrix on far too few levels."""

    def plan(self, subject, evidence=None):
        plan = super().plan(subject, evidence)
        coarse = Grid(torch.tensor(100.0), torch.tensor(0, dtype=torch.int32), 2)
        return replace(plan, constraints={**plan.constraints, "1.gru.weight_hh_l0": coarse})


class Steps(nn.Module):
    """A GRU over the eight numbers of a sample."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 12, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


def test_a_recurrent_layer_of_which_a_matrix_goes_back_has_no_grids_of_states(task, tmp_path, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", {"GRU": 1})
    torch.manual_seed(0)
    subject = Subject.of(nn.Sequential(nn.Unflatten(1, (8, 1)), Steps(), nn.Linear(12, 2)), torch.zeros(2, 8))
    train(subject, task, Training(epochs=30, lr=1e-2, batch_size=40))
    step = Step(method=Spoiled(states="static"), fallback=Fallback(drop=0.01))
    plan = perform(step, subject, task, Collector(task), folder=tmp_path).plan
    assert set(plan.constraints) == {"1.gru.weight_ih_l0", "2.weight"}
    assert set(plan.activations) == {"2.weight"}


class Ruin(Method, frozen=True, tag="test.ruin"):
    """Spoils a bias, which is no site."""

    def plan(self, subject, evidence=None):
        return Plan(self.tag, tensors={"4.bias": torch.tensor([1e6, 0.0])})


def test_what_no_site_does_cannot_go_back(trained, task, tmp_path):
    step = Step(method=Ruin(), fallback=Fallback(drop=0.01))
    with pytest.raises(RecipeError, match=r"costs more than 0\.01 of accuracy even with no site left to fall back"):
        perform(step, trained, task, Collector(task), folder=tmp_path)


TEXT = """
name = "r"
[[step]]
method = "quantize.post_training"
weight_bits = 2
weight_range = 60.0
[step.fallback]
drop = 0.0
"""


def test_a_recipe_says_it_the_report_lists_it_and_a_run_continues(trained, task, tmp_path):
    recipe = Recipe.from_toml(TEXT)
    assert recipe.steps[0].fallback == Fallback(drop=0.0)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    end = recipes.run(recipe, trained, task, tmp_path, gauge=Gauge(graph=False))
    (step,) = end.report.steps
    fell = {skip.site for skip in step.skipped if skip.reason.startswith("fell back")}
    assert fell
    assert not fell & set(step.treated)
    again = recipes.run(recipe, trained, task, tmp_path, gauge=Gauge(graph=False))
    assert again.report == end.report


def test_what_cannot_be_asked_for():
    with pytest.raises(RecipeError, match="sites fall back from what a method did to them"):
        Step(method=Magnitude(sparsity=0.5), train=Training(epochs=1), fallback=Fallback(drop=0.1))
    with pytest.raises(RecipeError, match="sites fall back"):
        Step(train=Training(epochs=1), fallback=Fallback(drop=0.1))
    with pytest.raises(SettingError, match="drop"):
        Fallback(drop=-0.1)
