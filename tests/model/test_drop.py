"""Dropping a module: what can go, what the model is afterwards, in memory, in a file, in a graph and in the counts."""

import pytest
import torch
from torch import nn

from gossamer import artifact, zoo
from gossamer.errors import ModelError, PatternError, PlanError
from gossamer.model import (
    Cut,
    Drop,
    Grid,
    Mask,
    Plan,
    Subject,
    apply,
    cost_of,
    edit_from_dict,
    edit_to_dict,
    find_blocks,
    freeze,
    load,
    plan_cost,
    to_artifact,
    why_no_drop,
)
from gossamer.model.stand_in import Passing
from gossamer.model.surgery import perform
from gossamer.targets import compare, to_onnx


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, size)

    def forward(self, x):
        return x + torch.relu(self.fc(x))


class Chain(nn.Module):
    """Two residual blocks, a plain layer of equal sizes, and modules that cannot go, each for a reason of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.plain = nn.Linear(4, 4)
        self.twice = Block(4)
        self.pair = Pair()
        self.read = nn.Linear(4, 4)
        self.named = Block(4)
        self.idle = Block(4)
        self.wider = nn.Linear(4, 5)

    def forward(self, x):
        x = self.plain(self.blocks(x))
        x = self.twice(self.twice(x))
        a, b = self.pair(x)
        x = self.read(a + b) * self.read.out_features
        return self.wider(self.named(x=x))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x), x


def chain():
    return Subject.of(Chain().eval(), torch.randn(3, 4))


def dropped(subject, *paths):
    return apply(subject, Plan("t", edits=tuple(Drop(path) for path in paths)))


def refilled(subject, fresh, folder):
    """Return ``fresh`` made from the file of ``subject``."""
    artifact.save(folder / "a.goss", to_artifact(freeze(subject)))
    return load(folder / "a.goss").into(fresh)


def test_a_dropped_block_passes_its_input_through():
    subject = chain()
    small = dropped(subject, "blocks.1")
    model, x = subject.model, subject.args[0]
    model.blocks[1] = nn.Identity()
    assert torch.equal(small.model(x), model(x))
    assert type(small.model.blocks[1]) is nn.Identity
    assert not small.model.blocks[1].training
    assert "blocks.1.fc.weight" not in small.sites
    assert small.edits == (Drop("blocks.1"),)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nope", "has no module 'nope'"),
        ("", "the model itself"),
        ("twice", "it runs 2 times"),
        ("pair", r"it makes tuple of float32 \(3, 4\)"),
        ("wider", r"it makes float32 \(3, 5\) of float32 \(3, 4\)"),
        ("read", "the model does not run without it: .*out_features"),
        ("named", "it makes float32 .* of nothing"),
        ("idle", "never run it"),
    ],
)
def test_what_cannot_go_is_named_with_the_reason(path, reason):
    with pytest.raises(PlanError, match=f"{path or 'the model'} cannot be dropped: .*{reason}"):
        dropped(chain(), path)


def test_the_last_parameters_stay():
    subject = Subject.of(nn.Sequential(Block(3), nn.ReLU()), torch.randn(2, 3))
    assert why_no_drop(subject, "0") == "the model has no other parameters"


def test_another_dtype_is_no_stand_in():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(x).double()

    subject = Subject.of(nn.Sequential(nn.Linear(3, 3), Cast()), torch.randn(2, 3))
    assert "float64 (2, 3) of float32 (2, 3)" in why_no_drop(subject, "1")


def test_what_was_dropped_cannot_be_dropped_again():
    with pytest.raises(PlanError, match=r"blocks\.0\.fc cannot be dropped: Chain has no module"):
        dropped(chain(), "blocks.0", "blocks.0.fc")


def test_residual_blocks_are_the_innermost_that_add_to_their_input():
    assert [block.path for block in find_blocks(chain())] == ["blocks.0", "blocks.1"]


def test_patterns_name_the_outermost_residual_or_not():
    assert [block.path for block in find_blocks(chain(), ("*",))] == ["blocks", "plain", "pair.fc", "named.fc"]
    assert [block.path for block in find_blocks(chain(), ("blocks.*", "plain"))] == ["blocks.0", "blocks.1", "plain"]
    with pytest.raises(PatternError, match=r"'twice\*' names nothing that can be dropped: twice: it runs 2 times"):
        find_blocks(chain(), ("twice*",))
    with pytest.raises(PatternError, match="'nope' matches no module"):
        find_blocks(chain(), ("nope",))


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda self, x: x + self.fc(x), True),
        (lambda self, x: torch.relu(self.fc(x) + x), True),
        (lambda self, x: x.add_(self.fc(x)), True),
        (lambda self, x: torch.relu(x) + self.scale * self.fc(x), True),
        (lambda self, x: self.fc(x + self.fc(x)), False),
        (lambda self, x: x @ self.fc.weight + self.shift, False),
        (lambda self, x: self.fc(x) + self.shift, False),
        (lambda self, x: x * torch.sigmoid(self.fc(x)) + 1, False),
        (lambda self, x: self.fc(x) + self.fc(x), False),
    ],
)
def test_an_addition_counts_if_a_value_gets_through_without_a_weight(forward, found):
    class Try(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("shift", torch.ones(2, 4))

    Try.forward = forward
    subject = Subject.of(nn.Sequential(nn.Linear(4, 4), Try(), nn.Linear(4, 2)), torch.randn(2, 4))
    assert [block.path for block in find_blocks(subject)] == (["1"] if found else [])


def test_reference_networks_have_the_blocks_of_their_papers():
    def blocks(name):
        return [block.path for block in find_blocks(Subject.of(zoo.build(name).eval(), *zoo.example(name)))]

    assert blocks("resnet20") == [f"blocks.{i}" for i in (0, 1, 2, 4, 5, 7, 8)]  # 3 and 6 change the shape
    assert blocks("transformer") == blocks("transformer-written") == [f"layers.{i}" for i in range(4)]
    assert blocks("char-rnn") == []


def test_constraints_and_grids_of_a_dropped_module_go_with_it(tmp_path):
    subject = chain()
    mask = Mask(torch.rand(4, 4) > 0.5)
    grid = Grid(torch.tensor(0.1), torch.tensor(0), 8, signed=True)
    names = ("blocks.0.fc.weight", "plain.weight")
    held = apply(subject, Plan("t", dict.fromkeys(names, mask), activations=dict.fromkeys(names, grid)))
    small = dropped(held, "blocks.0")
    assert set(small.constraints) == set(small.activations) == {"plain.weight"}
    filled = refilled(small, Chain().eval(), tmp_path)
    assert torch.equal(filled(*small.args), freeze(small).model(*small.args))


class Tied(nn.Module):
    """The weight of a block is also that of a layer that stays, and is named after the block's."""

    def __init__(self):
        super().__init__()
        self.block = Block(4)
        self.out = nn.Linear(4, 4)
        self.out.weight = self.block.fc.weight

    def forward(self, x):
        return self.out(self.block(x))


