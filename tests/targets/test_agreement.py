"""The lowered model beside the simulated one, in quantization steps."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze
from gossamer.targets import agreements, blocks, dynamic, graph_of, lower_frozen, static_loop
from gossamer.targets.optimized import optimized_graph

pytestmark = pytest.mark.slow


def compared(model, x, method=PostTraining()):  # noqa: B008  # frozen
    subject = Subject.of(model.eval(), x)
    evidence = calibrate(subject, [((x,), {}, None)], method.needs)
    live = apply(subject, method.plan(subject, evidence))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, (x,)))
    return {found.site: found for found in agreements(live, lowered, (x,))}, lowered


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.fc((x + torch.relu(self.norm(self.b(x)))).mean((2, 3)))


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = getattr(nn, kind)(6, 16, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


def test_sites_with_grids_read_the_same_codes():
    torch.manual_seed(0)
    found, lowered = compared(Branches(), torch.randn(4, 3, 9, 9))
    assert set(lowered.integer) == {"a.weight", "b.weight", "fc.weight"}
    outputs = {name for name in found if name.endswith(":output")}
    assert outputs
    assert set(found) == {*lowered.integer, *outputs, "outputs"}
    assert max(found[name].steps for name in outputs) <= 1
    assert {found[name].compared for name in outputs} == {"grid"}
    assert found["a.weight"].steps == 0
    assert max(found[site].steps for site in lowered.integer) <= 1
    assert found["outputs"].steps <= 1
    assert {found[site].compared for site in lowered.integer} == {"input"}


@pytest.mark.parametrize("bits", [4, 7, "auto"])
def test_channels_with_zeros_of_their_own_are_multiplied_in_integers(bits):
    """Weights of one sign use all affine codes, so that their zeros are at both ends of the range."""
    torch.manual_seed(0)
    model = Branches()
    for layer in (model.a, model.b, model.fc):
        layer.weight.data.abs_()[::2] *= -1
    found, lowered = compared(model, torch.randn(4, 3, 9, 9), PostTraining(weight_codes="affine", weight_bits=bits))
    assert set(lowered.integer) == {"a.weight", "b.weight", "fc.weight"}
    assert max(each.steps for each in found.values()) <= 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("states", ["static", "dynamic"])
def test_recurrent_channels_with_zeros_of_their_own_are_multiplied_in_integers(kind, states, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 5))
    torch.manual_seed(0)
    found, lowered = compared(
        Sequence(kind), torch.randn(3, 9, 6), PostTraining(states=states, weight_codes="affine", weight_bits=7)
    )
    if states == "static":
        sites = {f"rnn.weight_{half}_l{end}" for half in ("ih", "hh") for end in ("0", "0_reverse", "1", "1_reverse")}
        assert sites <= found.keys()
        assert sites <= set(lowered.integer)
        assert max(each.steps for each in found.values()) <= 1
    assert found["outputs"].steps <= 3


class Shortcuts(nn.Module):
    """A block of a class of its own whose sums read a ReLU that no module ends with, and maps left out and padded."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([Block(8, 8), Block(8, 16), Block(16, 16)])
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.stride, self.more = after // before, after - before
        self.one = nn.Conv2d(before, after, 3, self.stride, 1)
        self.two = nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x):
        made = self.two(torch.relu(self.one(x)))
        if self.more:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return torch.relu(made + x)


def test_shortcuts_of_all_kinds_are_added_as_codes():
    torch.manual_seed(0)
    found, lowered = compared(Shortcuts(), torch.randn(4, 3, 12, 12))
    kinds = [node.op_type for node in optimized_graph(lowered.proto).graph.node]
    assert kinds.count("QLinearAdd") == 2
    assert kinds.count("Add") == 1, "what is averaged is added in floats"
    assert kinds.count("Relu") == 1
    assert {"norm:output", "blocks.0:output", "blocks.1:output", "blocks.0.two:output"} <= found.keys()
    assert max(each.steps for each in found.values()) <= 1


class Inception(nn.Module):
    """Branches that are joined, maps pooled between and in them: several read what is joined, and what is pooled."""

    def __init__(self, before, after):
        super().__init__()
        self.one, self.pooled = nn.Conv2d(before, after, 1), nn.Conv2d(before, after, 1)

    def forward(self, x):
        beside = self.pooled(nn.functional.max_pool2d(x, 3, 1, 1))
        return torch.cat([torch.relu(self.one(x)), torch.relu(beside)], 1)


