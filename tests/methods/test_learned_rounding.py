"""AdaRound and BRECQ: the relaxed rounding by hand, and against trying every rounding."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import nn

from gossamer import zoo
from gossamer.calibrate import calibrate, load_evidence, save_evidence
from gossamer.errors import EvidenceError
from gossamer.methods.quantize import AdaRound, Brecq, PostTraining
from gossamer.methods.quantize.reconstruct import InputStep
from gossamer.methods.quantize.rounding import Rounding, rectified, sharpness, undecided, unrectified
from gossamer.methods.quantize.units import Unit, block_units, layer_unit
from gossamer.methods.quantize.watch import watched
from gossamer.model import Grid, Mask, Plan, Subject, apply, live_weight
from gossamer.zoo.resnet20 import ResNet20

QUICK = {"iterations": 60, "batch": 16, "lr": 0.05}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.block = Residual()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.block(torch.relu(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Subject.of(Net().eval(), torch.zeros(1, 2, 6, 6))


@pytest.fixture(scope="module")
def evidence(net):
    torch.manual_seed(1)
    # Flat images, so that the errors of a kernel add up.
    images = [torch.randn(16, 2, 1, 1) + 0.2 * torch.randn(16, 2, 6, 6) for _ in range(4)]
    batches = [((x,), {}, torch.randint(3, (16,))) for x in images]
    return calibrate(net, batches, {"range", "examples"}, loss=F.cross_entropy)


def error(subject, plan, evidence):
    """Mean squared error of the logits on the examples."""
    rounded = apply(subject, plan)
    with torch.no_grad():
        pairs = [(rounded.model(*args), subject.model(*args)) for args, _, _ in evidence.examples()]
    return sum(float((left - right).square().mean()) for left, right in pairs)


def test_the_rectified_sigmoid_and_what_draws_it_to_its_ends():
    assert rectified(torch.tensor([0.0, 9.0, -9.0])).tolist() == [0.5, 1.0, 0.0]
    h = torch.tensor([0.0, 0.25, 0.5, 0.999])
    torch.testing.assert_close(rectified(unrectified(h)), h)
    # 1 - |2h - 1|^2 of 0, 1/4, 1/2 and 1: 0 + 3/4 + 1 + 0.
    assert undecided(torch.tensor([0.0, 0.25, 0.5, 1.0]), 2.0).item() == pytest.approx(1.75)
    assert sharpness(1, 10, 0.2) is None
    assert [sharpness(i, 10, 0.2) for i in (2, 6, 10)] == pytest.approx([20, 11, 2])


def test_a_rounding_starts_at_the_weight_and_ends_on_the_grid():
    grid = Grid(torch.tensor([0.5, 1.0]), torch.tensor([0, 0]), bits=3, axis=0)
    weight = torch.tensor([[0.6, -0.1, 9.0], [0.6, -1.6, -0.2]])
    keep = torch.tensor([[True, True, True], [True, True, False]])
    rounding = Rounding(weight, grid, keep)
    # Codes go from -4 to 3, so 9.0 becomes 3 · 0.5; what is not kept is zero.
    torch.testing.assert_close(rounding.soft.detach(), torch.tensor([[0.6, -0.1, 1.5], [0.6, -1.6, 0.0]]))
    assert torch.equal(rounding.hard, torch.tensor([[0.5, 0.0, 1.5], [1.0, -2.0, 0.0]]))


def test_an_input_step_has_the_gradient_of_learned_step_sizes():
    grid = Grid(torch.tensor(0.5), torch.tensor(1), bits=2, signed=False)  # codes 0 to 3 stand for -0.5 to 1.0
    step = InputStep(grid, 0.0, torch.Generator())
    x = torch.tensor([0.6, -0.1, 7.0], requires_grad=True)
    (snapped,) = step(nn.Identity(), (x,))
    torch.testing.assert_close(snapped.detach(), torch.tensor([0.5, 0.0, 1.0]))
    snapped.sum().backward()
    assert x.grad.tolist() == [1, 1, 0]
    # By s: round(x / s) - x / s inside, the last code beyond; by log s that times s.
    assert step.log_step.grad.item() == pytest.approx(0.5 * ((1 - 1.2) + (0 + 0.2) + 2))


def test_one_neuron_gets_the_best_of_all_its_roundings():
    torch.manual_seed(0)
    subject = Subject.of(nn.Linear(5, 1, bias=False), torch.zeros(1, 5))
    subject.model.weight.data = torch.tensor([[0.3, 0.047, -0.046, 0.045, 0.044]])  # the step is 0.1
    x = torch.randn(256, 1) * torch.tensor([1.0, 1, -1, 1, 1]) + 0.1 * torch.randn(256, 5)
    evidence = calibrate(subject, [((x,), {}, None)], {"range", "examples"})
    settings = {"weight_bits": 3, "input_bits": "float", "weight_range": "minmax"}
    plan = AdaRound(**settings, iterations=200, lr=0.05).plan(subject, evidence)
    weight = live_weight(subject, "weight")

    def error(values):
        return float(((values - weight) @ x.T).square().mean())

    every = [(torch.floor(weight * 10) + torch.tensor(up)) / 10 for up in itertools.product((0.0, 1.0), repeat=5)]
    # All are rounded to zero by themselves; together they want two of four up, whichever.
    assert error(plan.tensors["weight"]) < 1.25 * min(map(error, every))
    assert error(plan.tensors["weight"]) < 0.1 * error(plan.on("weight")[0].snap(weight))


@pytest.mark.parametrize("method", [AdaRound(**QUICK), Brecq(**QUICK)], ids=lambda method: method.tag)
def test_outputs_are_closer_than_by_rounding_to_the_nearest(method, net, evidence):
    plan = method.plan(net, evidence)
    assert error(net, plan, evidence) < 0.7 * error(net, PostTraining(weight_bits=4).plan(net, evidence), evidence)
    rounded = apply(net, plan)
    for site, values in plan.tensors.items():
        assert torch.equal(live_weight(rounded, site), values)
        assert ((values / plan.on(site)[0].scale.view(-1, *[1] * (values.ndim - 1))).abs() <= 8.001).all()
    again = method.plan(net, evidence)
    assert all(torch.equal(plan.tensors[site], again.tensors[site]) for site in net.sites)


def test_a_layer_learns_on_what_the_rounded_layers_before_it_make(net, evidence):
    plan = AdaRound(**QUICK).plan(net, evidence)
    other = AdaRound(**QUICK, exclude=("stem*",)).plan(net, evidence)
    assert not torch.equal(plan.tensors["block.first.weight"], other.tensors["block.first.weight"])


def test_inputs_may_have_few_bits_or_none(net, evidence):
    few = AdaRound(iterations=1, input_bits=4).plan(net, evidence)
    assert {grid.bits for grid in few.activations.values()} == {4}
    assert not AdaRound(iterations=1, input_bits="float").plan(net, evidence).activations


def test_brecq_learns_the_steps_of_inputs_and_weighs_by_the_loss(net, evidence):
    plain = AdaRound(iterations=1).plan(net, evidence).activations
    plan = Brecq(**QUICK, input_bits=4).plan(net, evidence)
    assert set(plan.activations) == set(net.sites)
    assert all(plan.activations[site].scale != plain[site].scale for site in net.sites)
    blind = calibrate(net, evidence.examples(), {"range", "examples"})
    with pytest.raises(EvidenceError, match="calibration was given none"):
        Brecq().plan(net, blind)
    alike = Brecq(**QUICK, weigh="outputs").plan(net, blind)
    assert not torch.equal(alike.activations["fc.weight"].scale, plan.activations["fc.weight"].scale)


def test_a_bar_shows_how_far_it_is(net, evidence):
    progress, seen = Progress(disable=True), []
    progress.advance = lambda bar: seen.append((bar, progress.tasks[0].description, progress.tasks[0].total))
    AdaRound(iterations=2).plan(net, replace(evidence, progress=progress))
    assert seen == [(0, "quantize.adaround", 8)] * 8, "two for each of four layers"
    assert not progress.tasks


def test_what_is_pruned_stays_zero(net, evidence):
    keep = torch.rand(net.sites["fc.weight"].shape, generator=torch.Generator().manual_seed(0)) > 0.5
    pruned = apply(net, Plan("test", {"fc.weight": Mask(keep)}))
    plan = AdaRound(**QUICK).plan(pruned, evidence)
    assert not plan.tensors["fc.weight"][~keep].any()


def test_units_are_residual_blocks_and_layers_with_what_follows():
    subject = Subject.of(ResNet20(4).eval(), torch.zeros(1, 1, 28, 28))
    layers = {site: site.removesuffix(".weight") for site in subject.sites}
    blocks = block_units(subject, layers)
    assert sorted(unit.stages[0] for unit in blocks) == [f"blocks.{i}" for i in range(9)]
    assert all(len(unit.sites) == 2 for unit in blocks)
    stem = layer_unit(subject, "conv.weight", "conv", 1)
    assert stem.stages == ("conv", "bn")
    assert stem.activation is torch.relu
    inner = layer_unit(subject, "blocks.0.conv2.weight", "blocks.0.conv2", 1)
    assert inner.stages == ("blocks.0.conv2", "blocks.0.bn2")
    assert inner.activation is None, "an addition comes first"
    assert layer_unit(subject, "fc.weight", "fc", 1).stages == ("fc",)


class Fan(nn.Module):
    """Two convolutions side by side, then one more if its maps are to change."""

    def __init__(self, change):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 1) if change else nn.Identity()

    def forward(self, x):
        return self.last(torch.cat([self.left(x), torch.relu(self.right(x))], 1))


class Shrinking(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.first, self.second, self.stride = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3, stride, 1), stride

    def forward(self, x):
        inner = self.second(torch.relu(self.first(x)))
        return inner + x if self.stride == 1 else inner


def test_units_are_joined_branches_and_blocks_of_the_class_of_others():
    model = nn.Sequential(Fan(change=True), Shrinking(2), Shrinking(1), nn.Conv2d(4, 4, 1), Fan(change=False))
    subject = Subject.of(model.eval(), torch.zeros(1, 4, 8, 8))
    layers = {site: site.removesuffix(".weight") for site in subject.sites}
    blocks = block_units(subject, layers)
    assert {unit.stages[0]: len(unit.sites) for unit in blocks} == {"0": 3, "1": 2, "2": 2, "4": 2}
    wrapped = nn.Sequential(zoo.build("unet-small"))
    subject = Subject.of(wrapped.eval(), *zoo.example("unet-small"))
    assert block_units(subject, {site: site.removesuffix(".weight") for site in subject.sites}) == (), "of 19 layers"
    plain = nn.Sequential(Shrinking(2), nn.Conv2d(4, 4, 1))
    subject = Subject.of(plain.eval(), torch.zeros(1, 4, 8, 8))
    assert block_units(subject, {site: site.removesuffix(".weight") for site in subject.sites}) == ()


class Beside(nn.Module):
    """The samples of two convolutions one after another."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, scale=1.0):
        left, right = self.left(x), torch.relu(self.right(scale * x))
        return torch.cat([left, right], 0) if scale == 1.0 else left + right


