"""Binary and ternary training: levels and gradients worked out by hand, and what a training leaves."""

import pytest
import torch
from torch import nn

from gossamer import artifact
from gossamer.errors import ModelError, PlanError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import BinaryConnect, Bnn, DoReFa, PostTraining, Ternary, TrainedTernary, Xnor
from gossamer.methods.quantize.few import MIXED, Clip, first_scale
from gossamer.methods.quantize.trained_ternary import first_sizes
from gossamer.methods.share import KMeans
from gossamer.model import (
    Binary,
    Grid,
    Plan,
    StepContext,
    Subject,
    Tanh,
    apply,
    freeze,
    live_weight,
    load,
    retarget,
    to_artifact,
)
from gossamer.model import Ternary as Rule
from gossamer.model.levels import levels, settled
from gossamer.recipe import Step
from gossamer.recipe.evidence import Collector
from gossamer.recipe.step import perform
from gossamer.train import Training

W = [[0.5, -0.2, 0.0], [-1.5, 0.1, 0.2]]
G = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
ALL = [
    BinaryConnect(),
    BinaryConnect(drawn=True),
    Ternary(),
    Ternary(channels=True),
    TrainedTernary(ends="same"),
    Xnor(ends="same"),
    Bnn(),
    DoReFa(ends="same"),
    DoReFa(ends="same", bits=1, reach="one"),
]


def ruled(rule, keep=None, **how):
    real = torch.tensor(W, requires_grad=True)
    value = levels(rule, real, keep, **how)
    (value * G).sum().backward()
    return value.detach(), real.grad


def planned(subject, task, method):
    return method.plan(subject, Collector(task).get(subject, method.needs))


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_binary_connect_takes_signs_and_passes_gradients():
    value, gradient = ruled(Binary(torch.tensor(0.5)))
    assert value.tolist() == [[0.5, -0.5, 0.5], [-0.5, 0.5, 0.5]]
    assert torch.equal(gradient, G)


def test_signs_are_drawn_by_the_hard_sigmoid():
    rule = Binary(torch.tensor(0.5), drawn=True)
    torch.manual_seed(0)
    real = torch.tensor([0.5, 0.1, -0.25, -0.9]).repeat(20000, 1)
    drawn = levels(rule, real, draws=True)
    assert set(drawn.unique().tolist()) == {-0.5, 0.5}
    torch.testing.assert_close((drawn > 0).float().mean(0), torch.tensor([1.0, 0.6, 0.25, 0.0]), atol=0.02, rtol=0)
    assert torch.equal(levels(rule, real), torch.where(real >= 0, 0.5, -0.5))


def test_xnor_scales_filters_and_its_gradient_goes_through_the_scale():
    value, gradient = ruled(Binary(axis=0))
    first, second = 0.7 / 3, 1.8 / 3
    close(value, [[first, -first, first], [-second, second, second]])
    # alpha times the gradient where |w| <= 1, and the sign times the mean of gradient times sign
    shared = [(1 - 2 + 3) / 3, (-4 + 5 + 6) / 3]
    close(
        gradient,
        [
            [first * 1 + shared[0], first * 2 - shared[0], first * 3],
            [0 - shared[1], second * 5 + shared[1], second * 6 + shared[1]],
        ],
    )