def test_maps_that_several_read_are_pooled_as_codes_and_stay_on_one_grid():
    torch.manual_seed(0)
    layers = [Inception(3, 8), Inception(16, 8), nn.MaxPool2d(2), Inception(16, 8)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    x = torch.randn(4, 3, 12, 12)
    subject = Subject.of(model, x)
    plan = PostTraining().plan(subject, calibrate(subject, [((x,), {}, None)], PostTraining().needs))
    grids = plan.activations
    assert {"0:output", "1:output"} <= grids.keys()
    for block, before in ((1, 0), (3, 1)):
        for site in (f"{block}.one.weight", f"{block}.pooled.weight"):
            assert grids[site] == grids[f"{before}:output"], "numbers on a grid are put on no other"
    found, lowered = compared(model, x)
    kinds = [node.op_type for node in optimized_graph(lowered.proto).graph.node]
    assert kinds.count("QLinearConv") == 6
    assert kinds.count("QuantizeLinear") == 3, "the input of the network, pooled and not, and that of the last layer"
    assert max(each.steps for each in found.values()) <= 1


class Odd(nn.Module):
    """Sums of what a convolution made, after operators that do not all leave its codes as they are."""

    def __init__(self, way):
        super().__init__()
        self.one, self.two, self.way = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), way

    def forward(self, x):
        first = self.one(x)
        match self.way:
            case "padded with ones":
                beside = nn.functional.pad(first[:, :, 1:, 1:], (1, 0, 1, 0), value=1.0)
            case "reflected":
                beside = nn.functional.pad(first[:, :, 1:, 1:], (1, 0, 1, 0), mode="reflect")
            case "clipped beside the codes":
                beside = first.clamp(-0.1234567, 0.345678)
            case "clipped":
                beside = nn.functional.relu6(first)
            case "largest":
                beside = nn.functional.max_pool2d(first, 3, 1, 1)
            case _:
                beside = nn.functional.max_pool2d(first, 3, 1, 1, return_indices=True)
                beside = beside[0] + beside[1]
        return torch.sigmoid(torch.relu(self.two(torch.relu(first)) + beside))


@pytest.mark.parametrize(
    "way", ["padded with ones", "reflected", "clipped beside the codes", "clipped", "largest", "with its places"]
)
def test_what_is_done_before_a_sum_is_done_as_simulated(way):
    torch.manual_seed(0)
    found, _ = compared(Odd(way), torch.randn(4, 3, 8, 8))
    assert {"one.weight", "two.weight", "one:output", "two:output"} <= found.keys()
    assert max(each.steps for each in found.values()) <= 1
    assert found["outputs"].differing == 0


