"""Pruning with feedback: the mask follows the dense weights that train behind it."""

import torch
from torch import nn

from gossamer.methods.prune import Feedback, Magnitude
from gossamer.methods.share import KMeans
from gossamer.model import Mask, Plan, Splice, Subject, apply, live_weight, retarget, settle, trainable


def subject_of(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return Subject.of(layer, torch.ones(1, len(rows[0])))


def test_a_weight_that_grows_behind_the_mask_comes_back():
    plain = subject_of([4.0, 3.0, 2.0, 1.0])
    method = Feedback(sparsity=0.5)
    live = apply(plain, method.plan(plain))
    assert live_weight(live, "weight").tolist() == [[4.0, 3.0, 0.0, 0.0]]
    (live.model(torch.tensor([[0.0, 1.0, 0.0, -3.0]]))).sum().backward()
    hidden = trainable(live, "weight")
    assert hidden.grad.tolist() == [[0.0, 1.0, 0.0, -3.0]]  # taken at the pruned weights, for the dense ones
    with torch.no_grad():
        hidden -= hidden.grad
    retarget(live, method.plan(live))
    assert live_weight(live, "weight").tolist() == [[4.0, 0.0, 0.0, 4.0]]
    settle(live)
    assert live.constraints["weight"].splice is None
    assert live_weight(live, "weight").tolist() == [[4.0, 0.0, 0.0, 4.0]]


def test_zeros_of_an_earlier_step_stay():
    plain = subject_of([4.0, 3.0, 2.0, 1.0])
    pruned = apply(plain, Plan("t", {"weight": Mask(torch.tensor([[False, True, True, True]]))}))
    live = apply(pruned, Feedback(sparsity=0.5).plan(pruned))
    assert live_weight(live, "weight").tolist() == [[0.0, 3.0, 2.0, 0.0]]
    retarget(live, Feedback(sparsity=0.5).plan(live))
    assert live_weight(live, "weight").tolist() == [[0.0, 3.0, 2.0, 0.0]]


def test_without_training_it_is_magnitude_pruning():
    torch.manual_seed(0)
    plain = Subject.of(nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 5)), torch.randn(1, 9))
    ours, plain_masks = Feedback(sparsity=0.7).plan(plain), Magnitude(sparsity=0.7).plan(plain)
    for site in plain_masks.constraints:
        (splice,), (mask,) = ours.on(site), plain_masks.on(site)
        assert isinstance(splice, Splice)
        assert torch.equal(splice.keep, mask.keep)


def test_shared_values_are_left_alone():
    torch.manual_seed(0)
    plain = Subject.of(nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 5)), torch.randn(1, 9))
    shared = apply(plain, KMeans(bits=2, include=("0.weight",)).plan(plain))
    plan = Feedback(sparsity=0.5).plan(shared)
    assert list(plan.constraints) == ["1.weight"]
    assert "values are shared" in plan.skipped[0].reason