def test_ternary_weights_have_the_threshold_and_the_scale_of_the_paper():
    value, gradient = ruled(Rule(0.7))  # mean 2.5 / 6, threshold 0.2917: 0.5 and 1.5 are beyond, their mean is 1
    assert value.tolist() == [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    assert torch.equal(gradient, G)
    rows, _ = ruled(Rule(0.7, axis=0))  # thresholds 0.163 and 0.42
    close(rows, [[0.35, -0.35, 0.0], [-1.5, 0.0, 0.0]])
    keep = torch.tensor([[True, True, True], [False, True, True]])
    masked, _ = ruled(Rule(0.7), keep)  # of the five kept: mean 0.2, threshold 0.14, survivors 0.5, 0.2, 0.2
    close(masked[0], [0.3, -0.3, 0.0])


def test_trained_ternary_has_the_gradients_of_the_paper():
    rule = Rule(0.1, torch.tensor([2.0, 3.0]))  # threshold 0.15
    scales = torch.tensor([2.0, 3.0], requires_grad=True)
    value, gradient = ruled(rule, scales=scales)
    assert value.tolist() == [[3.0, -2.0, 0.0], [-2.0, 0.0, 3.0]]
    assert scales.grad.tolist() == [-(2.0 + 4.0), 1.0 + 6.0]
    assert gradient.tolist() == [[3.0, 4.0, 3.0], [8.0, 5.0, 18.0]]
    close(first_sizes(torch.tensor(W), 0.1), [1.7 / 2, 0.7 / 2])
    close(first_sizes(torch.tensor([1.0, 0.5, 0.0]), 0.1), [0.75, 0.75])


def test_dorefa_has_even_levels_of_the_tanh():
    value, gradient = ruled(Tanh(2, torch.tensor(1.0)))
    share = torch.tanh(torch.tensor(W)) / (2 * torch.tanh(torch.tensor(1.5))) + 0.5
    assert torch.equal((share * 3).round(), torch.tensor([[2.0, 1.0, 2.0], [0.0, 2.0, 2.0]]))
    close(value, [[1 / 3, -1 / 3, 1 / 3], [-1.0, 1 / 3, 1 / 3]])
    bend = (1 - torch.tanh(torch.tensor(W)) ** 2) / torch.tanh(torch.tensor(1.5))
    torch.testing.assert_close(gradient[0], (G * bend)[0])
    one, passed = ruled(Tanh(1, torch.tensor(1.0)))
    close(one, [[2.5 / 6, -2.5 / 6, 2.5 / 6], [-2.5 / 6, 2.5 / 6, 2.5 / 6]])
    assert torch.equal(passed, G)


def test_what_has_settled_is_a_codebook_of_the_levels():
    book = settled(Binary(torch.tensor(0.5)), torch.tensor(W))
    assert book.centers.tolist() == [-0.5, 0.5]
    assert not book.trained
    rows = settled(Binary(axis=0), torch.tensor(W))
    assert rows.starts.tolist() == [0, 2]
    assert torch.equal(rows.centers[rows.codes.int()], levels(Binary(axis=0), torch.tensor(W)))
    assert settled(Rule(0.7), torch.tensor(W)).size == 3


def test_scales_start_by_the_mean_or_by_glorot():
    weight = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert float(first_scale(weight, "mean")) == 2.0
    assert float(first_scale(weight, "one")) == 1.0
    assert float(first_scale(torch.ones(8, 4, 3, 3), "glorot")) == pytest.approx((1.5 / (12 * 9)) ** 0.5)


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.tag)
def test_a_training_ends_on_few_levels_and_a_file_keeps_them(method, trained, task, tmp_path):
    step = Step(method=method, train=Training(epochs=2, lr=5e-3, batch_size=50))
    done = perform(step, trained, task, Collector(task), folder=tmp_path)
    for name, held in done.subject.constraints.items():
        assert held.latent is None
        value = live_weight(done.subject, name)
        assert value.view(len(value), -1)[0].unique().numel() <= 4
        assert held.codebook is not None
    assert not done.subject.penalties
    frozen = freeze(done.subject)
    artifact.save(tmp_path / "a.goss", to_artifact(frozen))
    filled = load(tmp_path / "a.goss").into(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)))
    for name in trained.sites:
        assert torch.equal(filled.get_parameter(name), live_weight(done.subject, name))


def test_real_weights_move_and_are_clipped(trained, task):
    subject = apply(trained, BinaryConnect(scale="glorot").plan(trained))
    (clip,) = subject.penalties
    reals = {name: subject.model.get_submodule(name[0]).parametrizations.weight.original for name in subject.sites}
    with torch.no_grad():
        for real in reals.values():
            real.mul_(100)
    clip.proximal(subject, 0.1)
    for name, real in reals.items():
        scale = subject.constraints[name].latent.scale
        assert float(real.detach().abs().max()) == pytest.approx(float(scale))
    assert clip.term(StepContext(subject, (), {}, None, None, torch.tensor(0.0))) is None
    with pytest.raises(ModelError, match="no longer there"):
        Clip(("gone.weight",)).proximal(subject, 0.1)


def test_zeros_of_a_mask_stay_zero_and_others_have_two_levels(trained, task, tmp_path):
    pruned = apply(trained, Magnitude(sparsity=0.5).plan(trained))
    done = perform(
        Step(method=BinaryConnect(), train=Training(epochs=1, batch_size=50)),
        pruned,
        task,
        Collector(task),
        folder=tmp_path,
    )
    for name, held in pruned.constraints.items():
        value = live_weight(done.subject, name)
        assert not value[~held.mask.keep].any()
        assert value[held.mask.keep].abs().unique().numel() == 1


