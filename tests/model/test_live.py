"""Live constraints hold at each forward pass while training moves what they leave free."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gossamer.errors import PlanError
from gossamer.model import (
    Codebook,
    Cut,
    Grid,
    Hash,
    Mask,
    Plan,
    Subject,
    apply,
    live_weight,
    plain_copy,
    retarget,
    trainable,
)

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")

LAYERS = {
    "rnn": (nn.RNN, {}),
    "stacked lstm": (nn.LSTM, {"num_layers": 2}),
    "bidirectional gru": (nn.GRU, {"bidirectional": True}),
    "projected lstm": (nn.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    "batch-first gru": (nn.GRU, {"batch_first": True, "num_layers": 2}),
}


class Sequence(nn.Module):
    def __init__(self, kind, settings, packed):
        super().__init__()
        self.layer, self.packed = kind(3, 4, **settings), packed

    def forward(self, x):
        if not self.packed:
            return self.layer(x)[0]
        lengths = torch.tensor([4, 2]) if self.layer.batch_first else torch.tensor([5, 1, 3, 2])
        packed = pack_padded_sequence(x, lengths, batch_first=self.layer.batch_first, enforce_sorted=False)
        return self.layer(packed)[0].data


def subject_of(layer="batch-first gru", *, packed=False, frozen=False):
    kind, settings = LAYERS[layer]
    model = Sequence(kind, settings, packed).requires_grad_(not frozen)
    x = torch.randn(2, 4, 3) if settings.get("batch_first") else torch.randn(5, 4, 3)
    return Subject.of(model, x)


def masks(subject):
    return {name: Mask(torch.rand(site.shape) > 0.4) for name, site in subject.sites.items()}


def codebooks(subject, size=3):
    return {
        name: Codebook(torch.randint(0, size, site.shape), torch.linspace(-0.5, 0.6, size))
        for name, site in subject.sites.items()
    }


def grids(subject):
    return {
        name: Grid(torch.full(site.shape[:1], 0.01), torch.zeros(site.shape[0], dtype=torch.int32), axis=0)
        for name, site in subject.sites.items()
    }


def step(subject, optimizer):
    optimizer.zero_grad()
    subject.model(*subject.args).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("layer", LAYERS)
def test_recurrent_layers_train_under_a_mask(layer, packed):
    subject = subject_of(layer, packed=packed)
    plan = Plan("t", masks(subject))
    result = apply(subject, plan)
    optimizer = torch.optim.Adam(result.model.parameters(), lr=0.1)
    before = result.model(*result.args)
    start = {name: live_weight(result, name).clone() for name in result.sites}
    for _ in range(3):
        step(result, optimizer)
        for name in result.sites:
            assert not live_weight(result, name)[~plan.constraints[name].keep].any()
    for name in result.sites:
        kept = plan.constraints[name].keep
        moved = live_weight(result, name)[kept] != start[name][kept]
        assert moved.float().mean() > 0.5, name  # a unit that the masks cut off has no gradient
    assert not torch.equal(result.model(*result.args), before)


@pytest.mark.parametrize("layer", LAYERS)
def test_recurrent_layers_train_shared_centers(layer):
    subject = subject_of(layer)
    result = apply(subject, Plan("t", codebooks(subject)))
    optimizer = torch.optim.SGD(result.model.parameters(), lr=0.05)
    start = {name: live_weight(result, name).clone() for name in result.sites}
    step(result, optimizer)
    for name in result.sites:
        assert live_weight(result, name).unique().numel() == 3
        assert not torch.equal(live_weight(result, name), start[name])


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("layer", LAYERS)
def test_recurrent_layers_train_hashed(layer, packed):
    subject = subject_of(layer, packed=packed)
    plan = Plan("t", {name: Hash(torch.linspace(-0.5, 0.6, 3), 2, site.shape) for name, site in subject.sites.items()})
    result = apply(subject, plan)
    start = {name: live_weight(result, name).clone() for name in result.sites}
    step(result, torch.optim.SGD(result.model.parameters(), lr=0.05))
    for name in result.sites:
        assert live_weight(result, name).abs().unique().numel() <= 3
        assert not torch.equal(live_weight(result, name), start[name])


@pytest.mark.parametrize("layer", LAYERS)
def test_recurrent_layers_train_on_a_grid(layer):
    subject = subject_of(layer)
    plan = Plan("t", grids(subject))
    result = apply(subject, plan)
    optimizer = torch.optim.Adam(result.model.parameters(), lr=0.1)
    start = {name: live_weight(result, name).clone() for name in result.sites}
    step(result, optimizer)
    for name in result.sites:
        value = live_weight(result, name)
        assert torch.equal(plan.constraints[name].snap(value), value)
        assert not torch.equal(value, start[name])


def test_the_kernel_sees_the_constrained_weight():
    """The reference is a plain GRU that holds the masked values."""
    subject = subject_of()
    plan = Plan("t", masks(subject))
    result = apply(subject, plan)
    reference = copy.deepcopy(subject.model)
    with torch.no_grad():
        for name, mask in plan.constraints.items():
            parameter = reference.get_parameter(name)
            parameter.copy_(torch.where(mask.keep, parameter, 0))
    torch.testing.assert_close(result.model(*result.args), reference(*result.args))
    with torch.no_grad():
        trainable(result, "layer.weight_hh_l0").mul_(2)
        reference.layer.weight_hh_l0.mul_(2)
    torch.testing.assert_close(result.model(*result.args), reference(*result.args))


def test_center_gradient_is_the_sum_over_members():
    model = nn.Linear(3, 2, bias=False)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    subject = Subject.of(model, x)
    codes = torch.tensor([[0, 1, 0], [1, 1, 0]])
    result = apply(subject, Plan("t", {"weight": Codebook(codes, torch.tensor([0.5, -0.5]))}))
    result.model(x).sum().backward()
    # d sum(y) / dW = x in both rows: center 0 has members 1, 3, 3 and center 1 has 2, 1, 2
    assert trainable(result, "weight").grad.tolist() == [7.0, 5.0]
    masked = apply(result, Plan("t", {"weight": Mask(torch.tensor([[False, True, True], [True, False, True]]))}))
    trainable(masked, "weight").grad = None
    masked.model(x).sum().backward()
    assert trainable(masked, "weight").grad.tolist() == [6.0, 3.0]


def test_bucket_gradient_is_the_signed_sum_over_members():
    model = nn.Linear(3, 2, bias=False)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    hashed = Hash(torch.tensor([0.5, -0.25]), 6, (2, 3))
    result = apply(Subject.of(model, x), Plan("t", {"weight": hashed}))
    codes, flipped = hashed.places
    # d sum(y) / dW = x in both rows
    wanted = [0.0, 0.0]
    for i in range(2):
        for j in range(3):
            sign = -1 if flipped[i, j] else 1
            wanted[codes[i, j]] += sign * float(x[0, j])
            assert live_weight(result, "weight")[i, j] == sign * hashed.buckets[codes[i, j]]
    result.model(x).sum().backward()
    assert trainable(result, "weight").grad.tolist() == wanted
    assert [p.shape for p in result.model.parameters() if p.requires_grad] == [(2,)]
    keep = torch.tensor([[False, True, True], [True, False, True]])
    masked = apply(result, Plan("t", {"weight": Mask(keep)}))
    masked.model(x).sum().backward()
    signs = torch.where(flipped, -1.0, 1.0) * x * keep
    assert trainable(masked, "weight").grad.tolist() == [float(signs[codes == k].sum()) for k in range(2)]


def test_the_grid_of_a_hashed_site_is_symmetric():
    """-1.7 is nearest to the code -2, which has no counterpart among two bits, so it stops at -1."""
    hashed = Hash(torch.tensor([-1.7, 0.6]), 0, (3, 4))
    grid = Grid(torch.tensor(1.0), torch.tensor(0), bits=2)
    result = apply(Subject.of(nn.Linear(4, 3), torch.ones(1, 4)), Plan("t", {"weight": (hashed, grid)}))
    codes, flipped = hashed.places
    snapped = torch.tensor([-1.0, 1.0])[codes]
    assert torch.equal(live_weight(result, "weight"), torch.where(flipped, -snapped, snapped))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("hash", Codebook(torch.zeros(3, 4, dtype=torch.int64), torch.ones(1)), "its values are hashed, a codebook"),
        ("hash", Hash(torch.ones(2), 1, (3, 4)), "hashed already, another hash would part them"),
        ("hash", Hash(torch.ones(2), 0, (4, 3)), r"wanted a hash of shape \(3, 4\), got \(4, 3\)"),
        ("hash", Grid(torch.ones(3), torch.zeros(3), axis=0), "a hash and a grid that is not symmetric"),
        ("hash", Grid(torch.tensor(1.0), torch.tensor(3), signed=False), "a hash and a grid that is not symmetric"),
        ("grid", Hash(torch.ones(2), 0, (3, 4)), "a hash and a grid that is not symmetric"),
        ("codebook", Hash(torch.ones(2), 0, (3, 4)), "its values are shared, a hash would part them"),
    ],
)
def test_what_a_hash_does_not_go_with_is_refused(first, second, message):
    held = {
        "hash": Hash(torch.ones(2), 0, (3, 4)),
        "grid": Grid(torch.ones(3), torch.zeros(3), axis=0),
        "codebook": Codebook(torch.zeros(3, 4, dtype=torch.int64), torch.ones(1)),
    }[first]
    subject = apply(Subject.of(nn.Linear(4, 3), torch.ones(1, 4)), Plan("t", {"weight": held}))
    with pytest.raises(PlanError, match=message):
        apply(subject, Plan("t", {"weight": second}))


def test_a_hash_cannot_appear_during_training():
    subject = Subject.of(nn.Linear(4, 3), torch.ones(1, 4))
    plan = Plan("t", {"weight": Hash(torch.ones(2), 0, (3, 4))})
    with pytest.raises(PlanError, match="a hash cannot appear during training"):
        retarget(subject, plan)
    live = apply(subject, plan)
    retarget(live, Plan("t", {"weight": Hash(torch.full((2,), 3.0), 0, (3, 4))}))
    assert bool((live_weight(live, "weight").abs() == 3).all())
    with pytest.raises(PlanError, match="its values are shared"):
        apply(live, Plan("t", tensors={"weight": torch.ones(3, 4)}))


def test_units_of_a_hashed_site_cannot_be_cut():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    subject = Subject.of(model, torch.ones(1, 4))
    assert [group.stuck for group in subject.groups if group.name == "0"] == [""]
    hashed = apply(subject, Plan("t", {"2.weight": Hash(torch.ones(2), 0, (2, 6))}))
    with pytest.raises(PlanError, match=r"0: cannot be cut: 2.weight is hashed by position"):
        apply(hashed, Plan("t", edits=(Cut((("0", (0, 1)),)),)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"buckets": torch.ones(2, 2)},
        {"buckets": torch.ones(0)},
        {"buckets": torch.ones(2, dtype=torch.int64)},
        {"buckets": torch.tensor([1.0, float("nan")])},
        {"seed": -1},
        {"seed": 1 << 32},
    ],
)
def test_a_hash_checks_its_parts(wrong):
    with pytest.raises(PlanError, match=next(iter(wrong))):
        Hash(**{"buckets": torch.ones(2), "seed": 0, "shape": (3, 4), **wrong})


def test_grid_passes_gradients_straight_through():
    subject = Subject.of(nn.Linear(3, 1, bias=False), torch.tensor([[1.0, 2.0, 3.0]]))
    grid = Grid(torch.tensor(0.25), torch.tensor(3), bits=3, signed=False)
    result = apply(subject, Plan("t", {"weight": grid}))
    result.model(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert trainable(result, "weight").grad.tolist() == [[1.0, 2.0, 3.0]]


def test_grid_by_hand():
    grid = Grid(torch.tensor(0.5), torch.tensor(1), bits=2, signed=False)
    values = torch.tensor([-2.0, -0.3, 0.25, 0.75, 0.8, 9.0])
    # codes round(v / 0.5) + 1, halves to even, clamped to 0..3
    assert grid.quantize(values).tolist() == [0, 0, 1, 3, 3, 3]
    assert grid.snap(values).tolist() == [-0.5, -0.5, 0.0, 1.0, 1.0, 1.0]


def test_tied_weight_is_one_parameter_for_the_optimizer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)
            self.out.weight = self.table.weight

        def forward(self, tokens):
            return self.out(self.table(tokens))

    subject = Subject.of(Tied(), torch.tensor([[0, 1, 4]]))
    assert subject.sites["table.weight"].names == ("table.weight", "out.weight")
    result = apply(subject, Plan("t", {"table.weight": Mask(torch.rand(5, 4) > 0.5)}))
    assert len(list(result.model.parameters())) == 2
    result = apply(result, Plan("t", {"table.weight": Codebook(torch.zeros(5, 4, dtype=torch.int64), torch.ones(1))}))
    assert [p.shape for p in result.model.parameters() if p.requires_grad] == [(1,), (5,)]
    assert torch.equal(result.model.table.weight, result.model.out.weight)


def test_frozen_parameters_stay_frozen():
    subject = subject_of(frozen=True)
    result = apply(apply(subject, Plan("t", masks(subject))), Plan("t", codebooks(subject)))
    assert not any(parameter.requires_grad for parameter in result.model.parameters())
    assert not any(parameter.requires_grad for parameter in plain_copy(result).parameters())


def test_untrained_codebook_does_not_move():
    subject = Subject.of(nn.Linear(3, 2), torch.ones(1, 3))
    book = Codebook(torch.tensor([[0, 1, 0], [1, 1, 0]]), torch.tensor([0.5, -0.5]), trained=False)
    result = apply(subject, Plan("t", {"weight": book}))
    assert [p.shape for p in result.model.parameters() if p.requires_grad] == [(2,)]
    assert not result.constraints["weight"].codebook.trained


def test_copies_are_independent_of_each_other():
    """A parametrized copy must not share its class with the original: undoing one would break the other."""
    subject = subject_of()
    result = apply(subject, Plan("t", masks(subject)))
    before = result.model(*result.args)
    twin = result.copy()
    plain_copy(twin)
    apply(twin, Plan("t", codebooks(subject)))
    with torch.no_grad():
        trainable(twin, "layer.weight_hh_l0").zero_()
    assert torch.equal(result.model(*result.args), before)
    again = copy.deepcopy(result.model)
    torch.testing.assert_close(again(*result.args), before)
    assert type(plain_copy(result).layer) is nn.GRU


def test_deepcopy_after_a_change_of_dtype():
    subject = subject_of()
    result = apply(subject, Plan("t", masks(subject)))
    result.model.double()
    twin = copy.deepcopy(result.model)
    assert twin(result.args[0].double()).dtype == torch.float64


def test_state_dict_of_a_constrained_model_round_trips():
    subject = subject_of()
    plan = Plan("t", masks(subject))
    left, right = apply(subject, plan), apply(subject, Plan("t", masks(subject)))
    step(left, torch.optim.SGD(left.model.parameters(), lr=0.1))
    right.model.load_state_dict(left.model.state_dict())
    assert torch.equal(left.model(*left.args), right.model(*right.args))


def test_an_exception_in_the_forward_pass_leaves_no_trace():
    subject = subject_of()
    result = apply(subject, Plan("t", masks(subject)))
    before = result.model(*result.args)
    with pytest.raises((RuntimeError, ValueError)):
        result.model(torch.randn(2, 4, 9))
    assert torch.equal(copy.deepcopy(result.model)(*result.args), before)


def test_retarget_keeps_the_optimizer_working():
    subject = Subject.of(nn.Linear(4, 4), torch.randn(2, 4))
    result = apply(subject, Plan("t", {"weight": Mask(torch.ones(4, 4, dtype=torch.bool))}))
    optimizer = torch.optim.SGD(result.model.parameters(), lr=0.1)
    original = trainable(result, "weight")
    retarget(result, Plan("t", {"weight": Mask(torch.eye(4, dtype=torch.bool))}))
    assert trainable(result, "weight") is original
    start = live_weight(result, "weight").clone()
    result.model(*result.args).square().sum().backward()
    optimizer.step()
    moved = live_weight(result, "weight")
    assert moved.count_nonzero() <= 4
    assert not torch.equal(moved, start)


def test_parameter_order_is_that_of_the_plain_model():
    subject = subject_of("projected lstm")
    result = apply(subject, Plan("t", dict(reversed(masks(subject).items()))))
    assert list(plain_copy(result).state_dict()) == list(subject.model.state_dict())
