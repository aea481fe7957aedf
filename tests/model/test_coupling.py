"""Groups of units that must be cut together: what they are, and the proof that they are right."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from awkward.networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from model.coupled import check_unread_units_can_go, free_groups, plan_of, some_units
from model.random_graphs import BLOCKS, build, networks
from torch import nn

from gossamer.errors import PlanError
from gossamer.model import Cut, Mask, Plan, Resize, Subject, apply, freeze, live_weight, load, to_artifact
from gossamer.model.coupling.labels import components, segments_of

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

UNCUT = {"shared module", "hand-written attention"}
"""Nothing of them can be cut: every unit reaches the input or output; heads are counted by literals in the code."""


def subject_of(network):
    args, kwargs = network.inputs()
    return Subject.of(network.build(), *args, **kwargs)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_unread_units_can_go(network):
    cut = check_unread_units_can_go(subject_of(network))
    assert (cut == 0) == (network.name in UNCUT)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_cut_model_trains_and_its_file_fills_a_fresh_instance(network, tmp_path):
    subject = subject_of(network)
    random = np.random.default_rng(3)
    keeps = {group.name: some_units(group, 0.4, random) for group in free_groups(subject)}
    if not keeps:
        return
    small = apply(subject, plan_of(keeps))
    args, kwargs = network.inputs()
    leaves = torch.utils._pytree.tree_leaves(small.model(*args, **kwargs))
    sum(leaf.float().square().mean() for leaf in leaves).backward()
    from gossamer import artifact

    frozen = freeze(small)
    artifact.save(tmp_path / "a.goss", to_artifact(frozen))
    filled = load(tmp_path / "a.goss").into(network.build(seed=5))
    counted = sum(parameter.numel() for parameter in filled.parameters())
    assert counted == sum(parameter.numel() for parameter in frozen.model.parameters())
    assert counted < sum(parameter.numel() for parameter in network.build().parameters())
    with torch.no_grad():
        left, right = (torch.utils._pytree.tree_leaves(model(*args, **kwargs)) for model in (filled, frozen.model))
    assert all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def groups_of(model, *inputs):
    return {group.name: group for group in Subject.of(model, *inputs).groups}


def test_layers_of_an_lstm_lose_equally_many_units():
    lstm = nn.LSTM(5, 8, num_layers=2, batch_first=True)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = lstm, nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    subject = Subject.of(Last(), torch.randn(2, 4, 5))
    group = next(group for group in subject.groups if group.name == "rnn")
    assert group.lanes.shape == (2, 8)
    keep = [0, 2, *group.lanes[1, [1, 5]].tolist()]
    small = apply(subject, Plan("t", edits=(Cut(((group.name, tuple(sorted(keep))),)),)))
    assert small.model.rnn.hidden_size == 2
    rows = [0, 2, 8, 10, 16, 18, 24, 26]  # of the input, forget, cell and output gates
    assert torch.equal(small.model.rnn.weight_ih_l0, lstm.weight_ih_l0[rows])
    assert torch.equal(small.model.rnn.weight_hh_l0, lstm.weight_hh_l0[rows][:, [0, 2]])
    assert torch.equal(small.model.rnn.weight_ih_l1[:, 1], lstm.weight_ih_l1[:, 2][[1, 5, 9, 13, 17, 21, 25, 29]])
    with pytest.raises(PlanError, match="lanes must lose equally many"):
        apply(subject, Plan("t", edits=(Cut(((group.name, (0, 1, 2, 9)),)),)))


class Attention(nn.Module):
    """Heads by hand, with their number kept as an attribute or written down."""

    def __init__(self, *, literal: bool) -> None:
        super().__init__()
        self.heads, self.width, self.literal = 4, 3, literal
        self.qkv, self.out = nn.Linear(6, 36), nn.Linear(12, 6)

    def forward(self, x):
        sizes = (3, 4, 3) if self.literal else (3, self.heads, self.width)
        q, k, v = self.qkv(x).unflatten(-1, sizes).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_by_hand_are_units_and_their_number_follows():
    subject = Subject.of(Attention(literal=False), torch.randn(2, 5, 6))
    group = next(group for group in subject.groups if group.name == "qkv")
    assert group.size == 4
    assert not group.stuck
    small = apply(subject, Plan("t", edits=(Cut((("qkv", (0, 2)),)),)))
    assert small.model.heads == 2
    assert small.model.qkv.weight.shape == (18, 6)
    assert small.edits[-1] == Resize(
        (("qkv.weight", (18, 6)), ("qkv.bias", (18,)), ("out.weight", (6, 6))), (("", "heads", 2),)
    )
    assert check_unread_units_can_go(subject) == 1


def test_heads_that_are_written_down_cannot_go_and_the_line_is_named():
    group = groups_of(Attention(literal=True), torch.randn(2, 5, 6))["qkv"]
    assert "test_coupling.py:" in group.stuck
    assert "does not follow a cut" in group.stuck


def test_an_operator_without_a_rule_freezes_what_it_touches_and_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.free, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.out(torch.relu(self.free(torch.fft.fft(self.first(x)).real)))

    subject = Subject.of(Odd(), torch.randn(2, 4))
    groups = {group.name: group for group in subject.groups}
    assert "has no rule" in groups["first"].stuck
    assert not groups["free"].stuck
    assert any("fft" in unseen.what and "test_coupling.py" in unseen.where for unseen in subject.coupling[1])


class Shuffle(nn.Module):
    """Channel shuffle (Zhang et al. 2018) between grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 1)
        self.left, self.right = nn.Conv2d(12, 12, 3, padding=1, groups=2), nn.Conv2d(12, 4, 1, groups=2)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.left(F.relu(self.first(x))))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.out(self.right(x).mean((2, 3)))


