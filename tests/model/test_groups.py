"""Grids with a scale for each group of values: live, frozen, in a file, under masks, and what they forbid."""

import pytest
import torch
from torch import nn

from gossamer import artifact, codings
from gossamer.errors import PlanError
from gossamer.model import Grid, Mask, Plan, Subject, apply, freeze, live_weight, load, to_artifact
from gossamer.targets import lower_artifact

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MODELS = {
    "linear": lambda: (nn.Linear(8, 6), (6, 8), torch.randn(2, 8)),
    "conv": lambda: (nn.Conv2d(4, 6, 2), (6, 4, 2, 2), torch.randn(1, 4, 3, 3)),
    "lstm": lambda: (nn.LSTM(8, 2), (8, 8), torch.randn(3, 1, 8)),
    "embedding": lambda: (nn.Embedding(5, 8), (5, 8), torch.tensor([[0, 4]])),
}


def grid(rows: int, groups: int = 4, *, skewed: bool = False) -> Grid:
    scale = torch.rand(rows, groups) * 0.1 + 0.01
    zero = torch.randint(0, 16, (rows, groups)) if skewed else torch.zeros(rows, groups)
    return Grid(scale, zero, bits=4, signed=not skewed, axis=0)


def test_two_groups_of_two_by_hand():
    one = Grid(torch.tensor([[0.5, 2.0]]), torch.tensor([[0, 1]]), bits=3, signed=True, axis=0)
    values = torch.tensor([[0.7, -9.0, 3.1, 99.0]])
    # 1.4 -> 1, clamped to -4; 1.55 + 1 -> 3 (half to even of 2.55 is 3), clamped to 3, minus the zero 1 is 2.
    assert one.quantize(values).tolist() == [[1, -4, 3, 3]]
    assert one.snap(values).tolist() == [[0.5, -2.0, 4.0, 4.0]]
    assert one.groups == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("skewed", [False, True])
def test_hints_decode_to_the_live_value(dtype, masked, skewed):
    subject = Subject.of(nn.Linear(8, 6, dtype=dtype), torch.randn(2, 8, dtype=dtype))
    held = (grid(6, skewed=skewed), *([Mask(torch.rand(6, 8) > 0.4)] if masked else []))
    result = apply(subject, Plan("t", {"weight": held}))
    frozen = freeze(result)
    value = live_weight(result, "weight")
    assert torch.equal(frozen.model.weight, value)
    again = Plan.from_dict(*Plan("t", {"weight": held}).to_dict())
    assert torch.equal(live_weight(apply(subject, again), "weight"), value)


@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_equal_bits(name, tmp_path):
    model, shape, x = MODELS[name]()
    subject = Subject.of(model.eval(), x)
    site = next(name for name in subject.sites if "weight" in name)
    assert subject.sites[site].shape == shape
    result = apply(subject, Plan("t", {site: grid(shape[0])}))
    frozen = freeze(result)
    for tree in (frozen.tensors[site], codings.encode(frozen.tensors[site], structured=True)):
        assert isinstance(tree, codings.Reshape)
    artifact.save(tmp_path / "a.goss", to_artifact(frozen))
    filled = load(tmp_path / "a.goss").into(MODELS[name]()[0])
    assert torch.equal(filled.get_parameter(site), live_weight(result, site))


def test_the_target_multiplies_it_in_floats_and_says_so():
    from gossamer.targets import OnnxRuntime, frozen_graph

    subject = Subject.of(nn.Linear(8, 6).eval(), torch.randn(2, 8))
    inputs = Grid(torch.tensor(0.02), torch.tensor(128), 8, signed=False)
    live = apply(subject, Plan("t", {"weight": grid(6)}, activations={"weight": inputs}))
    frozen = freeze(live)
    stored = to_artifact(frozen, graph=frozen_graph(frozen, subject.args))
    lowered = lower_artifact(stored)
    assert [str(reason) for reason in lowered.reasons] == ["weight: it has a scale for each group of values in a row"]
    got = OnnxRuntime().run(stored, {"input": subject.args[0].numpy()})
    with torch.no_grad():
        wanted = live.model(*subject.args)
    torch.testing.assert_close(torch.from_numpy(next(iter(got.values()))), wanted)


def test_groups_that_do_not_fill_the_rows_are_refused():
    subject = Subject.of(nn.Linear(8, 6), torch.randn(2, 8))
    with pytest.raises(PlanError, match="not 3 equal groups"):
        apply(subject, Plan("t", {"weight": grid(6, 3)}))
    with pytest.raises(PlanError, match="5 scales along axis 0 do not fit"):
        apply(subject, Plan("t", {"weight": grid(5)}))
    with pytest.raises(PlanError, match="wanted scale and zero 1-d and alike"):
        Grid(torch.ones(2, 2), torch.zeros(2, 2), axis=1)


def test_its_units_cannot_be_cut():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    subject = apply(Subject.of(model, torch.randn(2, 4)), Plan("t", {"2.weight": grid(3)}))
    assert "2.weight has scales by position" in {group.stuck for group in subject.groups}
