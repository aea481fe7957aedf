"""Edits: the folded and the split model against the one before, and their replay on a fresh instance."""

import copy

import pytest
import torch
from awkward.networks import BY_NAME
from torch import nn

from gossamer.errors import ModelError, PlanError
from gossamer.model import Fold, Mask, Plan, Split, Subject, apply, foldable, freeze, load, to_artifact
from gossamer.model.surgery import perform, why_no_split


def subject_of(name):
    network = BY_NAME[name]
    args, kwargs = network.inputs()
    return Subject.of(network.build(), *args, **kwargs)


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("grouped convolution", Fold("batch_norm", "conv", norm="norm")),
        ("conv3d", Fold("batch_norm", "conv", norm="norm")),
        ("transposed convolution", Fold("batch_norm", "up", norm="norm")),
    ],
)
def test_batch_norm_folds_into_the_layer_before(name, fold):
    subject = subject_of(name)
    assert foldable(subject) == (fold,)
    result = apply(subject, Plan("t", edits=(fold,)))
    torch.testing.assert_close(result.model(*result.args), subject.model(*subject.args))
    assert isinstance(result.model.get_submodule("norm"), nn.Identity)
    assert not any(node.op == "aten.batch_norm" for node in result.graph.nodes)
    network = BY_NAME[name]
    frozen = freeze(result)
    fresh = network.build(seed=4)
    for edit in frozen.edits:
        perform(fresh, Fold(**{key: value for key, value in edit.items() if key != "edit"}))
    fresh.load_state_dict(frozen.model.state_dict())
    assert torch.equal(fresh(*result.args), frozen.model(*result.args))


def test_linear_without_bias_takes_a_norm_without_affine():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, affine=False)).eval()
    model[1].running_mean.uniform_()
    subject = Subject.of(model, torch.randn(5, 3))
    result = apply(subject, Plan("t", edits=foldable(subject)))
    torch.testing.assert_close(result.model(*result.args), subject.model(*subject.args))


class Norms(nn.Module):
    """A norm whose layer's output is also used, one whose layer runs twice, one whose layer's output is returned."""

    def __init__(self):
        super().__init__()
        self.used, self.twice, self.returned = (nn.Linear(3, 3) for _ in range(3))
        self.a, self.b, self.c = (nn.BatchNorm1d(3) for _ in range(3))

    def forward(self, x):
        y = self.used(x)
        x = self.a(y) + y
        x = self.b(self.twice(x)) + self.twice(x)
        z = self.returned(x)
        return self.c(z), z


def test_norms_that_cannot_fold_are_left():
    subject = Subject.of(Norms().eval(), torch.randn(4, 3))
    assert foldable(subject) == ()
    for layer, norm in (("used", "a"), ("twice", "b"), ("returned", "c")):
        with pytest.raises(PlanError, match="does not follow"):
            apply(subject, Plan("t", edits=(Fold("batch_norm", layer, norm=norm),)))


def test_constrained_layers_do_not_fold():
    subject = Subject.of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), torch.randn(5, 3))
    masked = apply(subject, Plan("t", {"0.weight": Mask(torch.rand(4, 3) > 0.5)}))
    assert foldable(subject)
    assert foldable(masked) == ()


def test_split_reaches_every_path_of_a_shared_module(tmp_path):
    network = BY_NAME["shared module"]
    subject = subject_of("shared module")
    tensors = {"first.0.weight": torch.randn(3, 8), "first.1.weight": torch.randn(8, 3)}
    result = apply(subject, Plan("t", edits=(Split("first", 3),), tensors=tensors))
    assert result.model.first is result.model.again[0]
    assert isinstance(result.model.first, nn.Sequential)
    frozen = freeze(result)
    artifact = to_artifact(frozen)
    assert artifact.aliases["again.0.0.weight"] == "first.0.weight"
    from gossamer.artifact import save

    save(tmp_path / "a.goss", artifact)
    filled = load(tmp_path / "a.goss").into(network.build(seed=3))
    assert filled.first is filled.again[0]
    assert torch.equal(filled(*result.args), frozen.model(*result.args))


def test_split_inherits_mode_dtype_and_training_flag():
    model = nn.Sequential(nn.Linear(4, 4)).double().requires_grad_(requires_grad=False).eval()
    perform(model, Split("0", 2))
    assert all(p.dtype == torch.float64 and not p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert [tuple(p.shape) for p in model.parameters()] == [(2, 4), (4, 2), (4,)]


def test_reasons_against_a_split():
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    assert "TransformerEncoderLayer reads" in why_no_split(nn.Sequential(encoder), "0.linear1")
    assert "only a plain Linear" in why_no_split(nn.Sequential(encoder), "0.self_attn.out_proj")
    assert "tied to table.weight" in why_no_split(BY_NAME["tied weights"].build(), "out")
    assert why_no_split(BY_NAME["tied weights"].build(), "mix") is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Split("nope", 1), "no module 'nope'"),
        (Split("", 1), "the model itself"),
        (Fold("weight_norm", "out"), "not re-parametrised"),
        (Fold("batch_norm", "out", norm="mix"), "not a batch norm"),
        (Fold("batch_norm", "table", norm="mix"), "not a linear layer or a convolution"),
    ],
)
def test_edits_that_fit_no_module_are_named(edit, message):
    with pytest.raises(ModelError, match=message):
        perform(BY_NAME["tied weights"].build(), edit)


def test_weight_norm_folds_to_the_same_function():
    network = BY_NAME["weight norm"]
    model = network.build()
    args, _ = network.inputs()
    subject = Subject.of(model, *args)
    assert {(edit.module, edit.attribute) for edit in subject.edits} == {
        ("old", "weight"),
        ("rnn", "weight_hh_l0"),
        ("new", "weight"),
    }
    torch.testing.assert_close(subject.model(*args), model(*args))
    assert not any("weight_g" in name or "original" in name for name in subject.model.state_dict())
    twin = copy.deepcopy(subject.model)
    torch.testing.assert_close(twin(*args), model(*args))
