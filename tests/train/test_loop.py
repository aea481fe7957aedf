"""The loop: it learns, is deterministic, resumes to the same bits, and stops as asked."""

import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from gossamer import lock
from gossamer.errors import BusyError, SettingError, TaskError, TrainingError
from gossamer.model import Subject
from gossamer.task import ACCURACY, Arrays, Task
from gossamer.train import Training, checkpoint, train
from gossamer.train.optimizer import make_optimizer


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return Task.classification("quadrants", (x[:200], y[:200]), (x[200:], y[200:]))


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))


def inverted(task):
    """Return the task with the same inputs and every label turned."""
    parts = (Arrays(part.inputs, 1 - part.targets) for part in (task.train, task.validation))
    return Task.classification(task.name, *parts)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


TRAINING = Training(epochs=6, lr=0.02, batch_size=32, weight_decay=0.01, clip=1.0)


def test_it_learns_and_keeps_the_best_epoch(task):
    model = network()
    result = train(model, task, Training(epochs=20, lr=0.02, batch_size=32))
    assert result.validation["accuracy"] > 0.85
    assert result.stopped == "finished"
    assert len(result.history) == 20
    assert result.steps == 20 * (200 // 32)
    best = max(record.validation["accuracy"] for record in result.history)
    assert result.validation["accuracy"] == best
    assert [record.best for record in result.history][result.kept - 1]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_is_a_function_of_its_seed_and_leaves_the_callers_randomness_alone(task, optimizer):
    runs = []
    for seed in (1, 1, 2):
        model = network()
        before = torch.get_rng_state()
        train(model, task, Training(epochs=2, lr=0.01, batch_size=32, seed=seed, optimizer=optimizer))
        assert torch.equal(before, torch.get_rng_state())
        runs.append(model)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


class _StopError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_ends_with_the_same_bits(task, tmp_path, optimizer):
    training = Training(epochs=6, lr=0.02, batch_size=32, clip=1.0, optimizer=optimizer)
    whole = network()
    wanted = train(whole, task, training)

    def stop(step, _):
        if step == 16:  # in the middle of the third epoch: the checkpoint is that of the second
            raise _StopError

    model = network()
    with pytest.raises(_StopError):
        train(model, task, training, schedule=stop, folder=tmp_path)
    torch.manual_seed(99)
    fresh = network()
    result = train(fresh, task, training, folder=tmp_path)
    assert same(whole, fresh)
    assert [r.validation for r in result.history] == [r.validation for r in wanted.history]
    assert [r.train_loss for r in result.history] == [r.train_loss for r in wanted.history]


def test_an_interrupt_waits_for_the_step_and_leaves_an_exact_checkpoint(task, tmp_path):
    whole = network()
    train(whole, task, TRAINING)
    steps = []

    def interrupt(step, _):
        steps.append(step)
        if step == 8:
            signal.raise_signal(signal.SIGINT)

    model = network()
    with pytest.raises(KeyboardInterrupt):
        train(model, task, TRAINING, schedule=interrupt, folder=tmp_path)
    assert steps[-1] == 8
    train(model, task, TRAINING, schedule=lambda step, _: steps.append(step), folder=tmp_path)
    assert steps[9] == 9
    assert same(whole, model)


def test_a_finished_run_is_not_run_again(task, tmp_path):
    model = network()
    result = train(model, task, TRAINING, folder=tmp_path)
    again = network()
    assert train(again, task, TRAINING, folder=tmp_path).validation == result.validation
    assert same(model, again)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(task, tmp_path):
    train(network(), task, TRAINING, folder=tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        train(network(), task, Training(epochs=6, lr=0.03, batch_size=32), folder=tmp_path)
    other = network()
    with torch.no_grad():
        other[0].bias.add_(1)
    for model, of in ((other, task), (network(), inverted(task))):
        with pytest.raises(TrainingError, match="other settings, data or model"):
            train(model, of, TRAINING, folder=tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrainingError, match="not a checkpoint"):
        train(network(), task, TRAINING, folder=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {checkpoint.NAME, lock.NAME}
    with lock.locked(tmp_path), pytest.raises(BusyError, match="another run is going on"):
        train(network(), task, TRAINING, folder=tmp_path)


def test_patience_stops_early(task):
    result = train(network(), task, Training(epochs=50, lr=1e-9, batch_size=32, patience=3, schedule="constant"))
    assert result.stopped == "patience"
    assert len(result.history) == result.kept + 3


def test_patience_waits_until_the_schedule_has_settled(task):
    slow = Training(epochs=50, lr=1e-9, batch_size=32, patience=3, schedule="constant")
    result = train(network(), task, slow, schedule=lambda step, _: step == 60, settled=lambda _: 60)
    assert result.kept == 11
    assert len(result.history) == 14


@pytest.mark.parametrize("loss", [lambda outputs, _: outputs, lambda *_: 0.5, lambda *_: None])
def test_a_loss_of_the_wrong_form_is_told(task, loss):
    with pytest.raises(TaskError, match="the task's loss: wanted a tensor with one number"):
        train(network(), replace(task, loss=loss), TRAINING)


def test_a_loss_that_does_not_depend_on_the_model_is_told(task):
    with pytest.raises(TrainingError, match="does not depend"):
        train(network(), replace(task, loss=lambda outputs, _: outputs.detach().sum()), TRAINING)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_step(task):
    def explode(step, _):
        if step == 4:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))

    model = network()
    with pytest.raises(TrainingError, match=r"loss is nan at step 5"):
        train(model, task, TRAINING, schedule=explode)


def test_nothing_to_train_is_an_error(task):
    with pytest.raises(TrainingError, match="no parameter"):
        train(nn.Linear(6, 2).requires_grad_(False), task, TRAINING)


def test_mode_gradients_and_what_trains_are_as_before(task):
    model = network().eval()
    model[0].bias.requires_grad_(False)
    bias = model[0].bias.clone()
    train(model, task, Training(epochs=1, batch_size=32))
    assert not model.training
    assert torch.equal(model[0].bias, bias)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_schedule_that_changed_the_subject_drops_what_was_best(task):
    seen = []

    def schedule(step, total):
        seen.append((step, total))
        return step == 24

    result = train(network(), task, Training(epochs=6, lr=1e-9, batch_size=32, schedule="constant"), schedule=schedule)
    assert seen == [(step, 36) for step in range(36)]
    assert result.kept > 4


def test_the_last_epoch_is_kept_if_asked(task):
    result = train(network(), task, Training(epochs=4, lr=0.05, batch_size=32, keep="last"))
    assert result.kept == 4
    assert result.validation == result.history[-1].validation


def test_small_data_make_one_step_an_epoch():
    x = Arrays(torch.randn(5, 6), torch.tensor([0, 1, 0, 1, 0]))
    task = Task.classification("small", x, x)
    assert train(network(), task, Training(epochs=3, batch_size=64)).steps == 3


def test_decay_spares_vectors():
    groups = make_optimizer(network(), TRAINING).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.01), (4, 0.0)]


