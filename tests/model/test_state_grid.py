"""Inputs and hidden states of recurrent layers on grids, simulated step by step."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gossamer.artifact.activations import cell_of
from gossamer.errors import PlanError
from gossamer.model import Drop, Grid, Mask, Plan, Subject, apply, freeze, plain_copy
from gossamer.model.state_grid import recurrent

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
KINDS = ["RNN", "LSTM", "GRU"]
FINE = Grid(torch.tensor(2.0**-7), torch.tensor(128), bits=8, signed=False)
COARSE = Grid(torch.tensor(0.25), torch.tensor(4), bits=3, signed=False)


def states(layer, batch, *, batched=True):
    ways = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (ways, batch, layer.hidden_size) if batched else (ways, layer.hidden_size)
    parts = tuple(torch.rand(shape) - 0.5 for _ in range(2 if isinstance(layer, nn.LSTM) else 1))
    return parts if len(parts) == 2 else parts[0]


def alike(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}, {"dropout": 0.5}]
)
def test_without_grids_nothing_changes(kind, options):
    torch.manual_seed(0)
    layer = getattr(nn, kind)(4, 3, **({"num_layers": 2} | options)).eval()
    x = torch.randn(5, 6, 4)
    for first in (None, states(layer, 5 if layer.batch_first else 6)):
        alike(recurrent(layer, x, first), layer(x, first))
    for first in (None, states(layer, 0, batched=False)):
        alike(recurrent(layer, x[0], first), layer(x[0], first))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordered", [True, False])
def test_without_grids_packed_sequences_do_not_change_either(kind, ordered):
    torch.manual_seed(0)
    layer = getattr(nn, kind)(4, 3, 2, bidirectional=True)
    lengths = [5, 3, 3, 1] if ordered else [3, 1, 5, 3]
    packed = pack_padded_sequence(torch.randn(5, 4, 4), lengths, enforce_sorted=ordered)
    for first in (None, states(layer, 4)):
        (found, last), (wanted, end) = recurrent(layer, packed, first), layer(packed, first)
        alike(pad_packed_sequence(found), pad_packed_sequence(wanted))
        alike(last, end)


def test_a_relu_and_double_precision():
    torch.manual_seed(0)
    layer = nn.RNN(4, 3, nonlinearity="relu").double()
    x = torch.randn(5, 2, 4, dtype=torch.double)
    alike(recurrent(layer, x), layer(x))


def test_dropout_between_layers_only_while_training():
    torch.manual_seed(0)
    layer, x = nn.GRU(4, 3, 2, dropout=0.5), torch.randn(5, 2, 4)
    assert not torch.equal(recurrent(layer, x)[0], recurrent(layer, x)[0])
    single = nn.GRU(4, 3)
    alike(recurrent(single, x)[0], single(x)[0])


def by_hand():
    """A GRU of two units whose gates and inputs are worked out below: r and z are 1/2, n is tanh of a sum."""
    layer = nn.GRU(1, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_ih_l0[4:, 0] = torch.tensor([1.0, -2.0])
        layer.weight_hh_l0[4:] = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    return layer


def test_a_cell_worked_out():
    """x = 0.4 becomes 0.5, on steps of a quarter; the first h (0.3, -0.6) becomes (0.25, -0.5) where it is multiplied.

    n = tanh(x (1, -2) + (0.25, 0.25 - 0.5) / 2) = tanh(0.625, -1.125), and h = n / 2 + (0.3, -0.6) / 2, not snapped.
    Then h is (0.4273, -0.7046), which becomes (0.5, -0.75), and n = tanh(0.5 + 0.25, -1 - 0.125).
    """
    subject = Subject.of(by_hand(), torch.tensor([[[0.4]], [[0.4]]]))
    live = apply(subject, Plan("t", activations={"weight_ih_l0": COARSE, "weight_hh_l0": COARSE})).model
    y, last = live(torch.tensor([[[0.4]], [[0.4]]]), torch.tensor([[[0.3, -0.6]]]))
    first = torch.tanh(torch.tensor([0.625, -1.125])) / 2 + torch.tensor([0.15, -0.3])
    second = torch.tanh(torch.tensor([0.75, -1.125])) / 2 + first / 2
    alike(y[:, 0], torch.stack([first, second]))
    alike(last[0, 0], second)


def test_a_cell_state_worked_out():
    """All gates are open by a half and what is taken in is tanh 1, so c = c / 2 + 0.3808, on steps of a quarter.

    From (0.6, -2.2), which become (0.5, -1), the lowest level: 0.6308 and -0.1192 become 0.75 and 0, for -0.1192 is
    less than half a step; then 0.7558 and 0.3808 become 0.75, the highest level, and 0.5. h is half of tanh c.
    """
    layer = nn.LSTM(1, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[4:6] = 1.0
    subject = Subject.of(layer, torch.zeros(2, 1, 1))
    live = apply(subject, Plan("t", activations={cell_of("weight_hh_l0"): COARSE})).model
    y, (_, cell) = live(torch.zeros(2, 1, 1), (torch.zeros(1, 1, 2), torch.tensor([[[0.6, -2.2]]])))
    made = torch.tensor([[0.75, 0.0], [0.75, 0.5]])
    alike(y[:, 0], torch.tanh(made) / 2)
    alike(cell[0, 0], made[1])


def test_gradients_pass_but_not_beyond_the_ends():
    layer = by_hand()
    subject = Subject.of(layer, torch.zeros(2, 1, 1))
    live = apply(subject, Plan("t", activations={"weight_ih_l0": COARSE})).model
    x = torch.tensor([[[0.4]], [[9.0]]], requires_grad=True)
    live(x)[0].sum().backward()
    assert x.grad.flatten().ne(0).tolist() == [True, False]
    assert live.weight_hh_l0.grad.abs().sum() > 0


def same(found, wanted):
    return {name: str(grid) for name, grid in found.items()} == {name: str(grid) for name, grid in wanted.items()}


def subject_of(kind="GRU", **options):
    torch.manual_seed(0)
    return Subject.of(getattr(nn, kind)(4, 3, **options), torch.randn(5, 2, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_grids_stay_with_copies_constraints_and_files(kind):
    subject = subject_of(kind, num_layers=2, bidirectional=True)
    grids = dict.fromkeys(subject.sites, FINE)
    grids |= {cell_of(name): FINE for name in subject.sites if kind == "LSTM" and "weight_hh" in name}
    live = apply(subject, Plan("t", activations=grids))
    assert same(live.activations, grids)
    assert not subject.activations
    keep = torch.ones(subject.sites["weight_hh_l1"].shape, dtype=torch.bool)
    keep[0] = False
    masked = apply(live, Plan("t", constraints={"weight_hh_l1": Mask(keep)}))
    assert same(masked.activations, grids)
    x = torch.rand(5, 2, 4) - 0.5
    found = masked.model(x)[0]
    assert torch.equal(found, copy.deepcopy(masked.model)(x)[0])
    assert torch.equal(found, masked.copy().model(x)[0])
    assert not torch.equal(found, plain_copy(masked)(x)[0])
    torch.testing.assert_close(found, plain_copy(masked)(x)[0], atol=0.05, rtol=0)
    frozen = freeze(masked)
    assert same(frozen.activations, grids)
    assert not frozen.model._forward_hooks
    found.sum().backward()
    assert masked.model.parametrizations.weight_hh_l1.original.grad.abs().sum() > 0


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 4)

    def forward(self, x):
        return x + self.gru(x)[0]


def test_a_tied_matrix_has_one_grid_and_keeps_it_under_a_new_name():
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block())
    model[1].gru.weight_hh_l0 = model[0].gru.weight_hh_l0
    live = apply(Subject.of(model, torch.randn(5, 2, 4)), Plan("t", activations={"0.gru.weight_hh_l0": COARSE}))
    assert list(live.activations) == ["0.gru.weight_hh_l0"]
    x = torch.randn(5, 2, 4)
    assert not torch.equal(live.model[1](x), model[1](x))
    after = apply(live, Plan("t", edits=(Drop("0"),)))
    assert same(after.activations, {"1.gru.weight_hh_l0": COARSE})


def test_a_new_grid_takes_the_place_of_the_old_one():
    live = apply(subject_of(), Plan("t", activations={"weight_hh_l0": FINE}))
    again = apply(live, Plan("t", activations={"weight_hh_l0": COARSE}))
    assert again.activations["weight_hh_l0"].bits == 3
    assert live.activations["weight_hh_l0"].bits == 8


def test_what_cannot_be_put_on_a_grid_is_refused():
    with pytest.raises(PlanError, match="projects its states"):
        apply(subject_of("LSTM", proj_size=2), Plan("t", activations={"weight_hh_l0": FINE}))
    with pytest.raises(PlanError, match="neither an input nor a state"):
        apply(subject_of(), Plan("t", activations={"bias_hh_l0": FINE}))
    trained = Grid(torch.tensor(0.1), torch.tensor(0), trained=True)
    with pytest.raises(PlanError, match="does not train"):
        apply(subject_of(), Plan("t", activations={"weight_hh_l0": trained}))
    cell = Subject.of(nn.GRUCell(4, 3), torch.randn(2, 4))
    with pytest.raises(PlanError, match=r"wanted weight_hh of an nn\.LSTM"):
        apply(subject_of("GRU"), Plan("t", activations={cell_of("weight_hh_l0"): FINE}))
    with pytest.raises(PlanError, match=r"wanted weight_hh of an nn\.LSTM"):
        apply(subject_of("LSTM"), Plan("t", activations={cell_of("weight_ih_l0"): FINE}))
    with pytest.raises(PlanError, match="GRUCell"):
        apply(cell, Plan("t", activations={"weight_hh": FINE}))