class PixelShuffle(nn.Module):
    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.up, self.out, self.by_hand = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(4, 1, 1), by_hand

    def forward(self, x):
        x = self.up(x)
        n, c, h, w = x.shape
        if not self.by_hand:
            return self.out(F.pixel_shuffle(x, 2))
        x = x.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return self.out(x.reshape(n, c // 4, 2 * h, 2 * w))


class Halves(nn.Module):
    """A gate over two halves of the channels, and a slice of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(5, 16), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x):
        first, second = self.both(x).chunk(2, -1)
        return self.out(first * self.scale * torch.sigmoid(second))


class ByHand(nn.Module):
    """A recurrent cell by hand, with zeros as its first state."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.wx, self.wh, self.out = nn.Linear(3, 12), nn.Linear(6, 12, bias=False), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.zeros(x.shape[0], self.hidden)
        for t in range(x.shape[1]):
            z, n = (self.wx(x[:, t]) + self.wh(h)).split(self.hidden, -1)
            h = torch.sigmoid(z) * h + torch.tanh(n)
        return self.out(h)


@pytest.mark.parametrize(
    ("model", "inputs", "groups"),
    [
        (Shuffle(), (torch.randn(2, 3, 5, 5),), 3),
        (PixelShuffle(by_hand=False), (torch.randn(2, 3, 4, 4),), 1),
        (PixelShuffle(by_hand=True), (torch.randn(2, 3, 4, 4),), 1),
        (Halves(), (torch.randn(2, 5),), 1),
        (ByHand(), (torch.randn(2, 4, 3),), 1),
        (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True), (torch.randn(2, 5, 8),), 2),
    ],
    ids=["channel shuffle", "pixel shuffle", "pixel shuffle by hand", "chunk", "cell by hand", "encoder layer"],
)
def test_units_behind_reshapes_and_constants_can_go(model, inputs, groups):
    assert check_unread_units_can_go(Subject.of(model, *inputs)) == groups


def test_zeros_and_shared_values_stay_when_units_go():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    keep = torch.tensor([[True, False, True], [False, True, True], [True, True, False], [True, True, True]])
    subject = apply(Subject.of(model, torch.randn(2, 3)), Plan("t", {"0.weight": Mask(keep)}))
    small = apply(subject, Plan("t", edits=(Cut((("0", (1, 2)),)),)))
    assert torch.equal(small.constraints["0.weight"].mask.keep, keep[1:3])
    assert torch.equal(live_weight(small, "0.weight"), live_weight(subject, "0.weight")[1:3])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((("9", (0,)),), "there is no group '9'"),
        ((("0", (7,)),), "units from 0 to 3"),
        ((("0", ()),), "at least one"),
        ((("2", (0,)),), "cannot be cut: it is an output"),
    ],
)
def test_a_cut_that_does_not_fit_is_refused(keep, message):
    subject = Subject.of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))
    with pytest.raises(PlanError, match=message):
        apply(subject, Plan("t", edits=(Cut(keep),)))


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_each_block_of_random_graphs_can_be_cut(name):
    assert check_unread_units_can_go(Subject.of(build([name], 8), torch.randn(2, 3, 4, 4))) >= 1


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(network=networks, seed=st.integers(0, 9))
def test_unread_units_of_random_graphs_can_go(network, seed):
    check_unread_units_can_go(Subject.of(build(*network), torch.randn(2, 3, 4, 4)), seed=seed)