def test_a_tied_weight_stays_under_the_name_that_is_left(tmp_path):
    subject = Subject.of(Tied().eval(), torch.randn(3, 4))
    mask = Mask(torch.rand(4, 4) > 0.5)
    grid = Grid(torch.tensor(0.1), torch.tensor(0), 8, signed=True)
    held = apply(subject, Plan("t", {"block.fc.weight": mask}, activations={"block.fc.weight": grid}))
    small = dropped(held, "block")
    assert set(small.sites) == set(small.constraints) == set(small.activations) == {"out.weight"}
    assert torch.equal(small.constraints["out.weight"].mask.keep, mask.keep)
    (block,) = find_blocks(subject)
    assert (block.sites, block.gone, block.parameters) == (("block.fc.weight",), (), 4)
    filled = refilled(small, Tied().eval(), tmp_path)
    assert torch.equal(filled(*small.args), freeze(small).model(*small.args))


class Shared(nn.Module):
    """A block at two paths, and one of its layers at a third, where it stays."""

    def __init__(self):
        super().__init__()
        self.block = Block(4)
        self.also = nn.ModuleList([self.block])
        self.layer = self.block.fc

    def forward(self, x):
        return self.layer(self.also[0](x))


def test_a_shared_module_goes_at_every_path_and_what_stays_of_it_stays(tmp_path):
    subject = Subject.of(Shared().eval(), torch.randn(3, 4))
    small = dropped(subject, "also.0")
    assert small.model.block is small.model.also[0]
    assert list(small.model.state_dict()) == ["layer.weight", "layer.bias"]
    (block,) = find_blocks(subject)
    assert (block.path, block.gone, block.parameters) == ("block", (), 0)
    filled = refilled(small, Shared().eval(), tmp_path)
    assert torch.equal(filled(*small.args), subject.model.layer(*small.args))