class Twice(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.beside, self.scale = Beside(), scale

    def forward(self, x):
        return self.beside(x, self.scale)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_block_runs_as_the_model_runs_it(scale):
    """Not a block where samples are joined; and a further argument is one of the block too."""
    torch.manual_seed(0)
    subject = Subject.of(Twice(scale).eval(), torch.randn(8, 4, 6, 6))
    x = torch.randn(64, 4, 1, 1) + 0.2 * torch.randn(64, 4, 6, 6)
    evidence = calibrate(subject, [((x,), {}, None)], Brecq.needs)
    learned = Brecq(**QUICK, weight_bits=3, weigh="outputs", input_bits="float").plan(subject, evidence)
    nearest = PostTraining(weight_bits=3, inputs=False).plan(subject, evidence)
    assert error(subject, learned, evidence) < 0.9 * error(subject, nearest, evidence)
    blocks = block_units(subject, {site: site.removesuffix(".weight") for site in subject.sites})
    assert [unit.stages for unit in blocks] == ([] if scale == 1.0 else [("beside",)])


class Joining(nn.Module):
    """A layer of a DenseNet that is given the maps before it as a list, or the input once more."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, maps, more=None):
        x = torch.cat(maps, 1) if isinstance(maps, list) else maps
        return torch.cat([self.left(x), self.right(x if more is None else more)], 1)


@pytest.mark.parametrize("given", ["list", "twice", "tensor"])
def test_a_block_is_given_one_tensor(given):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.joining = Joining()

        def forward(self, x):
            match given:
                case "list":
                    return self.joining([x])
                case "twice":
                    return self.joining(x, x)
                case _:
                    return self.joining(x)

    x = torch.randn(8, 4, 6, 6)
    subject = Subject.of(Whole().eval(), x)
    evidence = calibrate(subject, [((x,), {}, None)], Brecq.needs)
    plan = Brecq(iterations=2, weigh="outputs").plan(subject, evidence)
    assert plan.tensors.keys() == subject.sites.keys()
    blocks = block_units(subject, {site: site.removesuffix(".weight") for site in subject.sites})
    assert len(blocks) == (given == "tensor")


def test_watching_sees_inputs_outputs_and_gradients_in_bounded_memory(net, evidence, monkeypatch):
    unit = Unit(("stem",), (("stem.weight", "stem"),), calls=1, batched=4)
    examples = evidence.examples()[:1]
    args, _, targets = examples[0]
    seen = watched(net.model, examples, unit, loss=F.cross_entropy)
    made = net.model.stem(args[0])
    rest = net.model.fc(net.model.block(torch.relu(made)).mean((2, 3)))
    (expected,) = torch.autograd.grad(F.cross_entropy(rest, targets), made)
    order = torch.randperm(len(args[0]), generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen.inputs[0], args[0][order])
    torch.testing.assert_close(seen.outputs[0], made.detach()[order])
    torch.testing.assert_close(seen.gradients[0], expected[order])
    monkeypatch.setattr("gossamer.methods.quantize.watch.MOST", 3 * args[0][0].numel())
    assert [len(x) for x in watched(net.model, examples, unit, outputs=False).inputs] == [3]


def test_examples_are_kept_within_bounds_and_not_saved(net, evidence, tmp_path, monkeypatch):
    assert len(evidence.examples()) == 4
    monkeypatch.setattr("gossamer.calibrate.collect.EXAMPLES", 40_000)  # a batch has 16 · 72 · 4 bytes and targets
    less = calibrate(net, [*evidence.examples()] * 4, {"examples"})
    assert 1 < len(less.examples()) < 16
    save_evidence(tmp_path / "evidence.safetensors", less)
    again = load_evidence(tmp_path / "evidence.safetensors")
    assert not again.has("examples")
    with pytest.raises(EvidenceError, match="no examples were kept"):
        again.examples()
    with pytest.raises(EvidenceError, match="got no evidence"):
        AdaRound().plan(net)


def test_inputs_and_targets_are_of_the_same_samples_where_not_all_fit(monkeypatch):
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(64, 8, bias=False)), torch.randn(64, 64)
    subject = Subject.of(layer, x)
    monkeypatch.setattr("gossamer.methods.quantize.watch.MOST", 64 * 40)
    learned = AdaRound(weight_bits=3, input_bits="float", iterations=300)
    nearest = PostTraining(weight_bits=3, inputs=False)

    def error(method):
        plan = method.plan(subject, calibrate(subject, [((x,), {}, None)], method.needs))
        with torch.no_grad():
            return float((apply(subject, plan).model(x) - layer(x)).square().mean())

    assert error(learned) < 1.2 * error(nearest), "targets of other samples make it several times worse"


@pytest.mark.parametrize("how", ["kl", "average"])
def test_inputs_may_have_any_range_that_calibration_gives(net, evidence, how):
    plan = AdaRound(iterations=1, input_range=how).plan(net, evidence)
    plain = PostTraining(input_range=how).plan(net, evidence)
    assert {site: float(grid.scale) for site, grid in plan.activations.items()} == {
        site: float(grid.scale) for site, grid in plain.activations.items()
    }