def test_components_and_segments():
    pairs = [(np.array([0, 4]), np.array([1, 1])), (np.array([2]), np.array([3]))]
    assert components(6, pairs).tolist() == [0, 0, 2, 2, 0, 5]
    assert segments_of((2, 6, 4), (2, 2, 12)) == [((0,), (0,)), ((1, 2), (1, 2))]
    assert segments_of((3, 8, 1), (3, 2, 4)) == [((0,), (0,)), ((1,), (1, 2))]


class Reads(nn.Module):
    """Linear layers and a function of their outputs."""

    def __init__(self, function, **layers):
        super().__init__()
        self.layers, self.function = nn.ModuleDict(layers), function

    def forward(self, x):
        return self.function(self.layers, x)


def _unequal(m, x):
    first, second = m["a"](x).split(6, 1)
    return m["b"](torch.cat([torch.relu(first), second], 1))


def _attended(m, x):
    h = m["a"](x)
    return m["b"](m["attend"](h, h, h)[0])


def _last(m, x, width=None):
    states = m["a"](x)
    index = torch.tensor([3, 1])[:, None, None].expand(-1, 1, width or states.shape[2])
    return m["b"](torch.gather(states, 1, index)[:, 0])


def test_units_behind_a_gather_that_follows_can_go():
    layers = {"a": nn.Linear(4, 6), "b": nn.Linear(6, 2)}
    assert check_unread_units_can_go(Subject.of(Reads(_last, **layers), torch.randn(2, 5, 4))) == 1


STUCK = [
    (Reads(partial(_last, width=6), a=nn.Linear(4, 6), b=nn.Linear(6, 2)), (2, 5, 4), "a"),
    (Reads(_unequal, a=nn.Linear(4, 10), b=nn.Linear(10, 3)), (2, 4), "a"),
    (
        Reads(
            _attended,
            a=nn.Linear(6, 16),
            attend=nn.MultiheadAttention(16, 4, add_zero_attn=True, batch_first=True),
            b=nn.Linear(16, 3),
        ),
        (2, 5, 6),
        "layers.a",
    ),
    (
        Reads(lambda m, x: m["b"](F.adaptive_avg_pool1d(m["a"](x), 4)), a=nn.Linear(4, 16), b=nn.Linear(4, 3)),
        (2, 5, 4),
        "a",
    ),
    (
        Reads(
            lambda m, x: m["b"](torch.gather(m["a"](x), 1, torch.zeros(2, 1, 3, dtype=torch.long))),
            a=nn.Linear(4, 6),
            b=nn.Linear(3, 2),
        ),
        (2, 5, 4),
        "a",
    ),
]


@pytest.mark.parametrize(
    ("model", "shape", "name"), STUCK, ids=["size of a gather", "unequal split", "extra keys", "as space", "gather"]
)
def test_what_a_cut_would_make_wrong_is_stuck(model, shape, name):
    groups = groups_of(model, torch.randn(*shape))
    assert all(group.stuck for key, group in groups.items() if key.endswith(name))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (
            Reads(
                _attended, a=nn.Linear(6, 16), attend=nn.MultiheadAttention(16, 4, batch_first=True), b=nn.Linear(16, 3)
            ),
            (2, 5, 6),
        ),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1)), (2, 3, 5, 5)),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=8), nn.Conv2d(8, 2, 1)), (2, 3, 5, 5)),
    ],
    ids=["attention with its weights", "few channels a group", "transposed depthwise"],
)
def test_attention_and_grouped_convolutions_can_be_cut(model, shape):
    assert check_unread_units_can_go(Subject.of(model, torch.randn(*shape))) >= 1


def _compared(m, x):
    states = m["a"](x)
    return m["c"](states) + states @ m["b"](x).transpose(1, 2)


def _compared_by_letters(m, x):
    states = m["a"](x)
    return m["c"](states) + torch.einsum("bsu,btu->bst", states, m["b"](x))


@pytest.mark.parametrize("function", [_compared, _compared_by_letters])
def test_units_that_two_activations_are_compared_by_are_mixed(function):
    layers = {"a": nn.Linear(6, 16), "b": nn.Linear(6, 16), "c": nn.Linear(16, 5)}
    subject = Subject.of(Reads(function, **layers), torch.randn(2, 5, 6))
    (group,) = [group for group in subject.groups if not group.stuck]
    assert group.mixed.all()
    assert check_unread_units_can_go(subject) == 1
