"""Plans, their merging, and what apply refuses."""

import json

import pytest
import torch
from torch import nn

from gossamer.errors import PlanError
from gossamer.model import (
    Codebook,
    Fold,
    Grid,
    Mask,
    Plan,
    Skip,
    Split,
    Subject,
    apply,
    edit_from_dict,
    edit_to_dict,
    live_weight,
    retarget,
)


def subject_of(model=None, x=None):
    return Subject.of(
        model or nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3) if x is None else x
    )


def put(subject, **constraints):
    return apply(subject, Plan("t", {"0.weight": tuple(constraints.values())}))


ONE_SCALE = Grid(torch.tensor(0.1), torch.tensor(0))
ROWS = Grid(torch.full((4,), 0.1), torch.zeros(4, dtype=torch.int32), axis=0)
HALF = Mask(torch.tensor([[True, False, True]] * 4))


def book(*rows, size=2):
    return Codebook(torch.tensor(rows).expand(4, 3).clone(), torch.linspace(0.1, 0.5, size))


def test_masks_add_up():
    other = Mask(torch.tensor([[True, True, False]] * 4))
    result = put(put(subject_of(), mask=HALF), mask=other)
    assert result.constraints["0.weight"].mask.keep.tolist() == [[True, False, False]] * 4


def test_order_is_lookup_then_grid_then_mask():
    result = put(
        subject_of(), grid=ONE_SCALE, mask=HALF, codebook=Codebook(torch.zeros(4, 3).long(), torch.tensor([0.26]))
    )
    assert torch.allclose(live_weight(result, "0.weight"), torch.tensor([[0.3, 0.0, 0.3]] * 4))


def test_a_later_codebook_keeps_mask_and_grid():
    result = put(put(subject_of(), mask=HALF, grid=ONE_SCALE), codebook=book([0, 0, 1]))
    assert torch.allclose(live_weight(result, "0.weight"), torch.tensor([[0.1, 0.0, 0.5]] * 4))


def test_a_codebook_may_join_shared_values_but_not_part_them():
    once = put(subject_of(), codebook=book([0, 1, 2], size=3))
    joined = put(once, codebook=book([0, 1, 1]))
    assert live_weight(joined, "0.weight").unique().numel() == 2
    with pytest.raises(PlanError, match="part values that are shared"):
        put(put(subject_of(), codebook=book([0, 0, 1])), codebook=book([0, 1, 1]))


def test_masked_members_do_not_count_as_shared():
    once = put(subject_of(), mask=HALF, codebook=book([0, 0, 1]))
    assert put(once, codebook=book([0, 1, 1])).constraints["0.weight"].codebook.size == 2


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (book([0, 0, 1]), ROWS, "scale per channel and a codebook"),
        (ROWS, book([0, 0, 1]), "scale per channel and a codebook"),
        (Grid(torch.tensor(0.1), torch.tensor(0), bits=4), ONE_SCALE, "is on a 4-bit grid"),
        (HALF, Mask(torch.ones(3, 4, dtype=torch.bool)), r"mask of shape \(4, 3\)"),
        (HALF, Grid(torch.ones(3), torch.zeros(3), axis=0), "3 scales along axis 0"),
    ],
    ids=["rows on codebook", "codebook on rows", "finer grid", "mask shape", "grid shape"],
)
def test_what_cannot_hold_together_is_refused(first, second, message):
    once = put(subject_of(), first=first)
    with pytest.raises(PlanError, match=message):
        put(once, second=second)


def test_unknown_site_is_named():
    with pytest.raises(PlanError, match=r"no site 'nope'.*0\.weight"):
        apply(subject_of(), Plan("t", {"nope": HALF}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mask(torch.ones(2)),
        lambda: Codebook(torch.zeros(2), torch.ones(1)),
        lambda: Codebook(torch.tensor([2]), torch.ones(2)),
        lambda: Codebook(torch.tensor([-1]), torch.ones(2)),
        lambda: Codebook(torch.tensor([0]), torch.tensor([torch.nan])),
        lambda: Grid(torch.tensor(0.0), torch.tensor(0)),
        lambda: Grid(torch.ones(2), torch.zeros(2)),
        lambda: Grid(torch.tensor(1.0), torch.tensor(200)),
        lambda: Grid(torch.tensor(1.0), torch.tensor(0), bits=0),
    ],
)
def test_senseless_constraints_are_refused(make):
    with pytest.raises(PlanError):
        make()


