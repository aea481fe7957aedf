"""Truncated SVD: ranks, factors, which layers are split and why the others are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gossamer.errors import ModelError, SettingError
from gossamer.methods.factorize import Svd
from gossamer.methods.factorize.svd import choose_rank, decompose
from gossamer.methods.prune import Magnitude
from gossamer.model import Split, Subject, apply


def test_rank_by_hand():
    S = torch.tensor([4.0, 2.0, 2.0, 1.0])  # squares 16, 4, 4, 1 of 25
    energy = [choose_rank(S, 8, 4, "energy", share) for share in (0.1, 0.64, 0.65, 0.8, 0.95, 0.97, 1.0)]
    assert energy == [1, 1, 2, 2, 3, 4, 4]
    assert choose_rank(S, 8, 4, "ratio", 0.75) == 2  # 2 (8 + 4) = 24 = 0.75 * 32
    assert choose_rank(S, 8, 4, "ratio", 0.01) == 1
    assert choose_rank(S, 8, 4, "rank", 3.0) == 3
    assert choose_rank(S, 8, 4, "rank", 30.0) == 4


def test_factors_are_exact_and_of_fixed_sign():
    torch.manual_seed(0)
    weight = torch.randn(7, 5, dtype=torch.float64)
    U, S, V = decompose(weight)
    torch.testing.assert_close(U @ S.diag() @ V, weight)
    assert bool((U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all())
    torch.testing.assert_close(decompose(weight)[0], U)


def low_rank(rank, noise=0.0):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(16, rank) @ torch.randn(rank, 20) + noise * torch.randn(16, 20))
    return net


def test_a_low_rank_layer_is_split_without_loss():
    x = torch.randn(3, 20)
    plain = Subject.of(low_rank(2), x)
    plan = Svd(amount=0.99999).plan(plain)
    assert plan.edits == (Split("0", 2),)
    assert plan.tensors["0.0.weight"].shape == (2, 20)
    assert plan.tensors["0.1.weight"].shape == (16, 2)
    assert [skip.site for skip in plan.skipped] == ["2.weight"]
    assert "in place of 64" in plan.skipped[0].reason
    split = apply(plain, plan)
    torch.testing.assert_close(split.model(x), plain.model(x), rtol=1e-4, atol=1e-4)
    assert set(split.sites) == {"0.0.weight", "0.1.weight", "2.weight"}


def test_the_error_is_that_of_the_dropped_singular_values():
    plain = Subject.of(low_rank(6, noise=0.1), torch.randn(3, 20))
    weight = plain.model[0].weight.detach()
    plan = Svd(criterion="rank", amount=3).plan(plain)
    product = plan.tensors["0.1.weight"] @ plan.tensors["0.0.weight"]
    dropped = torch.linalg.svdvals(weight)[3:]
    torch.testing.assert_close((weight - product).square().sum(), dropped.square().sum(), rtol=1e-4, atol=1e-5)


class Others(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.conv = nn.Conv1d(16, 16, 1)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.heads = nn.MultiheadAttention(16, 2, batch_first=True)
        self.read = nn.Linear(16, 16)
        self.free = nn.Linear(16, 16)
        self.pruned = nn.Linear(16, 16)
        self.decode = nn.Linear(16, 30)
        self.decode.weight = self.embed.weight

    def forward(self, tokens):
        x = self.conv(self.embed(tokens).mT).mT
        x = self.rnn(x)[0]
        x = self.heads(x, x, x)[0]
        x = F.linear(x, self.read.weight)
        return self.decode(self.pruned(self.free(x)))


def test_every_site_is_split_or_listed_with_the_reason():
    torch.manual_seed(0)
    tokens = torch.randint(30, (2, 5))
    plain = Subject.of(Others(), tokens)
    plain = apply(plain, Magnitude(sparsity=0.5, include=("pruned.weight",)).plan(plain))
    plan = Svd(criterion="ratio", amount=0.5).plan(plain)
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    assert [edit.module for edit in plan.edits] == ["free"]
    assert set(reasons) == set(plain.sites) - {"free.weight"}
    assert "kind conv" in reasons["conv.weight"]
    assert "kind recurrent_hidden" in reasons["rnn.weight_hh_l0"]
    assert "owned by embed.weight, decode.weight" in reasons["embed.weight"] or "kind" in reasons["embed.weight"]
    assert "read outside the layer" in reasons["read.weight"]
    assert "constrained" in reasons["pruned.weight"]
    assert apply(plain, plan).model(tokens).shape == (2, 5, 30)


def test_the_fast_path_of_a_transformer_layer_keeps_working():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    plain = Subject.of(layer, x)
    split = apply(plain, Svd(criterion="ratio", amount=0.5).plan(plain))
    with torch.no_grad():
        assert split.model(x).shape == x.shape


def test_all_energy_changes_nothing():
    plain = Subject.of(low_rank(2), torch.randn(3, 20))
    assert not Svd(amount=1.0).plan(plain).edits


def test_a_layer_that_is_the_model_is_left_alone():
    plan = Svd(amount=0.5).plan(Subject.of(nn.Linear(20, 20), torch.randn(2, 20)))
    assert plan.skipped[0].reason == "the layer is the whole model"


def test_bad_settings_and_weights():
    for settings in ({"amount": 0.0}, {"amount": 1.5}, {"criterion": "rank", "amount": 2.5}, {"criterion": "size"}):
        with pytest.raises(SettingError, match=r"Svd\."):
            Svd(**settings)
    plain = Subject.of(low_rank(2), torch.randn(2, 20))
    plain.model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"0\.weight: a weight is not finite"):
        Svd().plan(plain)
