"""Penalties inside the real training loop."""

import pytest
import torch

from gossamer.methods.distill import Logits
from gossamer.methods.distill.logits import distillation
from gossamer.methods.prune import Magnitude
from gossamer.methods.regularize import L1
from gossamer.methods.share import KMeans
from gossamer.model import apply, live_weight
from gossamer.train import Training, train


def settings(**changes):
    return Training(**{"epochs": 20, "lr": 1e-2, "batch_size": 50, "keep": "last", **changes})


def penalised(method, task, trained, **changes):
    found = apply(trained, method.plan(trained))
    train(found, task, settings(**changes))
    return torch.cat([live_weight(found, site).flatten() for site in found.sites])


def test_the_proximal_step_makes_exact_zeros_and_the_gradient_does_not(task, trained):
    sgd = {"optimizer": "sgd", "lr": 0.05}
    free = penalised(L1(amount=0.0), task, trained, **sgd)
    by_gradient = penalised(L1(amount=8e-3, proximal=False), task, trained, **sgd)
    by_step = penalised(L1(amount=8e-3), task, trained, **sgd)
    assert by_gradient.abs().sum() < 0.9 * free.abs().sum()
    # Both minimise the same function, so they end with much the same weights.
    assert by_step.abs().sum() == pytest.approx(float(by_gradient.abs().sum()), rel=0.1)
    assert int((free == 0).sum()) == int((by_gradient == 0).sum()) == 0
    assert int((by_step == 0).sum()) > 50
    assert not torch.signbit(by_step[by_step == 0]).any()  # a negative zero would have to be stored


def test_with_adam_the_amount_compares_with_steps_of_size_one(task, trained):
    free = penalised(L1(amount=0.0), task, trained)
    shrunk = penalised(L1(amount=1.0), task, trained)
    assert shrunk.abs().sum() < 0.8 * free.abs().sum()
    assert int((shrunk == 0).sum()) > 50


def test_a_pruned_student_comes_back_to_its_teacher(task, trained):
    def distance(method):
        found = apply(trained, method.plan(trained))
        found = apply(found, Magnitude(sparsity=0.6).plan(found))
        train(found, task, settings(epochs=30))
        x = task.validation.batch(range(len(task.validation))).args[0]
        with torch.no_grad():
            return float(distillation(found.model(x), trained.model(x), 1.0))

    alone, taught = distance(Logits(alpha=0.0)), distance(Logits(alpha=1.0, temperature=2.0))
    assert taught < 0.7 * alone


def test_shared_values_train_and_stay_shared(task, trained):
    found = apply(trained, Magnitude(sparsity=0.5).plan(trained))
    found = apply(found, KMeans(bits=2).plan(found))
    before = {site: live_weight(found, site).clone() for site in found.sites}
    train(found, task, settings(epochs=5))
    for site, old in before.items():
        new = live_weight(found, site)
        assert torch.equal(old == 0, new == 0)
        assert len(new[new != 0].unique()) <= 4
        assert not torch.equal(old, new)