def test_what_a_layer_adds_is_told_from_what_it_was_given():
    """The simulation's first bias is moved: the layer after reads other codes, and the one after that only follows."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*[nn.Linear(24, 24) for _ in range(3)]).eval(), torch.randn(8, 24)
    subject = Subject.of(model, x)
    evidence = calibrate(subject, [((x,), {}, None)], PostTraining().needs)
    live = apply(subject, PostTraining().plan(subject, evidence))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, (x,)))
    with torch.no_grad():
        live.model.get_submodule("0").bias += 0.3
    first, second, third, end = agreements(live, lowered, (x,))
    assert first.steps == first.carried == 0
    assert second.steps == second.carried > 5
    assert third.steps <= 1 < third.carried
    assert end.steps < 0.1 < end.carried


@pytest.mark.parametrize("scales", ["channel", 32])
def test_products_in_blocks_are_compared_before_the_bias(scales, monkeypatch):
    monkeypatch.setattr(blocks, "LEAST", 1)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5, bias=False)).eval(), torch.randn(4, 64)
    subject = Subject.of(model, x)
    method = PostTraining(weight_bits=4, weight_scales=scales, inputs=False)
    live = apply(subject, method.plan(subject))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, (x,)))
    found = {one.site: one for one in agreements(live, lowered, (x,))}
    assert set(found) == {"0.weight", "2.weight", "outputs"}
    assert {one.compared for one in found.values()} == {"output"}
    assert 0 < max(one.steps for one in found.values()) < 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_compared_by_their_outputs(kind, monkeypatch):
    monkeypatch.setattr(dynamic, "LEAST", dict.fromkeys(dynamic.LEAST, 1))
    torch.manual_seed(0)
    found, lowered = compared(Sequence(kind), torch.randn(3, 5, 6))
    assert set(found) == {"rnn.weight_hh_l1", "fc.weight", "outputs"}
    assert len(lowered.integer) == 9
    assert found["rnn.weight_hh_l1"].compared == "output"
    assert found["rnn.weight_hh_l1"].steps <= 2
    assert found["fc.weight"].steps <= 2


def test_a_layer_that_pads_with_what_is_there_is_left_out():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    found, _ = compared(nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), torch.randn(2, 3, 6, 6))
    assert set(found) == {"3.weight", "outputs"}
    assert found["outputs"].carried <= 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_states_on_grids_are_compared_code_by_code(kind, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    torch.manual_seed(0)
    found, lowered = compared(Sequence(kind), torch.randn(3, 9, 6), PostTraining(states="static"))
    assert set(lowered.integer) == {name for name in found if name != "outputs"}
    assert len(lowered.integer) == 9
    assert {found[site].compared for site in lowered.integer} == {"input"}
    assert max(found[site].steps for site in lowered.integer) <= 1
    assert max(found[site].differing for site in lowered.integer) < 0.002
    assert found["outputs"].steps < 0.1


@pytest.mark.parametrize("bits", [pytest.param(8, marks=pytest.mark.slow), 16])
def test_cell_states_on_grids_are_compared_code_by_code(bits, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    torch.manual_seed(0)
    found, lowered = compared(Sequence("LSTM"), torch.randn(3, 9, 6), PostTraining(states="static", cell_bits=bits))
    cells = {name for name in found if name.endswith(":cell")}
    assert cells == {f"rnn.weight_hh_l{layer}{way}:cell" for layer in (0, 1) for way in ("", "_reverse")}
    assert {found[name].compared for name in cells} == {"grid"}
    assert max(found[name].steps for name in cells) <= 1
    assert max(found[name].differing for name in cells) < 0.05
    assert set(found) == {*lowered.integer, *cells, "outputs"}


def test_a_layer_with_states_on_grids_may_run_twice(monkeypatch):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.GRU(6, 16), nn.Linear(16, 3)

        def forward(self, x):
            first, state = self.rnn(x)
            return self.fc(first + self.rnn(x.flip(0), state)[0])

    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    torch.manual_seed(0)
    found, lowered = compared(Twice(), torch.randn(9, 3, 6), PostTraining(states="static"))
    assert set(lowered.integer) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "fc.weight"}
    assert max(one.steps for one in found.values()) <= 1


def test_symmetric_codes_and_a_first_state_are_compared_too(monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    torch.manual_seed(0)
    model, given = nn.GRU(6, 16), (torch.randn(9, 3, 6), torch.randn(1, 3, 16))
    subject = Subject.of(model.eval(), *given)
    method = PostTraining(states="static", input_codes="symmetric")
    live = apply(subject, method.plan(subject, calibrate(subject, [(given, {}, None)], method.needs)))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, given))
    found = {one.site: one for one in agreements(live, lowered, given)}
    assert set(found) == {"weight_ih_l0", "weight_hh_l0", "outputs"}
    assert max(one.steps for one in found.values()) <= 1


def test_a_loop_that_was_given_other_states_is_told_from_one_that_follows(monkeypatch):
    """The bias of the second layer is moved in the simulation: its states differ, those of the third only follow."""
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))
    torch.manual_seed(0)
    model, x = nn.GRU(6, 16, 3), torch.randn(9, 3, 6)
    subject = Subject.of(model.eval(), x)
    method = PostTraining(states="static")
    live = apply(subject, method.plan(subject, calibrate(subject, [((x,), {}, None)], method.needs)))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, (x,)))
    with torch.no_grad():
        live.model.bias_ih_l1 += 0.3
    found = {one.site: one for one in agreements(live, lowered, (x,))}
    assert found["weight_hh_l0"].carried <= 1
    assert found["weight_ih_l1"].carried <= 1
    assert found["weight_hh_l1"].steps > 5
    assert found["weight_hh_l2"].steps <= 1 < found["weight_hh_l2"].carried