def test_counts_are_those_of_the_dropped_model():
    subject = chain()
    plan = Plan("t", edits=(Drop("blocks.0"),))
    small = apply(subject, plan)
    assert plan_cost(subject, plan) == cost_of(small)
    (first, _) = find_blocks(subject)
    assert cost_of(subject).macs - cost_of(small).macs == first.macs == 3 * 16
    assert cost_of(subject).parameters - cost_of(small).parameters == first.parameters == 20
    left = artifact.loads(artifact.dumps(to_artifact(freeze(small)))).tensors
    assert not any(name.startswith("blocks.0") for name in left)


def test_a_plan_says_what_it_drops_and_survives_saving():
    plan = Plan("t", edits=(Drop("blocks.0"),))
    assert plan.edited == ("blocks.0",)
    assert "edit Drop(module='blocks.0')" in str(plan)
    assert Plan.from_dict(*plan.to_dict()).edits == plan.edits
    assert edit_from_dict(edit_to_dict(Drop("a.b"))) == Drop("a.b")
    with pytest.raises(PlanError, match="edit drop"):
        edit_from_dict({"edit": "drop", "module": 3})


def test_replay_on_a_model_without_the_module_is_told():
    for path, message in (("nope", "no module 'nope'"), ("", "the model itself")):
        with pytest.raises(ModelError, match=message):
            perform(Chain(), Drop(path))


class Encoder(nn.Module):
    """Torch's stack of encoder layers, which gives each layer masks and reads its first layer."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.out = nn.Linear(8, 2)

    def forward(self, x, mask=None):
        return self.out(self.encoder(x, src_key_padding_mask=mask))


@pytest.mark.slow
@pytest.mark.parametrize("paths", [("1",), ("0",), ("0", "1", "2")], ids=" ".join)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_layers_of_torch_s_encoder_go(paths, masked, tmp_path):
    x = torch.randn(2, 5, 8)
    mask = torch.arange(5) >= torch.tensor([[5], [3]])
    given = (x, mask) if masked else (x,)
    subject = Subject.of(Encoder().eval(), *given)
    assert [block.path for block in find_blocks(subject)] == [f"encoder.layers.{i}" for i in range(3)]
    small = dropped(subject, *(f"encoder.layers.{i}" for i in paths))
    assert all(type(small.model.encoder.layers[int(i)]) is Passing for i in paths)
    state, reference = x, subject.model.encoder.layers
    for i in range(3):
        if str(i) not in paths:
            state = reference[i](state, src_key_padding_mask=mask if masked else None)
    seen = ~mask if masked else torch.ones(2, 5, dtype=torch.bool)
    filled = refilled(small, Encoder().eval(), tmp_path)
    assert torch.equal(filled(*given), freeze(small).model(*given))
    for fast in (True, False):  # the fused kernels run in evaluation mode without gradients only
        with torch.set_grad_enabled(not fast):
            wanted = subject.model.out(state)
            torch.testing.assert_close(small.model(*given)[seen], wanted[seen], atol=1e-5, rtol=1e-4)
    small.model.train()(*given).sum().backward()
    assert small.model.training
    if not masked:
        assert compare(filled, to_onnx(freeze(small), given), given) <= 1e-4


def test_a_cut_of_what_a_drop_took_away_is_told():
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 6)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    subject = Subject.of(nn.Sequential(Block(), Block(), nn.Linear(6, 2)), torch.randn(2, 6))
    name = next(group.name for group in subject.groups if group.size == 9)
    with pytest.raises(PlanError, match="an edit before it took"):
        apply(subject, Plan("x", edits=(Drop("0"), Cut(keep=((name, tuple(range(7))),)))))