def test_the_ends_are_left_alone_or_have_eight_bits(task):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    subject = Subject.of(model, torch.zeros(1, 8))
    plan = planned(subject, task, Xnor())
    assert list(plan.constraints) == ["2.weight"]
    assert {skip.reason for skip in plan.skipped} == {"it is the first or the last layer"}
    plan = planned(subject, task, DoReFa(ends="int8", input_bits=3))
    assert {name: type(part) for name, part in plan.constraints.items()} == {
        "2.weight": Tanh,
        "0.weight": Grid,
        "4.weight": Grid,
    }
    assert {name: grid.bits for name, grid in plan.activations.items()} == {"0.weight": 8, "2.weight": 3, "4.weight": 8}
    plan = planned(subject, task, DoReFa(reach="one", input_bits=2))
    assert float(plan.activations["2.weight"].scale) == pytest.approx(1 / 3)
    plan = planned(subject, task, Bnn())
    assert {name: grid.bits for name, grid in plan.activations.items()} == {"0.weight": 8, "2.weight": 1, "4.weight": 1}


def test_inputs_of_both_signs_are_left_alone(task):
    subject = Subject.of(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)), torch.zeros(1, 8))
    plan = planned(subject, task, Bnn())
    assert list(plan.activations) == ["0.weight"]
    assert [skip.reason for skip in plan.skipped] == [f"its inputs stay as they are: {MIXED}"]


def test_a_one_bit_input_passes_gradients_between_its_levels():
    subject = Subject.of(nn.Linear(3, 1, bias=False), torch.zeros(1, 3))
    grid = Grid(torch.tensor(2.0), torch.tensor(0), bits=1, signed=False)
    subject = apply(subject, Plan("t", activations={"weight": grid}))
    x = torch.tensor([[-0.5, 1.5, 2.5]], requires_grad=True)
    torch.testing.assert_close(subject.model(x), subject.model.weight.detach() @ torch.tensor([[0.0], [2.0], [2.0]]))
    subject.model(x).sum().backward()
    assert x.grad.ne(0).tolist() == [[False, True, False]]


def test_what_holds_already_is_left_alone_and_told(trained, task):
    shared = apply(trained, KMeans(bits=2).plan(trained))
    plan = Ternary().plan(shared)
    assert not plan.constraints
    assert {skip.reason for skip in plan.skipped} == {"its values are shared"}
    on_grid = apply(trained, planned(trained, task, PostTraining()))
    assert {skip.reason for skip in BinaryConnect().plan(on_grid).skipped} == {"it is on a grid already"}
    rule = {"0.weight": Binary(torch.tensor(1.0))}
    with pytest.raises(PlanError, match="values are shared"):
        apply(shared, Plan("t", rule))
    with pytest.raises(PlanError, match="is on a grid"):
        apply(on_grid, Plan("t", rule))
    with pytest.raises(PlanError, match="cannot appear during training"):
        retarget(trained, Plan("t", rule))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Binary(torch.tensor(-1.0)), r"Binary\.scale: wanted a positive number"),
        (lambda: Binary(torch.tensor([1.0])), r"Binary\.scale: wanted finite values of shape \(\)"),
        (lambda: Binary(torch.tensor(1.0), axis=0), r"Binary\.axis"),
        (lambda: Binary(drawn=True), r"Binary\.drawn"),
        (lambda: Rule(-1.0), r"Ternary\.threshold"),
        (lambda: Rule(0.1, torch.tensor([1.0])), r"Ternary\.scales"),
        (lambda: Rule(0.1, torch.ones(2), axis=0), r"Ternary\.axis"),
        (lambda: Tanh(9, torch.tensor(1.0)), r"Tanh\.bits"),
    ],
)
def test_bad_rules_are_told(make, told):
    with pytest.raises(PlanError, match=told):
        make()


@pytest.mark.parametrize(
    "rule",
    [
        Binary(axis=0),
        Binary(torch.tensor(0.5), drawn=True),
        Rule(0.7, axis=0),
        Rule(0.1, torch.tensor([1.0, 2.0])),
        Tanh(3, torch.tensor(0.5)),
    ],
    ids=str,
)
def test_a_plan_keeps_rules(rule, trained):
    again = Plan.from_dict(*Plan("t", {"0.weight": rule}).to_dict())
    (found,) = again.on("0.weight")
    assert str(found) == str(rule)
    assert "levels while training" in str(again)
    subject = apply(trained, again)
    assert str(subject.constraints["0.weight"].latent) == str(rule)
