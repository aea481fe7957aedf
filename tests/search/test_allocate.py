"""The knapsack against brute force, and scans on a tiny network."""

import itertools
import json

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gossamer.errors import RecipeError, SettingError
from gossamer.figure import encode
from gossamer.methods.prune import Blocks, Magnitude, Units
from gossamer.model import Subject, apply
from gossamer.recipe import Recipe
from gossamer.search import Choice, allocate, load_scan, really_left, recipe_of, scan, spread
from gossamer.search.plot import plot
from gossamer.task import Task


def best(choices, budget):
    """Return the least sum of losses of all combinations within the budget."""
    sums = [(sum(c.loss for c in each), sum(c.cost for c in each)) for each in itertools.product(*choices.values())]
    return min(loss for loss, cost in sums if cost <= budget)


def test_a_case_by_hand():
    choices = {
        "a": [Choice(0.0, 0.0, 10.0), Choice(0.5, 1.0, 5.0), Choice(0.9, 5.0, 1.0)],
        "b": [Choice(0.0, 0.0, 10.0), Choice(0.5, 0.2, 5.0), Choice(0.9, 0.5, 1.0)],
    }
    assert {name: one.strength for name, one in allocate(choices, 11.0).items()} == {"a": 0.0, "b": 0.9}
    assert {name: one.strength for name, one in allocate(choices, 6.0).items()} == {"a": 0.5, "b": 0.9}
    assert {name: one.strength for name, one in allocate(choices, 20.0).items()} == {"a": 0.0, "b": 0.0}
    with pytest.raises(RecipeError, match="cheapest choices sum up to 2"):
        allocate(choices, 1.5)


convex = st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(convex, min_size=2, max_size=4), st.floats(0.1, 0.95))
def test_within_one_choice_of_brute_force(slopes, share):
    choices = {}
    for number, each in enumerate(slopes):
        losses = np.concatenate([[0.0], np.cumsum(np.sort(each))])
        choices[str(number)] = [Choice(k / 4, float(losses[k]), 4.0 - k) for k in range(4)]
    budget = len(choices) + share * 3 * len(choices)
    taken = allocate(choices, budget)
    loss, cost = sum(one.loss for one in taken.values()), sum(one.cost for one in taken.values())
    assert cost <= budget
    step = max(max(each) for each in slopes)
    assert loss <= best(choices, budget) + step + 1e-9


def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator)
    return Task.classification("toy", (x, (x[:, 0] + x[:, 1] > 0).long()))


def trained():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2))


@pytest.fixture
def subject():
    return Subject.of(trained(), torch.randn(1, 6))


def test_a_scan_continues_and_turns_into_a_recipe(subject, tmp_path):
    path = tmp_path / "scan.json"
    method = Magnitude(sparsity=0.5)
    whole = scan(subject, task(), method, strengths=(0.5, 0.9), path=path)
    assert whole.by == "site"
    assert len(whole.entries) == 2 * len(subject.sites)
    assert all(entry.bytes < whole.start.bytes for entry in whole.entries)
    document = json.loads(path.read_text())
    document["entries"] = document["entries"][:3]
    path.write_text(json.dumps(document))
    assert scan(subject, task(), method, strengths=(0.5, 0.9), path=path) == whole == load_scan(path)
    with pytest.raises(RecipeError, match="another model, task, method or setting"):
        scan(subject, task(), method, strengths=(0.5,), path=path)
    strengths = spread(whole, 0.7)
    recipe = recipe_of(whole, strengths)
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    pruned = subject
    for step in recipe.steps:
        pruned = apply(pruned, step.method.plan(pruned))
    for name, strength in strengths.items():
        zeros = float((~pruned.constraints[name].mask.keep).float().mean())
        assert abs(zeros - strength) < 0.02