def test_split_puts_factors_in_place():
    subject = subject_of()
    tensors = {"0.0.weight": torch.randn(2, 3), "0.1.weight": torch.randn(4, 2)}
    result = apply(subject, Plan("t", edits=(Split("0", 2),), tensors=tensors))
    x = subject.args[0]
    wanted = nn.functional.linear(x, tensors["0.1.weight"] @ tensors["0.0.weight"], subject.model[0].bias)
    torch.testing.assert_close(result.model[0](x), wanted)
    assert list(result.sites) == ["0.0.weight", "0.1.weight", "2.weight"]
    assert result.edits == (Split("0", 2),)
    assert not result.model[0].training or subject.model[0].training
    assert result.graph.macs == 2 * (2 * 3 + 4 * 2 + 4 * 2)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan("t", edits=(Split("0", 2),)), "need tensors"),
        (
            Plan("t", edits=(Split("0", 9),), tensors={"0.0.weight": torch.ones(9, 3), "0.1.weight": torch.ones(4, 9)}),
            "rank from 1 to 3",
        ),
        (
            Plan("t", edits=(Split("0", 1),), tensors={"0.0.weight": torch.ones(2, 3), "0.1.weight": torch.ones(4, 1)}),
            r"0\.0\.weight: wanted finite values of shape \(1, 3\)",
        ),
        (
            Plan("t", edits=(Split("1", 1),), tensors={"1.0.weight": torch.ones(1), "1.1.weight": torch.ones(1)}),
            "only a plain Linear",
        ),
        (
            Plan("t", edits=(Split("7", 1),), tensors={"7.0.weight": torch.ones(1), "7.1.weight": torch.ones(1)}),
            "no module '7'",
        ),
        (Plan("t", activations={"0.weight": ROWS}), "one scale for the grid of activations"),
        (Plan("t", tensors={"0.wait": torch.ones(4, 3)}), r"no parameter or buffer '0\.wait'"),
        (Plan("t", tensors={"0.weight": torch.full((4, 3), torch.nan)}), r"0\.weight: wanted finite values"),
    ],
    ids=["no factors", "rank", "shape", "kind", "path", "input grid", "new values of nothing", "new values not finite"],
)
def test_edits_that_do_not_fit_are_refused(plan, message):
    with pytest.raises(PlanError, match=message):
        apply(subject_of(), plan)


def test_new_values_come_under_the_constraints_that_hold():
    value = torch.arange(1.0, 13.0).view(4, 3)
    result = apply(put(subject_of(), mask=HALF), Plan("t", tensors={"0.weight": value, "0.bias": torch.ones(4)}))
    assert torch.equal(live_weight(result, "0.weight"), value * HALF.keep)
    assert torch.equal(result.model[0].bias, torch.ones(4))


def test_shared_values_cannot_be_given_others():
    shared = put(subject_of(), codebook=book([0, 0, 1]))
    with pytest.raises(PlanError, match="its values are shared"):
        apply(shared, Plan("t", tensors={"0.weight": torch.ones(4, 3)}))


def test_split_of_a_constrained_layer_is_refused():
    tensors = {"0.0.weight": torch.randn(1, 3), "0.1.weight": torch.randn(4, 1)}
    with pytest.raises(PlanError, match="constrained"):
        apply(put(subject_of(), mask=HALF), Plan("t", edits=(Split("0", 1),), tensors=tensors))


def test_split_of_a_weight_that_is_read_elsewhere_is_refused():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return nn.functional.linear(x, self.fc.weight)

    tensors = {"fc.0.weight": torch.randn(1, 3), "fc.1.weight": torch.randn(3, 1)}
    with pytest.raises(PlanError, match="weight"):
        apply(subject_of(Reads()), Plan("t", edits=(Split("fc", 1),), tensors=tensors))


