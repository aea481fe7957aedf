"""Steps that seek their strength on validation data."""

import math

import pytest

from gossamer import recipe as recipes
from gossamer.artifact import dumps
from gossamer.errors import RecipeError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining, RateDistortion
from gossamer.model import apply, freeze, to_artifact
from gossamer.recipe import Gauge, Recipe, Seek, Step, seek
from gossamer.recipe.seek import _monotone, _next, sought
from gossamer.task import evaluate
from gossamer.task.belief import Beliefs
from gossamer.train import Training


def test_the_greatest_strength_that_will_do_is_found(subject, task):
    before = evaluate(subject, task)["accuracy"]
    found = sought(Seek(drop=0.02, trials=6, measure="counted"), Magnitude(sparsity=0.0), subject, task, None)
    assert 0 < found.sparsity < 1
    assert before - evaluate(apply(subject, found.plan(subject)), task)["accuracy"] <= 0.02
    assert (found.sparsity * 64).is_integer()


def test_ratios_are_halved_where_the_range_does_not_begin_at_zero(subject, task, tmp_path):
    recipe = Recipe(name="r", steps=(Step(method=RateDistortion(), seek=Seek(drop=1.0, trials=2)),))
    end = recipes.run(recipe, subject, task, tmp_path, gauge=Gauge(graph=False))
    # Everything will do: 1e-2 first, then 1e-1, of 1e-4 to 1.
    assert end.report.steps[0].name == "quantize.rate_distortion, price 0.1"
    again = recipes.run(recipe, subject, task, tmp_path, gauge=Gauge(graph=False))
    assert again.report == end.report


def test_the_least_strength_that_fits_the_bytes_is_found(subject, task):
    def size(method):
        return len(dumps(to_artifact(freeze(apply(subject, method.plan(subject))))))

    budget = size(Magnitude(sparsity=0.5))
    found = sought(Seek(bytes=budget, trials=6), Magnitude(sparsity=0.0), subject, task, None)
    assert size(found) <= budget
    assert 0.4 < found.sparsity <= 0.55
    with pytest.raises(RecipeError, match=r"even sparsity 0\.875 leaves a file of more than 10 bytes"):
        sought(Seek(bytes=10, trials=3), Magnitude(sparsity=0.0), subject, task, None)
    with pytest.raises(SettingError, match="one of drop and bytes"):
        Seek()


def test_accuracy_is_expected_from_what_the_model_before_believes(subject, task):
    beliefs = Beliefs.of(subject, task)
    found = sought(Seek(drop=0.05, trials=6), Magnitude(sparsity=0.0), subject, task, None)
    assert beliefs.accuracy(subject) - beliefs.accuracy(apply(subject, found.plan(subject))) <= 0.05
    assert found.sparsity > 0


def test_nothing_will_do(subject, task, monkeypatch):
    figures = iter([0.9, 0.5, math.nan, 0.5])
    monkeypatch.setattr(seek, "evaluate", lambda *_: {"accuracy": next(figures)})
    with pytest.raises(RecipeError, match=r"prune\.magnitude: even sparsity 0\.125 costs more than 0\.1 of accuracy"):
        sought(Seek(drop=0.1, trials=3, measure="counted"), Magnitude(sparsity=0.0), subject, task, None)


def test_a_trial_that_fails_by_chance_is_outvoted():
    excess = {0.5: -1.0, 0.75: 0.1, 0.625: -1.0, 0.6875: -0.5, 0.71875: -0.2}
    assert _next(excess) == 0.78125  # a gap beyond the first that fails
    excess[0.78125] = -0.3
    assert _monotone(excess)[0.75] == pytest.approx(-0.1)
    assert _next(excess) > 0.78125
    excess[0.78125] = 0.3
    assert 0.71875 < _next(excess) < 0.75


def test_the_monotone_curve_by_hand():
    assert _monotone({3.0: 2.0, 1.0: 0.0, 2.0: 4.0, 4.0: 3.0}) == {1.0: 0.0, 2.0: 3.0, 3.0: 3.0, 4.0: 3.0}
    assert _monotone({}) == {}


def test_recipes_say_it(subject):
    text = """
name = "r"
[[step]]
method = "prune.magnitude"
sparsity = 0.5
[step.seek]
drop = 0.01
"""
    recipe = Recipe.from_toml(text)
    assert recipe.steps[0].seek == Seek(drop=0.01, trials=8)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    with pytest.raises(RecipeError, match="seek, field drop"):
        Recipe.from_toml(text.replace("0.01", "-1.0"))


def test_what_cannot_seek_is_refused():
    with pytest.raises(RecipeError, match="cannot train"):
        Step(method=Magnitude(sparsity=0.5), train=Training(epochs=1), seek=Seek(drop=0.1))
    with pytest.raises(RecipeError, match="needs a method whose strength can be sought"):
        Step(method=PostTraining(), seek=Seek(drop=0.1))
