"""Runs: what a step does to the subject, what is reported, and what the journal keeps."""

import dataclasses
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer import recipe as recipes
from gossamer.errors import BusyError, RecipeError, SettingError, TargetError
from gossamer.methods.distill import Logits
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import Mixed, PostTraining
from gossamer.methods.regularize import L1
from gossamer.methods.share import KMeans
from gossamer.model import Subject, live_weight, load
from gossamer.recipe import Cubic, Gauge, Recipe, Step
from gossamer.recipe.journal import fingerprint
from gossamer.recipe.run import Outcome, _Run
from gossamer.report import sentences
from gossamer.targets import OnnxRuntime
from gossamer.task import Arrays, Task
from gossamer.train import Training

SHORT = Training(epochs=2, lr=0.01, batch_size=20)
FULL = Recipe(
    name="full",
    steps=(
        Step(method=Logits(alpha=0.5)),
        Step(method=Magnitude(sparsity=0.75), schedule=Cubic(end=0.5, every=2, initial=0.1), train=SHORT),
        Step(method=KMeans(bits=2), train=SHORT),
    ),
)


def run(recipe: Recipe, subject: Subject, task: Task, folder: Path, **more) -> Outcome:
    """Run without graphs, which take longer to export than these runs."""
    return recipes.run(recipe, subject, task, folder, **{"gauge": Gauge(graph=False), **more})


def same_state(one: Subject, other: Subject) -> bool:
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_steps_do_what_they_say(subject, task, tmp_path):
    before = fingerprint(subject)
    seen = []
    outcome = run(FULL, subject, task, tmp_path, on_step=lambda report: seen.append(len(report.steps)))
    assert fingerprint(subject) == before
    assert seen == [0, 1, 2, 3]
    values = torch.cat([live_weight(outcome.subject, site).flatten() for site in outcome.subject.sites])
    assert int((values == 0).sum()) == 180  # 0.75 of 8·24 + 24·2
    for site in outcome.subject.sites:
        kept = live_weight(outcome.subject, site)
        assert len(kept[kept != 0].unique()) <= 4


def test_report_counts_what_is_on_disk(subject, task, tmp_path):
    outcome = run(FULL, subject, task, tmp_path)
    report = outcome.report
    assert report.dense.value == 4 * (8 * 24 + 24 + 24 * 2 + 2)
    for number, state in enumerate((report.start, *(step.after for step in report.steps))):
        assert state.weights_only.value == (tmp_path / f"step-{number:02d}" / "model.goss").stat().st_size
        assert state.weights_only.basis == "measured"
        assert state.macs is not None
        assert (state.macs.value, state.macs.basis) == (8 * 24 + 24 * 2, "computed")
    assert [step.name for step in report.steps] == ["distill.logits", "prune.magnitude", "share.kmeans"]
    assert report.steps[0].lasting == ("LogitPenalty",)
    assert report.steps[1].trained == 2
    assert report.steps[1].treated == ("0.weight", "2.weight")
    assert report.end.sites[0].distinct.value <= 4
    kept = sum(site.density.value * torch.Size(site.shape).numel() for site in report.end.sites)
    assert kept == pytest.approx(60)
    assert set(report.test_after) == {"loss", "accuracy"}
    assert json.loads((tmp_path / "report.json").read_text())["steps"][2]["name"] == "share.kmeans"


def test_the_file_holds_the_subject(subject, task, tmp_path):
    outcome = run(FULL, subject, task, tmp_path)
    fresh = torch.nn.Sequential(torch.nn.Linear(8, 24), torch.nn.ReLU(), torch.nn.Linear(24, 2))
    loaded = load(outcome.file).into(fresh)
    inputs = task.validation.batch(torch.arange(10)).args[0]
    assert torch.equal(loaded(inputs), outcome.subject.model(inputs))


def test_a_finished_run_is_returned_as_it_is(subject, task, tmp_path, monkeypatch):
    first = run(FULL, subject, task, tmp_path)
    monkeypatch.setattr(_Run, "_step", None)
    again = run(FULL, subject, task, tmp_path)
    assert again.report == first.report
    assert same_state(again.subject, first.subject)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_continues_from_the_last_finished_step_to_the_same_bits(subject, task, tmp_path, kept):
    whole = run(FULL, subject, task, tmp_path / "whole")
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for number in range(kept + 1, 4):
        shutil.rmtree(broken / f"step-{number:02d}")
    (broken / "test.json").unlink()
    (broken / f".step-{kept + 1:02d}.partial").mkdir()
    again = run(FULL, subject, task, broken)
    assert same_state(again.subject, whole.subject)
    assert again.file.read_bytes() == whole.file.read_bytes()
    assert again.report.test_after == whole.report.test_after