def test_input_grid_is_simulated():
    subject = subject_of(nn.Linear(3, 2))
    grid = Grid(torch.tensor(0.5), torch.tensor(2), bits=3, signed=False)
    result = apply(subject, Plan("t", activations={"weight": grid}))
    x = torch.tensor([[-9.0, 0.3, 9.0]], requires_grad=True)
    snapped = torch.tensor([[-1.0, 0.5, 2.5]])
    torch.testing.assert_close(result.model(x), subject.model(snapped))
    torch.testing.assert_close(result.model(input=x), subject.model(snapped))
    result.model(x).sum().backward()
    assert x.grad.ne(0).tolist() == [[False, True, False]]  # beyond the ends the input is clamped
    assert list(result.activations) == ["weight"]
    again = apply(
        result, Plan("t", activations={"weight": Grid(torch.tensor(0.5), torch.tensor(2), bits=2, signed=False)})
    )
    assert again.activations["weight"].bits == 2
    assert result.activations["weight"].bits == 3


def test_input_grid_needs_a_layer_that_is_called():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    subject = subject_of(Attends(), torch.randn(2, 1, 4))
    with pytest.raises(PlanError, match="never called"):
        apply(subject, Plan("t", activations={"attention.out_proj.weight": ONE_SCALE}))
    with pytest.raises(PlanError, match="cannot be put on a grid"):
        apply(subject, Plan("t", activations={"attention.in_proj_weight": ONE_SCALE}))


def test_retarget_changes_constraints_only():
    subject = put(subject_of(), mask=HALF)
    with pytest.raises(PlanError, match="only constraints"):
        retarget(subject, Plan("t", activations={"0.weight": ONE_SCALE}))
    with pytest.raises(PlanError, match="cannot appear"):
        retarget(subject, Plan("t", {"0.weight": book([0, 0, 1])}))


def test_plan_round_trip_through_json():
    plan = Plan(
        "test",
        {"a": HALF, "b": (book([0, 1, 1]), ROWS), "c": Grid(torch.tensor(0.25), torch.tensor(3), 4, signed=False)},
        (Split("d", 3), Fold("batch_norm", "e", norm="f")),
        {"d.0.weight": torch.randn(3, 4)},
        {"a": ONE_SCALE},
        (),
        (Skip("g", "too small"),),
    )
    document, arrays = plan.to_dict()
    again = Plan.from_dict(json.loads(json.dumps(document)), arrays)
    left, right = plan.to_dict(), again.to_dict()
    assert left[0] == right[0]
    assert left[1].keys() == right[1].keys()
    assert all((left[1][name] == right[1][name]).all() for name in left[1])
    assert str(again) == str(plan)
    assert "g: skipped, too small" in str(plan)


@pytest.mark.parametrize(
    "document", [{}, {"method": "x"}, {"edits": [{"edit": "nope"}]}, {"edits": [{"edit": "split"}]}]
)
def test_damaged_plans_are_refused(document):
    whole = Plan("t").to_dict()[0]
    with pytest.raises(PlanError):
        Plan.from_dict(document if len(document) < 1 or "method" in document else whole | document, {})


def test_edits_are_plain_data():
    for edit in (Split("a", 3), Fold("weight_norm", "b"), Fold("batch_norm", "c", norm="d")):
        assert edit_from_dict(json.loads(json.dumps(edit_to_dict(edit)))) == edit


def test_plans_keep_double_precision():
    plan = Plan(
        "t",
        {"0.weight": Codebook(torch.zeros(4, 3).long(), torch.tensor([0.1], dtype=torch.float64))},
        tensors={"a": torch.tensor([0.1], dtype=torch.float64)},
    )
    again = Plan.from_dict(*plan.to_dict())
    assert again.tensors["a"].item() == 0.1
    (book_again,) = again.on("0.weight")
    assert book_again.centers.item() == 0.1
