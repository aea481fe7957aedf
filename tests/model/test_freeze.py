"""Freeze and load: hints decode to the live values, files fill fresh instances, misfits are named."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer import artifact, codings
from gossamer.errors import ArtifactError, CodingError, ModelError
from gossamer.model import (
    Codebook,
    Frozen,
    Grid,
    Loaded,
    Mask,
    Plan,
    Subject,
    apply,
    freeze,
    live_weight,
    load,
    to_artifact,
)
from gossamer.model.arrays import hint_of, to_dense, to_tensor
from gossamer.model.constraint import Constraints

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def constraints(dtype, kind):
    keep = torch.rand(6, 4) > 0.4
    rows = Grid(torch.rand(6) * 0.1 + 0.01, torch.zeros(6, dtype=torch.int32), axis=0)
    skewed = Grid(torch.rand(6) * 0.1 + 0.01, torch.arange(6), bits=4, signed=False, axis=0)
    one = Grid(torch.tensor(0.031), torch.tensor(3), bits=5, signed=False)
    wide = Grid(torch.tensor(0.00021), torch.tensor(0), bits=16)
    book = Codebook(torch.randint(0, 5, (6, 4)), torch.randn(5).to(dtype))
    return {
        "mask": Constraints(Mask(keep)),
        "empty mask": Constraints(Mask(torch.ones(6, 4, dtype=torch.bool))),
        "nothing kept": Constraints(Mask(torch.zeros(6, 4, dtype=torch.bool))),
        "codebook": Constraints(codebook=book),
        "masked codebook": Constraints(Mask(keep), book),
        "rows": Constraints(grid=rows),
        "masked rows": Constraints(Mask(keep), grid=rows),
        "masked skewed rows": Constraints(Mask(keep), grid=skewed),
        "one scale": Constraints(Mask(keep), grid=one),
        "16 bits": Constraints(grid=wide),
        "all": Constraints(Mask(keep), book, one),
    }[kind]


KINDS = [
    "mask",
    "empty mask",
    "nothing kept",
    "codebook",
    "masked codebook",
    "rows",
    "masked rows",
    "masked skewed rows",
    "one scale",
    "16 bits",
    "all",
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_hints_decode_to_the_live_value(kind, dtype):
    subject = Subject.of(nn.Linear(4, 6, dtype=dtype), torch.randn(2, 4, dtype=dtype))
    held = constraints(dtype, kind)
    result = apply(subject, Plan("t", {"weight": tuple(held)}))
    value = live_weight(result, "weight")
    assert value.dtype == dtype
    frozen = freeze(result)
    for coding in (frozen.tensors["weight"], codings.encode(frozen.tensors["weight"])):
        decoded = to_tensor(coding)
        assert decoded.dtype == dtype
        assert torch.equal(decoded.view(torch.uint8), value.view(torch.uint8)), kind
    assert torch.equal(frozen.model.weight, value)


def test_hints_say_how_values_are_made():
    original = torch.randn(6, 4)
    shared = hint_of(original, constraints(torch.float32, "masked codebook"))
    assert codings.describe(shared).startswith("sparse(dense bool, codebook(dense uint8, dense float32")
    gridded = hint_of(original, constraints(torch.float32, "rows"))
    assert isinstance(gridded, codings.Affine)
    assert gridded.axis == 0
    both = hint_of(original, constraints(torch.float32, "all"))
    assert isinstance(both, codings.Sparse)
    assert isinstance(both.values, codings.Codebook)
    assert isinstance(both.values.centers, codings.Affine)


@pytest.mark.parametrize(
    "dtype",
    [*DTYPES, torch.int64, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn],
    ids=str,
)
def test_arrays_of_every_dtype_round_trip(dtype):
    tensor = torch.tensor([[0, 1, 2], [3, -0.0, 5]]).to(dtype)
    assert torch.equal(to_tensor(to_dense(tensor)).view(torch.uint8), tensor.view(torch.uint8))
    assert to_tensor(to_dense(tensor)).dtype == dtype


def test_numbers_that_cannot_be_stored_are_refused():
    with pytest.raises(CodingError, match="complex64"):
        to_dense(torch.ones(2, dtype=torch.complex64))


class Net(nn.Module):
    """Buffers of several kinds, a tie, a frozen parameter."""

    def __init__(self, width=4):
        super().__init__()
        self.a, self.b = nn.Linear(3, width), nn.Linear(3, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.b.weight = self.a.weight
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.norm.bias.requires_grad_(requires_grad=False)

    def forward(self, x):
        return self.norm(self.a(x) + self.b(x))


def stored(tmp_path, model=None):
    subject = Subject.of(model or Net().eval(), torch.randn(5, 3))
    frozen = freeze(subject)
    artifact.save(tmp_path / "net.goss", to_artifact(frozen))
    return frozen, tmp_path / "net.goss"


def test_buffers_ties_and_training_flags_come_back(tmp_path):
    frozen, path = stored(tmp_path)
    assert isinstance(frozen, Frozen)
    assert frozen.aliases == {"b.weight": "a.weight"}
    assert "scratch" not in frozen.tensors
    fresh = Net().eval()
    fresh.b.weight = nn.Parameter(torch.zeros(4, 3))
    fresh.requires_grad_(requires_grad=False)
    filled = load(path).into(fresh)
    assert filled is fresh
    assert filled.b.weight is filled.a.weight
    assert [n for n, p in filled.named_parameters() if not p.requires_grad] == ["norm.bias"]
    for name, value in frozen.model.state_dict().items():
        assert torch.equal(filled.state_dict()[name], value), name
        assert filled.state_dict()[name].dtype == value.dtype


def test_stored_dtype_wins_over_that_of_the_instance(tmp_path):
    subject = Subject.of(nn.Linear(3, 2).half(), torch.randn(1, 3).half())
    artifact.save(tmp_path / "h.goss", to_artifact(freeze(subject)))
    assert load(tmp_path / "h.goss").into(nn.Linear(3, 2)).weight.dtype == torch.float16


class Wider(Net):
    def __init__(self):
        super().__init__(5)
        self.extra = nn.Linear(2, 2)


def test_misfits_are_all_named(tmp_path):
    _, path = stored(tmp_path)
    with pytest.raises(ModelError) as caught:
        load(path).into(Wider())
    message = str(caught.value)
    assert "the file lacks extra.bias, extra.weight" in message
    assert "a.weight has shape (5, 3) in the model and (4, 3) in the file" in message
    with pytest.raises(ModelError, match=r"the model lacks a\.bias, a\.weight"):
        load(path).into(nn.BatchNorm1d(4))


def test_a_tie_that_the_file_does_not_have_is_refused(tmp_path):
    untied = Net()
    untied.b.weight = nn.Parameter(torch.ones(4, 3))
    _, path = stored(tmp_path, untied.eval())
    with pytest.raises(ModelError, match=r"the model ties a\.weight, b\.weight"):
        load(path).into(Net())


def test_edits_of_a_file_are_checked():
    bad = artifact.Artifact({"weight": codings.Dense(np.zeros((2, 2), np.float32))}, edits=({"edit": "melt"},))
    with pytest.raises(ModelError, match="the file's edits"):
        Loaded(bad).into(nn.Linear(2, 2))
    with pytest.raises(ArtifactError):
        load("/nowhere/at/all.goss")


def test_input_grids_are_kept_beside_the_weights(tmp_path):
    subject = Subject.of(nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3))
    grid = Grid(torch.tensor(0.037), torch.tensor(12), bits=8, signed=False)
    frozen = freeze(apply(subject, Plan("t", activations={"0.weight": grid})))
    artifact.save(tmp_path / "a.goss", to_artifact(frozen))
    loaded = load(tmp_path / "a.goss")
    back = loaded.activations["0.weight"]
    assert (back.scale, back.zero, back.bits, back.signed) == (grid.scale, grid.zero, 8, False)
    x = torch.randn(4, 3)
    assert torch.equal(loaded.into(nn.Sequential(nn.Linear(3, 2)))(x), frozen.model(x))


def test_state_that_is_no_tensor_is_refused():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ModelError, match="_extra_state: wanted a tensor"):
        freeze(Subject.of(Extra(2, 2), torch.randn(1, 2)))