def test_runs_with_the_same_seed_agree_and_with_another_differ(subject, task, tmp_path):
    files = [run(FULL, subject, task, tmp_path / str(n), seed=seed).file for n, seed in enumerate((1, 1, 2))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != files[2].read_bytes()


def test_a_loss_that_is_not_finite_stays_readable(subject, task, tmp_path):
    nowhere = replace(task, loss=lambda outputs, _: outputs.sum() * float("nan"))
    recipe = Recipe(name="a", steps=(Step(method=KMeans(bits=2)),))
    for _ in range(2):  # the second time everything is read back
        report = run(recipe, subject, nowhere, tmp_path).report
        assert math.isnan(report.start.metrics["loss"].value)
        assert math.isnan(report.test_after["loss"].value)
    (tmp_path / "step-01" / "step.json").write_text('{"number": null}')
    with pytest.raises(RecipeError, match=r"step-01/step\.json: cannot be read back"):
        run(recipe, subject, nowhere, tmp_path)


def test_a_journal_of_another_run_is_refused_with_what_differs(subject, task, tmp_path):
    step = Recipe(name="a", steps=(Step(method=KMeans(bits=2)),))
    run(step, subject, task, tmp_path)
    with pytest.raises(RecipeError, match=r"what differs: the recipe .*another folder"):
        run(Recipe(name="a", steps=(Step(method=KMeans(bits=3)),)), subject, task, tmp_path)
    other = subject.copy()
    with torch.no_grad():
        other.model[0].weight[0, 0] += 1
    with pytest.raises(RecipeError, match="what differs: the model's weights"):
        run(step, other, task, tmp_path)
    with pytest.raises(RecipeError, match=r"the task \(signs .* there, waves .* here\)"):
        run(step, subject, dataclasses.replace(task, name="waves"), tmp_path)


def test_two_runs_in_one_folder_are_refused(subject, task, tmp_path):
    step = Recipe(name="a", steps=(Step(method=KMeans(bits=2)),))

    def again(_):
        with pytest.raises(BusyError, match="another run is going on"):
            run(step, subject, task, tmp_path)

    assert run(step, subject, task, tmp_path, on_step=again).report.steps


def test_a_run_that_ended_before_its_first_step_makes_way(subject, task, tmp_path):
    possible = Recipe(name="possible", steps=(Step(method=KMeans(bits=2)),))
    impossible = Recipe(name="impossible", steps=(Step(method=Mixed(limit=10, widths=(8,), inputs=False)),))
    with pytest.raises(SettingError, match="cannot be met"):
        run(impossible, subject, task, tmp_path / "r")
    kept = tmp_path / "r" / "step-00" / "step.json"
    assert kept.exists()
    assert run(possible, subject, task, tmp_path / "r").report.recipe == "possible"
    with pytest.raises(RecipeError, match="journal of another run; what differs: the recipe"):
        run(impossible, subject, task, tmp_path / "r")


def test_a_folder_with_steps_but_no_journal_is_refused(subject, task, tmp_path):
    (tmp_path / "step-00").mkdir()
    with pytest.raises(RecipeError, match="no journal"):
        run(FULL, subject, task, tmp_path)


def test_damaged_files_of_the_journal_are_named(subject, task, tmp_path):
    run(FULL, subject, task, tmp_path)
    (tmp_path / "step-03" / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(RecipeError, match=r"state\.safetensors: cannot be read back"):
        run(FULL, subject, task, tmp_path)
    (tmp_path / "journal.json").write_bytes(b"{}")
    with pytest.raises(RecipeError, match=r"journal\.json: no journal"):
        run(FULL, subject, task, tmp_path)


def test_a_penalty_holds_for_its_own_training_only(subject, task, tmp_path):
    recipe = Recipe(name="l1", steps=(Step(method=L1(amount=0.5), train=SHORT), Step(method=Magnitude(sparsity=0.5))))
    outcome = run(recipe, subject, task, tmp_path)
    assert outcome.subject.penalties == ()
    assert outcome.report.steps[0].after.sites[0].density.value < 1


def test_a_schedule_is_refused_where_strength_is_not_a_mask(subject, task, tmp_path):
    recipe = Recipe(name="l1", steps=(Step(method=L1(amount=0.01), schedule=Cubic(), train=SHORT),))
    with pytest.raises(RecipeError, match="ramp masks"):
        run(recipe, subject, task, tmp_path)
    assert (tmp_path / "step-00" / "model.goss").exists()


def test_masks_hold_while_training_and_only_grow(subject, task, tmp_path, monkeypatch):
    zeros = []
    original = Magnitude.plan

    def plan(self, live, evidence=None):
        zeros.append(sum(int((live_weight(live, site) == 0).sum()) for site in live.sites))
        return original(self, live, evidence)

    monkeypatch.setattr(Magnitude, "plan", plan)
    run(FULL, subject, task, tmp_path)
    assert zeros == sorted(zeros)
    assert len(set(zeros)) > 3


def test_self_contained_files_and_costs_are_measured(subject, task, tmp_path):
    recipe = Recipe(name="k", steps=(Step(method=KMeans(bits=2)),))
    gauge = Gauge(target=OnnxRuntime(), ship="self-contained")
    outcome = run(recipe, subject, task, tmp_path, gauge=gauge)
    assert outcome.file.stat().st_size == outcome.report.end.self_contained.value
    for state in (outcome.report.start, outcome.report.end):
        assert state.self_contained.value > state.weights_only.value
        assert (state.latency.basis, state.latency.unit) == ("measured", "s")
        assert (state.energy.basis, state.energy.unit) == ("computed", "J")
        assert state.memory.value > 1e6
    inputs = task.validation.batch(torch.arange(1)).args[0]
    (answer,) = OnnxRuntime().run(outcome.file, [inputs.numpy()]).values()
    assert torch.allclose(torch.from_numpy(answer), outcome.subject.model(inputs), atol=1e-4)
    assert run(recipe, subject, task, tmp_path, gauge=gauge).report == outcome.report


@pytest.mark.slow
def test_a_gauge_used_again_writes_the_graph_of_the_other_model(task, tmp_path):
    recipe, gauge = Recipe(name="k", steps=(Step(method=KMeans(bits=2)),)), Gauge(ship="self-contained")
    inputs = task.validation.batch(torch.arange(4)).args[0]
    for number, between in enumerate((nn.ReLU(), nn.Tanh())):
        subject = Subject.of(nn.Sequential(nn.Linear(8, 6), between, nn.Linear(6, 2)), torch.zeros(1, 8))
        outcome = run(recipe, subject, task, tmp_path / str(number), gauge=gauge)
        (answer,) = OnnxRuntime().run(outcome.file, [inputs.numpy()]).values()
        assert torch.allclose(torch.from_numpy(answer), outcome.subject.model(inputs), atol=1e-5)


def test_a_journal_of_other_data_is_refused(subject, task, tmp_path):
    recipe = Recipe(name="k", steps=(Step(method=KMeans(bits=2)),))
    run(recipe, subject, task, tmp_path)
    turned = [Arrays(part.inputs, 1 - part.targets) for part in (task.train, task.validation, task.test)]
    with pytest.raises(RecipeError, match="the data of signs"):
        run(recipe, subject, Task.classification("signs", *turned, batch_size=40), tmp_path)


def test_a_file_without_a_graph_cannot_be_shipped_as_self_contained(subject, task, tmp_path):
    recipe = Recipe(name="k", steps=(Step(method=KMeans(bits=2)),))
    run(recipe, subject, task, tmp_path)
    with pytest.raises(TargetError, match="the run that left this folder was asked for none"):
        run(recipe, subject, task, tmp_path, gauge=Gauge(ship="self-contained"))


@pytest.mark.slow
def test_what_is_multiplied_in_floats_after_all_is_said(subject, task, tmp_path):
    """Values that were shared keep their codebook, whose products the target does not take in integers."""
    integers = Recipe(name="i", steps=(Step(method=PostTraining()),))
    shared = Recipe(name="s", steps=(Step(method=KMeans(bits=3)), Step(method=PostTraining())))
    alone, after = (
        run(recipe, subject, task, tmp_path / recipe.name, gauge=Gauge()).report for recipe in (integers, shared)
    )
    assert alone.end.floats == ()
    assert [one.site for one in after.end.floats] == ["0.weight", "2.weight"]
    said = [text for text in sentences(after) if "products are taken in floats" in text]
    reason = "its shared values are not stored on a grid of integers"
    assert said == [f"Inputs are in 8 bits but products are taken in floats at 0.weight, 2.weight: {reason}."]
    assert not any("floats" in text for text in sentences(alone))
    assert [one.site for one in alone.end.agreed] == ["0.weight", "2.weight"]
    assert all(one.steps.value <= 1 for one in alone.end.agreed)
    assert alone.start.agreed == after.end.agreed == ()


def test_a_run_that_calibrates_on_more_samples_is_another(subject, task, tmp_path):
    recipe = Recipe(name="one", steps=(Step(method=Magnitude(sparsity=0.5)),))
    run(recipe, subject, task, tmp_path, samples=32)
    with pytest.raises(RecipeError, match=r"samples calibration sees \(32 there, 64 here\)"):
        run(recipe, subject, task, tmp_path, samples=64)
