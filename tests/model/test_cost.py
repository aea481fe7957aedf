"""Costs by hand, and predictions against what comes true."""

import pytest
import torch
from torch import nn

from gossamer.errors import PlanError
from gossamer.model import Codebook, Grid, Mask, Plan, Split, Subject, apply, cost_of, plan_cost


@pytest.fixture
def subject():
    return Subject.of(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 6))


def test_a_plain_model(subject):
    cost = cost_of(subject)
    assert (cost.parameters, cost.dense_bytes) == (48 + 8 + 32 + 4, 4 * 92)
    assert (cost.macs, cost.used_macs) == (2 * 80, 2 * 80)
    assert (cost.nonzeros, cost.bits) == (80, 32 * 80)
    assert cost.activation_bytes == 4 * 2 * (8 + 8 + 4)


def test_a_plan_is_costed_before_it_is_applied(subject):
    keep = torch.zeros(8, 6, dtype=torch.bool)
    keep[:, :3] = True
    plan = Plan("t", {"0.weight": Mask(keep)})
    cost = plan_cost(subject, plan)
    assert cost.sites["0.weight"].nonzeros == 24
    assert cost.used_macs == 2 * (24 + 32)
    assert cost == cost_of(apply(subject, plan))
    assert cost_of(subject).nonzeros == 80


def test_bits_of_shared_and_quantized_weights(subject):
    keep = torch.zeros(8, 6, dtype=torch.bool)
    keep[0] = True
    book = Codebook(torch.arange(48).view(8, 6) % 5, torch.linspace(0.1, 1, 5))
    grid = Grid(torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int32), bits=8, axis=0)
    cost = plan_cost(subject, Plan("t", {"0.weight": (Mask(keep), book), "2.weight": grid}))
    assert cost.sites["0.weight"].bits == 6 * 3 + 5 * 32
    assert cost.sites["2.weight"].bits == 32 * 8 + 4 * 64


def test_a_split_is_costed(subject):
    plan = Plan("t", edits=(Split("0", 2),), tensors={"0.0.weight": torch.randn(2, 6), "0.1.weight": torch.randn(8, 2)})
    cost, after = plan_cost(subject, plan), cost_of(apply(subject, plan))
    assert (cost.macs, cost.parameters, cost.dense_bytes) == (2 * (12 + 16 + 32), after.parameters, after.dense_bytes)
    assert cost.sites == after.sites


def test_tied_weights_count_once_and_work_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    cost = cost_of(Subject.of(Tied(), torch.randn(1, 4)))
    assert (cost.parameters, cost.macs, cost.sites["a.weight"].macs) == (16, 32, 32)


def test_recurrent_sites_share_their_operator():
    cost = cost_of(Subject.of(nn.GRU(3, 4), torch.randn(5, 2, 3)))
    assert cost.sites["weight_ih_l0"].macs == 10 * 36
    assert cost.sites["weight_hh_l0"].macs == 10 * 48


def test_unknown_sites_and_graphs(subject):
    with pytest.raises(PlanError, match="no site 'nope'"):
        plan_cost(subject, Plan("t", {"nope": Mask(torch.ones(1, dtype=torch.bool))}))

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else x

    cost = cost_of(Subject.of(Branches(), torch.ones(1, 3)))
    assert (cost.macs, cost.used_macs, cost.sites["fc.weight"].macs, cost.parameters) == (None, None, None, 8)


def test_codewords_that_a_cut_went_through_cost_a_code_for_each_value():
    subject = Subject.of(nn.Linear(3, 4, bias=False), torch.zeros(1, 3))
    codes = torch.tensor([[0, 1, 0], [2, 3, 2], [0, 1, 0], [2, 3, 2]])  # the last column of four is gone
    book = Codebook(codes, torch.tensor([1.0, 2.0, 3.0, 4.0]), width=2)
    cost = cost_of(apply(subject, Plan("t", {"weight": book})))
    assert cost.sites["weight"].bits == 12 * 2 + 4 * 32
