"""Subjects: what is found in a model, and what is refused with a name."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gossamer.errors import ModelError, PatternError
from gossamer.model import Fold, Owner, Subject, choose, find_sites


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, *, scale=None):
        y = self.right(self.left(x))
        return {"y": y, "extra": (y if scale is None else y * scale, x)}


def test_sites_are_weights_with_owners():
    sites = find_sites(Two())
    assert list(sites) == ["left.weight", "right.weight"]
    assert sites["left.weight"].owners == (Owner("left", "weight"),)
    assert (sites["left.weight"].kind, sites["left.weight"].shape) == ("linear", (4, 3))
    every = find_sites(Two(), every=True)
    assert [site.kind for site in every.values()] == ["linear", "bias", "linear", "bias"]


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        (nn.Conv1d(2, 3, 2), {"weight": "conv"}),
        (nn.ConvTranspose2d(2, 3, 2), {"weight": "conv_transpose"}),
        (nn.Embedding(3, 2), {"weight": "embedding"}),
        (nn.GRUCell(2, 3), {"weight_ih": "recurrent_input", "weight_hh": "recurrent_hidden"}),
        (
            nn.LSTM(2, 3, proj_size=1),
            {
                "weight_ih_l0": "recurrent_input",
                "weight_hh_l0": "recurrent_hidden",
                "weight_hr_l0": "recurrent_hidden",
            },
        ),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": "attention", "out_proj.weight": "linear"}),
        (nn.Bilinear(2, 3, 4), {"weight": "other"}),
        (nn.LayerNorm((2, 3)), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds(module, kinds):
    assert {name: site.kind for name, site in find_sites(module).items()} == kinds


def test_shared_module_and_tied_weight_are_one_site():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    model.append(model[0])
    model[2].weight = model[0].weight
    sites = find_sites(model)
    assert list(sites) == ["0.weight"]
    assert sites["0.weight"].names == ("0.weight", "2.weight", "3.weight")


def test_inputs_of_every_form_are_kept_apart():
    x, scale = torch.randn(2, 3), torch.tensor(2.0)
    subject = Subject.of(Two(), x, scale=scale)
    x.zero_()
    assert subject.args[0].abs().sum() > 0
    assert subject.kwargs["scale"] is not scale
    assert subject.graph.macs == 2 * (3 * 4 + 4 * 2)


def test_weights_change_for_the_subject_or_the_model_alone():
    model = nn.Linear(3, 2)
    subject = Subject.of(model, torch.zeros(1, 3))
    before = model.weight.detach().clone()
    with torch.no_grad():
        subject.model.weight.add_(1.0)
    assert torch.equal(model.weight, before)
    with torch.no_grad():
        model.weight.mul_(3.0)
        model.weight.numpy()[0] = 7.0
    assert torch.equal(subject.model.weight, before + 1.0)


def test_mode_and_random_state_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[1].eval()
    x, state = torch.randn(1, 3), torch.get_rng_state()
    subject = Subject.of(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in subject.model.modules()] == [True, True, False, True]
    assert int(subject.model[2].num_batches_tracked) == 0


def test_weights_in_other_forms_are_folded_and_recorded():
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(3, 3)), parametrizations.orthogonal(nn.Linear(3, 3)), nn.Linear(3, 3)
    )
    parametrizations.weight_norm(model[2])
    subject = Subject.of(model.eval(), torch.randn(1, 3))
    assert subject.edits == (
        Fold("parametrization", "0"),
        Fold("parametrization", "1"),
        Fold("weight_norm", "2"),
    )
    assert list(subject.sites) == ["0.weight", "1.weight", "2.weight"]
    assert all(isinstance(parameter, nn.Parameter) for parameter in subject.model.parameters())


def test_frozen_weight_norm_stays_a_frozen_parameter():
    model = parametrizations.weight_norm(nn.Linear(3, 3)).requires_grad_(requires_grad=False)
    subject = Subject.of(model, torch.randn(1, 3))
    assert isinstance(subject.model.weight, nn.Parameter)
    assert not subject.model.weight.requires_grad


def bad_weight():
    model = Two()
    with torch.no_grad():
        model.right.weight[0, 0] = math.nan
    return model


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (lambda: "a string", (), "wanted a torch.nn.Module, got str"),
        (nn.ReLU, (torch.ones(1),), "no parameters"),
        (bad_weight, (torch.ones(1, 3),), r"right\.weight: wanted finite values"),
        (lambda: nn.LazyLinear(3), (torch.ones(1, 2),), "not initialised"),
        (lambda: nn.Linear(2, 2, device="meta"), (torch.ones(1, 2),), "meta device"),
        (Two, (torch.ones(1, 5),), "Linear at left"),
        (Two, (), "do not run"),
    ],
    ids=["no module", "no parameters", "nan", "lazy", "meta", "wrong shape", "no input"],
)
def test_bad_models_are_named(make, args, message):
    with pytest.raises(ModelError, match=message):
        Subject.of(make(), *args)


def test_choose_by_patterns():
    subject = Subject.of(Two(), torch.ones(1, 3))
    assert [site.name for site in choose(subject, ("left*",), ())] == ["left.weight"]
    assert [site.name for site in choose(subject, ("*",), ("left*",))] == ["right.weight"]
    with pytest.raises(PatternError, match=r"'conv\*' matches no site.*left\.weight"):
        choose(subject, ("conv*",), ())
    with pytest.raises(PatternError, match="'nope' matches no site"):
        choose(subject, ("*",), ("nope",))
