"""Cross-layer equalization: scales worked out by hand, an unchanged function, the shift of high biases."""

import copy

import pytest
import torch
from awkward.networks import BY_NAME, NETWORKS
from torch import nn

from gossamer.artifact import save
from gossamer.errors import PatternError
from gossamer.methods.quantize import Equalize, PostTraining
from gossamer.methods.quantize.chains import Pair, by_input, find_pairs
from gossamer.methods.quantize.equalize import Layer, Statistics, absorb, equalize
from gossamer.model import Fold, Subject, Unclip, apply, edit_from_dict, edit_to_dict, freeze, load, to_artifact


def shaken(model, seed=0):
    """Return ``model`` with batch norms that have something to say, in double precision."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.2, 2)
            module.weight.data.uniform_(0.05, 3)
            module.bias.data.uniform_(-1, 1)
    return model.double().eval()


class Separable(nn.Module):
    """Expand, filter each channel, project, pool, flatten, tell; with ReLU6 or ReLU."""

    def __init__(self, act=nn.ReLU6) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            act(),
            nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False),
            nn.BatchNorm2d(12),
            act(),
            nn.Conv2d(12, 4, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(),
        )
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(self.layers(x))


def ranges(subject, first, second, groups=1, spread=1):
    weights = subject.model.get_submodule(first).weight, subject.model.get_submodule(second).weight
    made = weights[0].detach().flatten(1).abs().amax(1)
    return made, by_input(weights[1].detach(), groups, spread).abs().amax((2, 3)).flatten()


def test_a_pair_by_hand():
    first = Layer(torch.tensor([[8.0, 0.0], [0.5, -0.125]]).double(), torch.tensor([4.0, 1.0]).double())
    second = Layer(torch.tensor([[2.0, -1.0], [0.5, 2.0]]).double(), torch.zeros(2).double())
    equalize({"a": first, "b": second}, (Pair("a", "b"),))
    # r1 = (8, 1/2), r2 = (2, 2): s = (2, 1/2), both ranges become (4, 1).
    assert first.weight.tolist() == [[4.0, 0.0], [1.0, -0.25]]
    assert first.bias.tolist() == [2.0, 2.0]
    assert second.weight.tolist() == [[4.0, -0.5], [1.0, 1.0]]


def test_channels_of_zeros_stay():
    first = Layer(torch.tensor([[0.0], [4.0]]).double(), torch.tensor([3.0, 0.0]).double())
    second = Layer(torch.tensor([[1.0, 0.0]]).double(), None)
    equalize({"a": first, "b": second}, (Pair("a", "b"),))
    assert first.weight.tolist() == [[0.0], [4.0]]
    assert first.bias.tolist() == [3.0, 0.0]


def test_absorption_by_hand():
    made = Statistics(torch.tensor([5.0, 1.0]).double(), torch.tensor([1.0, 1.0]).double())
    first = Layer(torch.eye(2).double(), torch.tensor([5.0, 1.0]).double(), made=made)
    second = Layer(torch.tensor([[3.0, 7.0], [-1.0, 7.0]]).double(), torch.tensor([0.5, 0.5]).double())
    absorb({"a": first, "b": second}, Pair("a", "b", rectified=True))
    # c = max(0, 5 - 3) and max(0, 1 - 3).
    assert first.bias.tolist() == [3.0, 1.0]
    assert second.bias.tolist() == [6.5, -1.5]
    assert first.made.mean.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_kernel_is_read_by_input_channels(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, groups=groups, bias=False)
    x, factor = torch.randn(1, 4, 5, 5), torch.rand(4) + 0.5
    wanted = conv(x * factor.view(1, 4, 1, 1))
    with torch.no_grad():
        columns = by_input(conv.weight, groups)
        columns *= factor.view(*columns.shape[:2], 1, 1)
    torch.testing.assert_close(conv(x), wanted)


def test_a_network_keeps_its_function_and_its_layers_reach_equally_far():
    x = torch.randn(3, 2, 6, 6).double()
    subject = Subject.of(shaken(Separable(nn.ReLU)), x)
    plan = Equalize(absorb=False).plan(subject)
    done = apply(subject, plan)
    torch.testing.assert_close(done.model(x), subject.model(x), rtol=1e-10, atol=1e-10)
    assert [type(edit) for edit in plan.edits] == [Fold] * 3
    for pair in (("layers.0", "layers.3", 6), ("layers.3", "layers.6"), ("layers.6", "fc", 1, 9)):
        made, read = ranges(done, *pair)
        torch.testing.assert_close(made, read, rtol=1e-3, atol=0)


def test_relu6_loses_its_bound_or_is_left():
    x = torch.rand(3, 2, 6, 6).double()
    subject = Subject.of(shaken(Separable()), x)
    plan = Equalize(absorb=False).plan(subject)
    assert [edit.module for edit in plan.edits if isinstance(edit, Unclip)] == ["layers.2", "layers.5"]
    same = copy.deepcopy(subject.model)
    same.layers[2], same.layers[5] = nn.ReLU(), nn.ReLU()
    torch.testing.assert_close(apply(subject, plan).model(x), same(x), rtol=1e-10, atol=1e-10)
    left = Equalize(absorb=False, unclip=False).plan(subject)
    assert not any(isinstance(edit, Unclip) for edit in left.edits)
    torch.testing.assert_close(apply(subject, left).model(x), subject.model(x), rtol=1e-10, atol=1e-10)


def test_an_unclipped_network_comes_back_from_its_file(tmp_path):
    x = torch.rand(3, 2, 6, 6)
    subject = Subject.of(shaken(Separable()).float(), x)
    done = apply(subject, Equalize().plan(subject))
    save(tmp_path / "a.goss", to_artifact(freeze(done)))
    read = load(tmp_path / "a.goss").into(Separable().eval())
    assert torch.equal(read(x), done.model(x))
    edit = done.edits[-1]
    assert edit_from_dict(edit_to_dict(edit)) == edit == Unclip("layers.5")


def test_absorption_changes_only_what_is_below_the_shift():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    model[1].bias.data = torch.tensor([4.0, 0.0, 9.0, -2.0])
    subject = Subject.of(model.double().eval(), torch.randn(8, 3).double())
    done = apply(subject, Equalize().plan(subject))
    near, far = torch.randn(20, 3).double(), 100 * torch.randn(20, 3).double()
    seen = subject.model[:2](near)
    assert (seen[:, [0, 2]] > torch.tensor([1.0, 6.0])).all()
    torch.testing.assert_close(done.model(near), subject.model(near), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(done.model(far), subject.model(far))


def test_nothing_is_shifted_before_padding_by_zeros():
    subject = Subject.of(shaken(Separable(nn.ReLU)), torch.rand(3, 2, 6, 6).double())
    folded = apply(subject, Equalize(scale=False).plan(subject))
    pairs = find_pairs(folded, ["layers.0", "layers.3", "layers.6", "fc"])
    assert [pair.rectified for pair in pairs] == [False, True, False]


def test_what_two_layers_read_is_left_and_told():
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.b(x) + self.c(x)

    subject = Subject.of(Fork(), torch.rand(2, 3))
    plan = Equalize().plan(subject)
    assert not plan.tensors
    assert {skip.site for skip in plan.skipped} == {"a.weight", "b.weight", "c.weight"}


def test_a_pattern_leaves_layers_alone():
    subject = Subject.of(shaken(Separable()), torch.rand(3, 2, 6, 6).double())
    plan = Equalize(exclude=("layers.3.*",)).plan(subject)
    assert not any(name.startswith(("layers.3.", "layers.0.")) for name in plan.tensors)
    with pytest.raises(PatternError):
        Equalize(include=("nothing*",)).plan(subject)


@pytest.mark.parametrize(
    "network",
    [
        n
        for n in NETWORKS
        if n.name in {"grouped convolution", "depthwise convolution", "residual", "conv1d", "conv3d", "concat"}
    ],
    ids=lambda network: network.name,
)
def test_awkward_networks_keep_their_functions(network):
    args, kwargs = network.inputs()
    subject = Subject.of(network.build(), *args, **kwargs)
    done = apply(subject, Equalize(absorb=False).plan(subject))
    torch.testing.assert_close(done.model(*args, **kwargs), subject.model(*args, **kwargs), rtol=1e-4, atol=1e-5)
    assert BY_NAME[network.name] is network


def test_one_scale_for_all_fits_again_where_channels_differed_much():
    torch.manual_seed(0)
    x = torch.rand(16, 2, 6, 6)
    subject = Subject.of(shaken(Separable(nn.ReLU)).float(), x)
    for norm, factor in ((1, 2.0 ** torch.arange(-6, 6, 2)), (4, 2.0 ** torch.arange(-6, 6))):
        # Channels made larger before a layer and smaller in it, as networks with depthwise layers train them.
        after = subject.model.layers[norm + 2].weight
        with torch.no_grad():
            subject.model.layers[norm].weight *= factor
            subject.model.layers[norm].bias *= factor
            after /= factor.repeat_interleave(2).view(-1, 1, 1, 1) if norm == 1 else factor.view(1, -1, 1, 1)
    wanted = subject.model(x).detach()
    method = PostTraining(weight_scales="tensor", weight_range="minmax", weight_bits=8, inputs=False)

    def error(one):
        return float((apply(one, method.plan(one)).model(x).detach() - wanted).norm() / wanted.norm())

    folded, equalized = (apply(subject, Equalize(scale=scale).plan(subject)) for scale in (False, True))
    found = error(equalized), error(folded)
    assert found[0] < 0.02 < 0.1 < found[1]
