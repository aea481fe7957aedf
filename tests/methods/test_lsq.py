"""Learned step sizes: gradients worked out by hand, where steps start, and what a training leaves."""

import math

import pytest
import torch
from torch import nn

from gossamer.errors import EvidenceError, PlanError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import Lsq, PostTraining
from gossamer.methods.quantize.lsq import first_steps
from gossamer.model import Grid, Plan, Subject, apply, freeze, live_weight, settle
from gossamer.model.learned import learned_snap
from gossamer.recipe import Step
from gossamer.recipe.evidence import Collector
from gossamer.recipe.state import load_subject, save_subject
from gossamer.recipe.step import perform
from gossamer.task import Task, evaluate
from gossamer.train import Training


def settings(**changes):
    return Training(**{"epochs": 6, "lr": 5e-3, "batch_size": 50, **changes})


def planned(subject, task, method):
    return method.plan(subject, Collector(task).get(subject, method.needs))


def trained_by(subject, task, tmp_path, method, **changes):
    return perform(Step(method=method, train=settings(**changes)), subject, task, Collector(task), folder=tmp_path)


def test_gradients_of_an_unsigned_grid_with_a_zero_point():
    value = torch.tensor([-1.0, -0.3, 0.6, 9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    snapped = learned_snap(value, step, torch.tensor(1), bits=2, signed=False)  # codes 0 to 3, 0.0 is code 1
    assert snapped.tolist() == [-0.5, -0.5, 0.5, 1.0]
    (snapped * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert value.grad.tolist() == [0.0, 2.0, 3.0, 0.0]
    # below: -1; inside: -1 + 0.6 and 1 - 1.2; above: 2
    assert float(step.grad) == pytest.approx(1 * -1 + 2 * (-1 + 0.6) + 3 * (1 - 1.2) + 4 * 2, abs=1e-5)


def test_a_step_of_a_channel_has_the_gradient_of_its_channel():
    value = torch.tensor([[0.2, 0.8], [0.2, 0.8]], requires_grad=True)
    step = torch.tensor([1.0, 0.5], requires_grad=True)
    snapped = learned_snap(value, step, bits=3, axis=0)
    assert snapped.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    snapped.sum().backward()
    torch.testing.assert_close(step.grad, torch.tensor([-0.2 + 0.2, -0.4 + 2 - 1.6]))


def test_a_first_step_by_the_mean_leaves_zeros_out():
    rows = torch.tensor([[1.0, -3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(first_steps(rows, 3), torch.tensor([2 * 2 / math.sqrt(3), 1.0]))


def test_the_ends_have_eight_bits(task):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    subject = Subject.of(model, torch.zeros(1, 8))
    plan = planned(subject, task, Lsq(bits=2, input_bits=3))
    assert [plan.constraints[name].bits for name in subject.sites] == [8, 2, 8]
    assert [plan.activations[name].bits for name in subject.sites] == [8, 3, 8]
    assert all(part.trained for part in (*plan.constraints.values(), *plan.activations.values()))
    assert int(plan.activations["0.weight"].zero) > 0  # inputs of both signs
    assert int(plan.activations["2.weight"].zero) == 0
    same = planned(subject, task, Lsq(bits=2, input_bits="float", end_bits="same"))
    assert [same.constraints[name].bits for name in subject.sites] == [2, 2, 2]
    assert not same.activations
    alone = planned(subject, task, Lsq(bits=2, input_bits=3, end_bits="float"))
    middle = list(subject.sites)[1]
    assert set(alone.constraints) == set(alone.activations) == {middle}
    assert {skip.reason for skip in alone.skipped} == {"it is the first or the last layer"}


def test_it_goes_on_from_quantization_after_training(trained, task):
    before = apply(trained, planned(trained, task, PostTraining(weight_bits=8)))
    plan = planned(before, task, Lsq(bits=8, channels=True))
    for name in trained.sites:
        assert torch.equal(plan.constraints[name].scale, before.constraints[name].grid.scale)
        assert torch.equal(plan.activations[name].scale, before.activations[name].scale)
        assert int(plan.activations[name].zero) == int(before.activations[name].zero)
    apply(before, plan)


def test_the_steps_of_the_paper_start_by_the_mean(trained, task):
    collector = Collector(task)
    method = Lsq(bits=3, input_bits=4, end_bits="same", start="mean")
    plan = method.plan(trained, collector.get(trained, method.needs))
    mean = float(live_weight(trained, "2.weight").abs().mean())
    assert float(plan.constraints["2.weight"].scale) == pytest.approx(2 * mean / math.sqrt(3), rel=1e-5)
    inputs = collector.get(trained, method.needs).samples("2.weight")
    expected = 2 * float(abs(inputs).mean()) / math.sqrt(15)
    assert float(plan.activations["2.weight"].scale) == pytest.approx(expected, rel=1e-5)


def test_steps_of_weights_and_inputs_train_and_those_of_inputs_are_fixed_then(trained, task, tmp_path):
    method = Lsq(bits=2, input_bits=4, end_bits="same")
    plan = planned(trained, task, method)
    done = trained_by(trained, task, tmp_path, method)
    for name in trained.sites:
        assert float(done.subject.constraints[name].grid.scale) != float(plan.constraints[name].scale)
        grid = done.subject.activations[name]
        assert not grid.trained
        assert float(grid.scale) != float(plan.activations[name].scale)
        assert live_weight(done.subject, name).unique().numel() <= 4
    assert not [name for name in done.subject.model.state_dict() if "input" in name]
    rounded = apply(trained, planned(trained, task, method))
    settle(rounded)
    assert evaluate(done.subject.model, task)["accuracy"] >= evaluate(rounded.model, task)["accuracy"]


def test_zeros_of_a_mask_stay_zero(trained, task, tmp_path):
    pruned = apply(trained, Magnitude(sparsity=0.5).plan(trained))
    done = trained_by(pruned, task, tmp_path, Lsq(bits=3, input_bits="float", end_bits="same"), epochs=1)
    for name, held in pruned.constraints.items():
        assert not live_weight(done.subject, name)[~held.mask.keep].any()


def test_a_journal_keeps_the_steps_of_inputs(trained, task, tmp_path):
    done = trained_by(trained, task, tmp_path, Lsq(bits=3), epochs=1)
    save_subject(tmp_path, done.subject, trained)
    again = load_subject(tmp_path, trained)
    for name, grid in done.subject.activations.items():
        assert torch.equal(grid.scale, again.activations[name].scale)
        assert torch.equal(live_weight(done.subject, name), live_weight(again, name))
    assert set(freeze(again).activations) == set(trained.sites)


def test_batch_norms_are_measured_anew(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(80, 4) * 3 + 1
    task = Task.classification("norms", (x, (x[:, 0] > 0).long()), (x, (x[:, 0] > 0).long()), batch_size=80)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    subject = Subject.of(model, x[:1])
    method = Lsq(bits=4, exclude=("3*",))
    done = perform(
        Step(method=method, train=settings(epochs=1)), subject, task, Collector(task, samples=80), folder=tmp_path
    )
    with torch.no_grad():
        out = done.subject.model[0](x)
    torch.testing.assert_close(done.subject.model[1].running_mean, out.mean(0), rtol=1e-4, atol=1e-4)
    assert method.conclusion(done.subject).reset_norms
    assert Lsq(reset_norms=False).conclusion(done.subject) is None


def test_one_layer_at_two_places_has_one_step(task):
    layer = nn.Linear(8, 8)
    subject = Subject.of(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 8))
    step = Grid(torch.tensor(0.5), torch.tensor(0), 4, trained=True)
    on_grid = apply(subject, Plan("t", activations={"0.weight": step}))
    assert sum("input_log_scale" in name for name, _ in on_grid.model.named_parameters()) == 1
    on_grid.copy().model(torch.randn(3, 8)).sum().backward()


def test_what_is_missing_is_told(trained):
    with pytest.raises(EvidenceError, match="range of its inputs"):
        Lsq().plan(trained)
    axis = Grid(torch.ones(2), torch.zeros(2), axis=0, trained=True)
    with pytest.raises(PlanError, match="one scale for the grid of activations"):
        apply(trained, Plan("t", activations={"2.weight": axis}))
