"""Quantized distillation and differentiable quantization: scaling, rounding and gradients of buckets worked by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gossamer import artifact
from gossamer.errors import PlanError
from gossamer.methods.distill import Logits
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import Bucketed, Differentiable, PostTraining
from gossamer.methods.quantize.differentiable import quantiles
from gossamer.methods.share import KMeans
from gossamer.model import Bucketed as Rule
from gossamer.model import (
    Grid,
    Plan,
    Points,
    StepContext,
    Subject,
    apply,
    freeze,
    live_weight,
    load,
    scaled,
    settle,
    to_artifact,
)
from gossamer.model.buckets import bucket_count, coded
from gossamer.model.levels import levels
from gossamer.recipe import Step, builtin
from gossamer.recipe.evidence import Collector
from gossamer.recipe.state import load_subject, save_subject
from gossamer.recipe.step import perform
from gossamer.targets.levels import weight_levels
from gossamer.train import Training

W = [[-0.3, 0.0, 0.2, 0.6], [1.0, 1.3, 1.6, 4.0]]
G = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])


def network():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def ruled(rule, keep=None, **how):
    real = torch.tensor(W, requires_grad=True)
    value = levels(rule, real, keep, **how)
    (value * G).sum().backward()
    return value.detach(), real.grad


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def stored(subject, folder):
    """Return the bytes of the file, once it has been found to hold what ``subject`` computes with."""
    frozen = freeze(subject)
    artifact.save(folder / "a.goss", to_artifact(frozen))
    filled = load(folder / "a.goss").into(network())
    for name in subject.sites:
        assert torch.equal(filled.get_parameter(name), live_weight(subject, name))
    return (folder / "a.goss").stat().st_size


def test_a_bucket_of_four_weights_has_its_scale_its_rounding_and_its_gradient():
    # first: beta -0.3, alpha 0.9, 3 u = 0, 1, 1.67, 3; second: beta 1, alpha 3, 3 u = 0, 0.3, 0.6, 3
    value, gradient = ruled(Rule(2, 4))
    close(value, [[-0.3, 0.0, 0.3, 0.6], [1.0, 1.0, 2.0, 4.0]])
    assert torch.equal(gradient, G)
    codes, grid = coded(Rule(2, 4), torch.tensor(W))
    assert codes.tolist() == [[0, 1, 2, 3], [0, 0, 1, 3]]
    close(grid.scale, [[0.3, 1.0]])
    close(grid.zero, [[1.0, -1.0]])


def test_a_bucket_goes_over_the_ends_of_rows():
    value, _ = ruled(Rule(1))  # one of all: beta -0.3, alpha 4.3, the middle at 1.85
    close(value, [[-0.3, -0.3, -0.3, -0.3], [-0.3, -0.3, -0.3, 4.0]])
    rows = levels(Rule(1, 4), torch.tensor(W).view(4, 2))
    close(rows, [[-0.3, -0.3], [0.6, 0.6], [1.0, 1.0], [1.0, 4.0]])


def test_levels_are_drawn_by_how_near_they_are():
    torch.manual_seed(0)
    real = torch.tensor([-0.3, 0.0, 0.2, 0.6]).repeat(20000, 1)
    drawn = levels(Rule(2, drawn=True), real, draws=True)
    assert drawn[:, :2].unique().numel() <= 4  # 0.0 is a level but for rounding of floats
    close(drawn[:, 2].unique(), [0.0, 0.3])
    torch.testing.assert_close(drawn.mean(0), torch.tensor([-0.3, 0.0, 0.2, 0.6]), atol=2e-3, rtol=0)
    assert torch.equal(levels(Rule(2, drawn=True), real), levels(Rule(2), real))


def test_weights_that_are_alike_keep_the_smallest_of_their_bucket():
    real = torch.tensor([0.5, 0.5, 0.0, 0.0, 1.0, 1.001])
    close(levels(Rule(4, 2), real), [0.5, 0.5, 0.0, 0.0, 1.0, 1.0])
    points = Points(torch.tensor([0.0, 1.0]), 2)
    torch.testing.assert_close(levels(points, real), torch.tensor([0.5, 0.5, 0.0, 0.0, 1.0, 1.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("values", "count"),
    [(25, 1), (256, 1), (500, 2), (784 * 300, 960), (64 * 64 * 9, 144), (1009, 1), (64 * 1009, 64), (2 * 131, 2)],
)
def test_buckets_of_a_site_are_alike_and_near_256(values, count):
    assert bucket_count(values, 256) == count
    assert bucket_count(values, None) == 1


def test_a_point_gets_the_gradients_of_its_weights_times_the_range_of_their_bucket():
    points = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    real = torch.tensor(W, requires_grad=True)
    value = levels(Points(points.detach(), 4), real, scales=points)
    # u = 0, 1/3, 5/9, 1 and 0, 0.1, 0.2, 1: the second and third of the first bucket take the middle
    torch.testing.assert_close(value, torch.tensor([[-0.3, 0.15, 0.15, 0.6], [1.0, 1.0, 1.0, 4.0]]), atol=1e-3, rtol=0)
    (value * G).sum().backward()
    close(points.grad, [0.9 * 1 + 3 * (5 + 6 + 7), 0.9 * (2 + 3), 0.9 * 4 + 3 * 8])
    assert real.grad is None


def test_weights_find_the_nearest_point_anew():
    subject = Subject.of(nn.Linear(4, 1, bias=False), torch.zeros(1, 4))
    with torch.no_grad():
        subject.model.weight.copy_(torch.tensor([[0.0, 0.4, 0.7, 1.0]]))
    subject = apply(subject, Plan("t", {"weight": Points(torch.tensor([0.0, 0.5, 1.0]))}))
    torch.testing.assert_close(live_weight(subject, "weight"), torch.tensor([[0.0, 0.5, 0.5, 1.0]]), atol=1e-3, rtol=0)
    with torch.no_grad():
        subject.model.parametrizations.weight[0].latent.scales.copy_(torch.tensor([0.0, 0.3, 1.0]))
    torch.testing.assert_close(live_weight(subject, "weight"), torch.tensor([[0.0, 0.3, 1.0, 1.0]]), atol=1e-3, rtol=0)


def test_points_start_at_quantiles_of_scaled_weights():
    assert quantiles(torch.tensor([4.0, 0.0, 1.0, 3.0, 2.0]), 3).tolist() == [0.0, 2.0, 4.0]
    values = torch.randn(101, generator=torch.Generator().manual_seed(0))
    expected = np.percentile(values.numpy(), np.linspace(0, 100, 16))
    np.testing.assert_allclose(quantiles(values, 16).numpy(), expected, rtol=1e-5, atol=1e-6)
    close(scaled(torch.tensor(W), 4)[1], [0.0, 0.1, 0.2, 1.0])
    subject = Subject.of(network(), torch.zeros(1, 8))
    found = Differentiable(bits=2).plan(subject).constraints
    weight = scaled(live_weight(subject, "0.weight"), 256)
    assert torch.equal(found["0.weight"].points, quantiles(weight, 4))
    even = Differentiable(bits=2, start="even").plan(subject).constraints["0.weight"]
    close(even.points, [0.0, 1 / 3, 2 / 3, 1.0])


def test_buckets_of_quite_another_size_are_told():
    subject = Subject.of(nn.Linear(64, 1009, bias=False), torch.zeros(1, 64))
    for method in (Bucketed(), Differentiable()):
        plan = method.plan(subject)
        assert list(plan.constraints) == ["weight"]
        (note,) = plan.skipped
        assert note.reason == "buckets of 1009, for no size near 256 divides 64576 weights"
    assert not Bucketed(bucket_size="all").plan(subject).skipped


def after_training(method, subject, task, folder):
    step = Step(method=method, train=Training(epochs=2, lr=5e-3, batch_size=50))
    return perform(step, subject, task, Collector(task), folder=folder)


@pytest.mark.parametrize("drawn", [False, True])
def test_a_training_ends_on_levels_that_a_file_keeps_short(drawn, trained, task, tmp_path):
    method = Bucketed(bits=2, bucket_size=64, drawn=drawn)
    done = after_training(method, trained, task, tmp_path)
    for name, held in done.subject.constraints.items():
        assert held.latent is None
        assert held.grid.bits == 2
        buckets = live_weight(done.subject, name).view(-1, 64)
        assert all(len(bucket.unique()) <= 4 for bucket in buckets)
        assert not torch.equal(live_weight(done.subject, name), live_weight(trained, name))
    assert stored(done.subject, tmp_path) < stored(trained, tmp_path) / 1.5


def test_points_train_and_weights_do_not(trained, task, tmp_path):
    method = Differentiable(bits=2, bucket_size=64)
    start = method.plan(trained).constraints
    done = after_training(method, trained, task, tmp_path)
    for name, held in done.subject.constraints.items():
        assert not torch.equal(held.latent.points, start[name].points)
        live = done.subject.model.get_submodule(name[0]).parametrizations.weight
        assert torch.equal(live.original, live_weight(trained, name))
        assert not live.original.requires_grad
        assert all(len(bucket.unique()) <= 4 for bucket in live_weight(done.subject, name).view(-1, 64))
    stored(done.subject, tmp_path)
    assert {skip.reason for skip in KMeans(bits=1).plan(done.subject).skipped} <= {
        "2 shared values for 64 weights would save nothing"
    }
    assert {skip.reason for skip in Bucketed().plan(done.subject).skipped} == {"its values are shared"}


@pytest.mark.parametrize("method", [Bucketed(bits=3, bucket_size=64), Differentiable(bits=3, bucket_size=64)])
def test_zeros_stay_zero_whichever_comes_first(method, trained, tmp_path):
    pruned = apply(trained, Magnitude(sparsity=0.5).plan(trained))
    both = apply(pruned, method.plan(pruned))
    stored(both, tmp_path)
    settle(both)
    last = apply(trained, method.plan(trained))
    settle(last)
    last = apply(last, Magnitude(sparsity=0.5).plan(last))
    for subject in (both, last):
        stored(subject, tmp_path)
        for name, held in subject.constraints.items():
            assert not live_weight(subject, name)[~held.mask.keep].any()
            for bucket, keep in zip(live_weight(subject, name).view(-1, 64), held.mask.keep.view(-1, 64), strict=True):
                assert len(bucket[keep].unique()) <= 8


@pytest.mark.parametrize("method", [Bucketed(bits=3, bucket_size=64), Differentiable(bits=3, bucket_size=64)])
def test_a_run_that_was_stopped_finds_its_buckets_again(method, trained, tmp_path):
    subject = apply(trained, method.plan(trained))
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.mul_(0.9)
    settle(subject)
    save_subject(tmp_path, subject, trained)
    again = load_subject(tmp_path, trained)
    for name in subject.sites:
        assert torch.equal(live_weight(again, name), live_weight(subject, name))
    flags = [[p.requires_grad for p in one.model.parameters()] for one in (subject, again)]
    assert flags[0] == flags[1]


def test_the_target_says_that_zero_lies_between_codes(trained):
    subject = apply(trained, Bucketed(bits=3, bucket_size=64).plan(trained))
    assert weight_levels(freeze(subject).tensors["0.weight"]) == "its grid puts 0.0 between two codes"
    exact = apply(trained, PostTraining(weight_bits=4, weight_scales=4, inputs=False).plan(trained))
    assert weight_levels(freeze(exact).tensors["0.weight"]) == "it has a scale for each group of values in a row"


def test_with_a_mask_zero_is_a_level():
    keep = torch.tensor([[True, False, True, True], [True, True, True, False]])
    codes, grid = coded(Rule(2, 4), torch.tensor(W), keep)
    # first: from -0.3 to 0.6, zero is the code 1; second: from 0 to 1.6, steps of 0.533
    assert grid.zero.tolist() == [[1, 0]]
    close(grid.dequantize(codes)[1], [1.6 / 3 * 2, 1.6 / 3 * 2, 1.6, 1.6])


def test_the_ends_may_be_left_alone():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    subject = Subject.of(model, torch.zeros(1, 8))
    for method in (Bucketed(ends="float"), Differentiable(ends="float")):
        assert list(method.plan(subject).constraints) == ["2.weight"]
    plan = Bucketed(ends="int8").plan(subject)
    assert isinstance(plan.constraints["0.weight"], Grid)
    assert isinstance(plan.constraints["2.weight"], Rule)


def test_later_steps_leave_a_grid_in_buckets_as_coarse(trained, tmp_path):
    subject = apply(trained, Bucketed(bits=3, bucket_size=64).plan(trained))
    settle(subject)
    again = PostTraining(inputs=False).plan(subject)
    assert {skip.reason for skip in again.skipped} == {"it is on 3 bits already"}
    with pytest.raises(PlanError, match="3 equal buckets do not fit"):
        apply(trained, Plan("t", {"0.weight": Grid(torch.ones(1, 3), torch.zeros(1, 3), 4, axis=0)}))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Rule(9), r"Bucketed\.bits: wanted 1 to 8, got 9"),
        (lambda: Rule(4, 1), r"Bucketed\.size: wanted at least 2, got 1"),
        (lambda: Points(torch.ones(1)), r"Points\.points: wanted a vector of 2 to 256"),
        (lambda: Points(torch.tensor([0.0, math.nan])), r"Points\.points: wanted finite"),
        (lambda: Points(torch.ones(2), 0), r"Points\.size"),
        (lambda: Grid(torch.tensor(1.0), torch.tensor(math.inf)), r"Grid\.zero: wanted finite"),
        (lambda: Grid(torch.tensor(1.0), torch.tensor(0.5), trained=True), r"Grid\.trained: wanted 0\.0 on the grid"),
    ],
)
def test_bad_rules_are_told(make, told):
    with pytest.raises(PlanError, match=told):
        make()


@pytest.mark.parametrize(
    "rule", [Rule(3, 64, drawn=True), Rule(2), Points(torch.tensor([0.0, 0.25, 1.0]), 64)], ids=str
)
def test_a_plan_keeps_rules(rule, trained):
    again = Plan.from_dict(*Plan("t", {"0.weight": rule}).to_dict())
    (found,) = again.on("0.weight")
    assert str(found) == str(rule)
    assert ("trained" if isinstance(rule, Points) else "levels while training") in str(again)
    assert str(apply(trained, again).constraints["0.weight"].latent) == str(rule)


def test_the_teacher_of_the_recipe_has_the_loss_of_the_paper(trained):
    first, second = builtin.find("quantized-distillation").steps
    assert isinstance(first.method, Logits)
    assert (second.method.tag, second.method.bits, second.method.bucket_size) == ("quantize.bucketed", 4, 256)
    (penalty,) = first.method.plan(trained).penalties
    x, y = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0, 1])
    student, teacher = trained.model(x) * 0.5 + 0.1 * x[:, :2], trained.model(x)
    loss = F.cross_entropy(student, y)
    total = loss + penalty.term(StepContext(trained, (x,), {}, student, y, loss))
    p, q = torch.softmax(teacher / 2, 1), torch.softmax(student / 2, 1)
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(total, 0.7 * 4 * divergence + 0.3 * loss)