def test_clip_bounds_the_step(task):
    moved = {}
    for clip in (0.0, 1e-3):
        model = network()
        before = model[0].weight.detach().clone()
        train(model, task, Training(epochs=1, optimizer="sgd", schedule="constant", lr=0.1, batch_size=200, clip=clip))
        moved[clip] = float((model[0].weight.detach() - before).norm())
    assert moved[1e-3] <= 0.1 * 1.9 * 1e-3 + 1e-6 < moved[0.0]


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"lr": 0.0}, {"optimizer": "adam"}, {"augment": ("spin",)}])
def test_settings_are_checked(changes):
    with pytest.raises(SettingError, match=next(iter(changes))):
        Training(**changes)


def test_the_tasks_own_changes_hold_unless_others_are_given(task):
    task = replace(task, augment=("flip",))
    with pytest.raises(TaskError, match="wanted images"):
        train(network(), task, Training(epochs=1, batch_size=32))
    train(network(), task, Training(epochs=1, batch_size=32, augment=()))


def test_images_are_wanted_where_images_are_changed(task):
    with pytest.raises(TaskError, match="wanted images"):
        train(network(), task, Training(epochs=1, batch_size=32, augment=("flip",)))


class _Shrink:
    """A penalty that pulls the first layer to zero, with a proximal step that is recorded."""

    def __init__(self):
        self.rates = []

    def term(self, context):
        assert context.outputs.shape[0] == len(context.targets) == len(context.args[0])
        return 10 * context.subject.model[0].weight.square().sum()

    def proximal(self, subject, lr):
        self.rates.append(lr)
        subject.model[4].bias.zero_()


def test_penalties_of_a_subject_are_added_and_their_proximal_steps_taken(task):
    penalty = _Shrink()
    subject = Subject(network(), (torch.zeros(2, 6),), {}, penalties=(penalty,))
    free = network()
    training = Training(epochs=10, lr=0.02, batch_size=32)
    train(free, task, training)
    train(subject, task, training)
    assert subject.model[0].weight.norm() < 0.3 * free[0].weight.norm()
    assert len(penalty.rates) == 60
    assert (subject.model[4].bias == 0).all()


def test_a_lower_metric_can_be_the_better_one():
    x = torch.linspace(-1, 1, 64)[:, None]
    task = Task.regression("line", (x, 2 * x + 1), (x, 2 * x + 1))
    result = train(nn.Linear(1, 1), task, Training(epochs=60, lr=0.1, batch_size=16))
    assert result.validation["mse"] < 1e-4
    assert result.validation["mse"] == min(record.validation["mse"] for record in result.history)
    assert not ACCURACY.better(float("nan"), 0.0)
