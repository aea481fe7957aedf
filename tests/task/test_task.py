"""Tasks: bad data are named; figures do not depend on batches; padding never counts."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from gossamer.errors import TaskError
from gossamer.task import (
    IGNORE,
    Arrays,
    Batch,
    Images,
    Metric,
    Samples,
    Sequences,
    Task,
    Windows,
    cross_entropy,
    evaluate,
    nll,
)
from gossamer.task.digest import digest


def _task(n=23, **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    y = torch.randint(3, (n,), generator=generator)
    return Task.classification("t", (x, y), (x, y), (x, y), **options)


def test_figures_are_those_computed_by_hand_and_do_not_depend_on_the_batch_size():
    task, model = _task(), nn.Linear(4, 3)
    x, y = task.test.inputs[0], task.test.targets
    with torch.no_grad():
        scores = model(x)
    right = sum(int(scores[i].argmax() == y[i]) for i in range(23)) / 23
    loss = sum(-float(scores[i].log_softmax(0)[y[i]]) for i in range(23)) / 23
    for size in (1, 7, 100):
        figures = evaluate(model, task, "test", batch_size=size)
        assert figures["accuracy"] == right
        assert figures["loss"] == pytest.approx(loss, rel=1e-6)


def _steps(model, *lengths):
    frames = [torch.randn(length, 4) for length in lengths]
    targets = [torch.randint(3, (length,)) for length in lengths]
    task = Task.sequence("s", Sequences(frames, targets), Sequences(frames, targets))
    return task, [evaluate(model, task, batch_size=size)["loss"] for size in (1, 2, 6)]


def test_the_loss_counts_positions_not_samples():
    layer = nn.Linear(4, 3)
    task, losses = _steps(lambda frames, _: layer(frames), 1, 9, 2, 7, 3, 5)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert losses[0] == pytest.approx(evaluate(lambda frames, _: layer(frames), task)["bits"] * math.log(2), rel=1e-6)


def test_a_batch_that_counts_nothing_weighs_nothing():
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 1, IGNORE, IGNORE])
    model = nn.Linear(4, 3)
    figures = [evaluate(model, Task.classification("t", (x, y), (x, y)), batch_size=size) for size in (2, 6)]
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"], rel=1e-6)
    none = torch.full((6,), IGNORE)
    assert math.isnan(evaluate(model, Task.classification("t", (x, y), (x, none)))["loss"])


@pytest.mark.parametrize("found", [0.5, None, torch.zeros(3), ("a", 1)])
def test_a_metric_of_the_wrong_form_is_told(found):
    task = replace(_task(), metrics={"mine": Metric(lambda *_: found, higher_is_better=True)}, main="mine")
    with pytest.raises(TaskError, match="metric mine: wanted a total and the count"):
        evaluate(nn.Linear(4, 3), task)


def test_data_are_told_apart_by_samples_and_random_changes_left_out():
    class Noisy(list):
        def __getitem__(self, index):
            return torch.tensor(random.random()), super().__getitem__(index)

    x, y = torch.randn(300, 4), torch.randint(2, (300,))
    one, other = (Task.classification("t", (x, labels), (x, labels)) for labels in (y, 1 - y))
    assert digest(one) == digest(Task.classification("t", (x.clone(), y), (x, y)))
    assert digest(one) != digest(other)
    noisy = [Task.classification("t", Noisy(labels), Noisy(labels)) for labels in ([0, 1], [0, 1], [1, 0])]
    assert digest(noisy[0]) == digest(noisy[1]) != digest(noisy[2])


def test_evaluate_restores_every_mode_and_takes_any_callable():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    model[1].eval()
    evaluate(model, _task())
    assert model.training
    assert not model[1].training
    assert evaluate(lambda x: x[:, :3], _task())["accuracy"] >= 0


def test_uniform_scores_cost_log2_of_the_alphabet():
    symbols = torch.arange(200) % 8
    task = Task.sequence("s", Windows(symbols, 16), Windows(symbols, 16))
    figures = evaluate(lambda s: torch.zeros(*s.shape, 8), task)
    assert figures["bits"] == pytest.approx(3.0)
    assert figures["perplexity"] == pytest.approx(8.0, rel=1e-5)
    assert figures["loss"] == pytest.approx(3 * math.log(2))


def test_padding_counts_neither_in_the_loss_nor_in_a_metric():
    frames = [torch.randn(n, 2) for n in (3, 7, 5)]
    targets = [torch.randint(4, (len(f),)) for f in frames]
    task = Task.sequence("s", Sequences(frames, targets), Sequences(frames, targets), batch_size=3)
    model = nn.Linear(2, 4)
    batch = next(task.batches("validation"))
    assert batch.args[0].shape == (3, 7, 2)
    assert batch.args[1].tolist() == [3, 7, 5]
    assert (batch.targets[0, 3:] == IGNORE).all()
    scores, flat = model(torch.cat(frames)), torch.cat(targets)
    wanted = nn.functional.cross_entropy(scores, flat)
    assert float(cross_entropy(model(batch.args[0]), batch.targets).detach()) == pytest.approx(
        float(wanted.detach()), rel=1e-6
    )
    figures = evaluate(lambda x, _: model(x), task)
    assert figures["accuracy"] == pytest.approx(float((scores.argmax(1) == flat).float().mean()))
    assert figures["bits"] == pytest.approx(float(wanted.detach()) / math.log(2), rel=1e-5)


def test_nll_of_log_softmax_is_cross_entropy_of_logits():
    scores, targets = torch.randn(6, 5), torch.randint(5, (6,))
    assert nll(scores.log_softmax(1), targets) == pytest.approx(float(cross_entropy(scores, targets)), rel=1e-6)


def test_windows_predict_the_next_symbol_and_a_shuffled_epoch_covers_the_text():
    windows = Windows(torch.arange(101), 10)
    batch = windows.batch(windows.order(None)[:2])
    assert batch.args[0].tolist() == [list(range(10)), list(range(10, 20))]
    assert (batch.targets == batch.args[0] + 1).all()
    for seed in range(20):
        order = windows.order(torch.Generator().manual_seed(seed))
        assert len(order) == len(windows) == 10
        assert len(set((order % 10).tolist())) <= 2  # one offset, and its continuation past the end
        assert windows.batch(order).targets.max() <= 100


def test_regression_example_and_held_out_data():
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    task = Task.regression("r", (x, y))
    assert len(task.train) == 36
    assert len(task.validation) == 4
    assert task.test is None
    args, kwargs = task.example
    assert args[0].shape == (1, 3)
    assert kwargs == {}
    model = nn.Linear(3, 1)
    rows = task.validation.indices
    with torch.no_grad():
        wanted = ((model(x[rows]) - y[rows]) ** 2).mean()
    assert evaluate(model, task)["mse"] == pytest.approx(float(wanted.detach()), rel=1e-6)
    again = Task.regression("r", (x, y))
    assert (task.validation.indices == again.validation.indices).all()


def test_a_data_set_with_its_own_collate():
    data = [{"a": float(i), "b": i % 2} for i in range(20)]

    def collate(samples):
        a = torch.tensor([[s["a"]] for s in samples])
        return Batch((), {"x": a}, torch.tensor([s["b"] for s in samples]))

    task = Task.classification("own", data, collate=collate)
    assert evaluate(lambda x: torch.cat([x, -x], 1), task)["accuracy"] >= 0
    assert task.example[1]["x"].shape == (1, 1)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Arrays(torch.zeros(0, 2), torch.zeros(0)), "empty"),
        (lambda: Arrays(torch.zeros(3, 2), torch.zeros(2)), "3 inputs but 2 targets"),
        (lambda: Arrays(torch.tensor([[0.0], [math.nan]]), torch.zeros(2)), "sample 1"),
        (lambda: Arrays(torch.zeros(2, 1), torch.tensor([0.0, math.inf])), "infinite"),
        (lambda: Images(torch.zeros(2, 4, 4), torch.zeros(2), mean=0.0, deviation=1.0), "uint8"),
        (lambda: Sequences([torch.zeros(0, 3)], torch.zeros(1)), "sequence 0 is empty"),
        (lambda: Sequences([torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2)), r"sequence 1 has steps"),
        (lambda: Sequences([torch.zeros(2, 3)], [torch.zeros(5)]), "2 steps but 5 targets"),
        (lambda: Windows(torch.arange(5), 5), "more than 5 symbols"),
        (lambda: Samples([]), "empty"),
        (lambda: Samples([1, 2]), "pair"),
        (lambda: Samples([("a", object())]), "stacked"),
        (lambda: Samples([(torch.tensor([math.nan]), 0)]), "NaN"),
        (lambda: Task.classification("t", 3), "int cannot be used"),
        (lambda: Task.classification("t", (torch.zeros(1, 2), torch.zeros(1))), "too few"),
    ],
)
def test_bad_data_are_named(make, named):
    with pytest.raises(TaskError, match=named):
        make()


@pytest.mark.parametrize(
    ("outputs", "targets", "named"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "target 3 is not one of 3 classes"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.long), r"\(4, 3\).*\(5,\)"),
        (torch.zeros(4, 3), torch.zeros(4), "integer class indices"),
        ((torch.zeros(4, 3),), torch.zeros(4), "got a tuple"),
    ],
)
def test_outputs_that_do_not_fit_are_named(outputs, targets, named):
    with pytest.raises(TaskError, match=named):
        cross_entropy(outputs, targets)


def test_a_task_checks_itself():
    task = _task()
    with pytest.raises(TaskError, match="main metric 'f1'"):
        Task("t", task.train, task.validation, None, cross_entropy, task.metrics, "f1")
    with pytest.raises(TaskError, match="a list is no split"):
        Task("t", [1], task.validation, None, cross_entropy, task.metrics, "accuracy")
    with pytest.raises(TaskError, match="no test split"):
        evaluate(
            nn.Linear(4, 3),
            Task("t", task.train, task.validation, None, cross_entropy, task.metrics, "accuracy"),
            "test",
        )


def test_worse_follows_the_direction_of_the_metric():
    task = _task()
    assert task.worse({"accuracy": 0.9}, {"accuracy": 0.8}) == pytest.approx(0.1)
    bits = replace(task, metrics={"bits": Metric(lambda *_: (0.0, 1.0), higher_is_better=False)}, main="bits")
    assert bits.worse({"bits": 1.5}, {"bits": 1.75}) == 0.25