@pytest.mark.slow
def test_units_are_scanned_by_groups_and_time_is_measured_in_turns(subject, tmp_path):
    from gossamer.targets import OnnxRuntime

    found = scan(
        subject,
        task(),
        Units(amount=0.5, of="units", criterion="l2", repair=False),
        strengths=(0.5,),
        target=OnnxRuntime(threads=1),
    )
    assert found.by == "group"
    assert found.names == ("0", "2")
    assert all(entry.macs < found.start.macs and min(entry.milliseconds) > 0 for entry in found.entries)
    keep = spread(found, 0.7, "macs")
    assert set(keep.values()) <= {0.5}
    assert set(spread(found, 1.0, "milliseconds")) <= {"0", "2"}
    plot(found, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 1000


class Projected(nn.Module):
    """Makes two groups, hidden units and what they are projected to, so their names are of tensors: ``…[0]``."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 12, proj_size=4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x[:, None])[0][:, -1])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_part_whose_name_has_brackets_is_allocated():
    subject = Subject.of(Projected(), torch.randn(1, 6))
    method = Units(amount=0.5, of="units", criterion="l2", repair=False)
    found = scan(subject, task(), method, strengths=(0.5,), samples=20)
    assert any("[" in name for name in found.names)
    (step,) = recipe_of(found, dict.fromkeys(found.names, 0.5)).steps
    (cut,) = step.method.plan(subject).edits
    assert {name for name, _ in cut.keep} == set(found.names)


class Residual(nn.Module):
    """x + w·x."""

    def __init__(self, weight):
        super().__init__()
        self.fc = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.fc.weight, weight)

    def forward(self, x):
        return x + self.fc(x)


def test_blocks_are_scanned_whole_and_allocated():
    # the target is 9 x; with all three blocks 2 · 1.5 · 3 = 9, without one 4.5, 6 or 3: errors 4.5 x, 3 x, 6 x
    x = torch.ones(40, 1)
    nine = Task.regression("nine", (x, 9 * x))
    subject = Subject.of(nn.Sequential(*map(Residual, (1.0, 0.5, 2.0))), x[:1])
    found = scan(subject, nine, Blocks(amount=0.1))
    assert (found.by, found.settings["of"]) == ("block", "blocks")
    assert [(one.name, one.strength, one.macs) for one in found.entries] == [(name, 1.0, 2) for name in "012"]
    assert [one.loss for one in found.entries] == pytest.approx([4.5**2, 3.0**2, 6.0**2])
    taken = spread(found, 0.67, "macs", exact=really_left(found, subject, nine, "macs"))
    assert taken == {"1": 1.0}
    (step,) = recipe_of(found, {"0": 1.0, "1": 1.0}).steps
    assert [edit.module for edit in step.method.plan(subject).edits] == ["0", "1"]
    assert scan(subject, nine, Blocks(amount=0.1, exclude=("0.*",))).names == ("1", "2")
    assert scan(subject, nine, Blocks(amount=0.1, blocks=("[02]",))).names == ("0", "2")


def test_what_a_scan_of_blocks_cannot_do_is_told(subject):
    with pytest.raises(SettingError, match=r"prune\.blocks: a block goes whole or stays, .* cannot try 0\.5"):
        scan(subject, task(), Blocks(amount=0.5), strengths=(0.5,))
    with pytest.raises(SettingError, match=r"prune\.blocks: the model has no block that could be scanned"):
        scan(subject, task(), Blocks(amount=0.5))


def test_what_was_not_measured_cannot_be_spread(subject):
    found = scan(subject, task(), Magnitude(sparsity=0.5), strengths=(0.5,))
    with pytest.raises(RecipeError, match="did not measure time"):
        spread(found, 0.9, "milliseconds")


@pytest.mark.slow
def test_savings_that_do_not_add_up_are_corrected(subject):
    """Units of neighbouring layers meet in one weight: cutting both saves less than the sum."""
    method = Units(amount=0.5, of="units", criterion="l2", repair=False)
    found = scan(subject, task(), method, strengths=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    losses = [msgspec.structs.replace(one, loss=found.start.loss + one.strength**2) for one in found.entries]
    found = msgspec.structs.replace(found, entries=tuple(losses))
    left = really_left(found, subject, task(), "macs")
    assert left({}) == 1.0
    rough = left(spread(found, 0.3, "macs"))
    close = left(spread(found, 0.3, "macs", exact=left))
    assert abs(close - 0.3) < abs(rough - 0.3)
    for keep in (0.4, 0.5, 0.6):
        assert keep - 0.1 < left(spread(found, keep, "macs", exact=left)) <= keep + 0.01
    alone = really_left(found, subject, task(), "bytes")({"0": 0.4})
    entry = next(one for one in found.entries if (one.name, one.strength) == ("0", 0.4))
    assert alone == entry.bytes / found.start.bytes


@pytest.fixture
def found(subject):
    return scan(subject, task(), Magnitude(sparsity=0.5), strengths=(0.5, 0.9), samples=20)


def changed(found, **more):
    return msgspec.structs.replace(found, **more)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "no scan: Input data was truncated"),
        (b'{"format": 1, "ident', "no scan: Input data was truncated"),
        (b"\xff\xfe\x00", "no scan: "),
        (b"[]", "no scan: Expected `object`"),
        (lambda plain: plain | {"format": 7}, "a scan of format 7, wanted 1"),
        (lambda plain: plain | {"entries": []}, "a scan without a measurement"),
        (lambda plain: plain | {"method": "prune.magic"}, "a scan of 'prune.magic', no method with a strength"),
        (lambda plain: plain | {"start": plain["start"] | {"bytes": "many"}}, "start.bytes"),
    ],
)
def test_a_file_that_is_no_scan_is_told_with_a_hint(found, tmp_path, content, said):
    path = tmp_path / "s.json"
    if callable(content):
        content = json.dumps(content(msgspec.to_builtins(found))).encode()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_scan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(found, keep):
    with pytest.raises(RecipeError, match="wanted a share from 0 to 1"):
        spread(found, keep)


def test_a_budget_out_of_reach_is_told_with_what_can_be_reached(found):
    with pytest.raises(RecipeError, match=r"1\.0% of the bytes cannot be met: .* leave \d+\.\d% at the least .*higher"):
        spread(found, 0.01)
    with pytest.raises(RecipeError, match=r"takes nothing .*keep less"):
        recipe_of(found, {})


def test_a_loss_that_is_not_finite_is_kept_and_never_chosen(found, tmp_path):
    bad = {0.9: float("nan"), 0.5: float("inf")}
    some = changed(
        found, entries=tuple(changed(e, loss=bad[e.strength]) if e.name == "0.weight" else e for e in found.entries)
    )
    path = tmp_path / "s.json"
    path.write_bytes(encode(some))
    assert "0.weight" in load_scan(path).names
    assert "0.weight" not in spread(load_scan(path), 0.7)
    with pytest.raises(RecipeError, match="no loss that is finite"):
        spread(changed(found, start=changed(found.start, loss=float("nan"))), 0.7)


def test_settings_of_another_version_are_named(found):
    with pytest.raises(RecipeError, match="the scan's settings: unknown field 'colour'"):
        recipe_of(changed(found, settings={"colour": 1}), {"0.weight": 0.5})


def test_the_scan_of_another_model_is_refused(found):
    small = Subject.of(nn.Sequential(nn.Linear(6, 2)), torch.randn(1, 6))
    with pytest.raises(RecipeError, match=r"another model: no site of this one is called 2\.weight, 4\.weight"):
        really_left(found, small, task())
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 2))
    with pytest.raises(RecipeError, match=r"another model: it has \d+ bytes, this one \d+"):
        really_left(found, Subject.of(net, torch.randn(1, 6)), task())


def test_every_strength_is_checked_before_any_work(subject):
    with pytest.raises(SettingError, match=r"Magnitude\.sparsity"):
        scan(subject, None, Magnitude(sparsity=0.5), strengths=(0.5, 1.5))


def test_the_budget_of_the_cheapest_choices_is_met_and_less_is_not():
    costs = [-0.1, -0.2, -0.3, -0.7, -0.05]
    choices = {str(n): [Choice(0.0, 0.0, 0.0), Choice(0.5, 1.0, cost)] for n, cost in enumerate(costs)}
    least = 1 + sum(costs)
    assert all(choice.strength == 0.5 for choice in allocate(choices, least - 1).values())
    with pytest.raises(RecipeError, match="cannot be met"):
        allocate(choices, least - 1.001)


def test_a_budget_that_is_really_missed_is_an_error(subject):
    found = scan(subject, task(), Magnitude(sparsity=0.5), strengths=(0.5, 0.9))
    with pytest.raises(RecipeError, match=r"cannot be met: 90\.0% were left at least"):
        spread(found, 0.6, exact=lambda strengths: 0.9 if strengths else 1.0)
