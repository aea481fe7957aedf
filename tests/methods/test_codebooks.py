"""Codebooks for rows of a site, for all sites at once, and weighed by how much each value matters."""

import copy

import pytest
import torch
from torch import nn

from gossamer.artifact import Artifact, dumps, loads, stored_bytes
from gossamer.calibrate import calibrate
from gossamer.codings import Shift
from gossamer.errors import EvidenceError, PlanError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import KMeans
from gossamer.methods.share.codebooks import parts_rows, share, share_rows, shared_bits
from gossamer.methods.share.importance import importance, positive
from gossamer.model import Codebook, Cut, Plan, Subject, apply, freeze, live_weight, plan_cost, to_artifact
from gossamer.model.arrays import to_tensor
from gossamer.recipe import Recipe


def network(width: int = 24) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 8))
    return Subject.of(model, torch.randn(2, 16))


def stored(subject: Subject) -> Artifact:
    """What a reader of the file gets."""
    return loads(dumps(to_artifact(freeze(subject))))


def assert_stored_bit_by_bit(subject: Subject) -> None:
    file = stored(subject)
    for name in subject.sites:
        assert torch.equal(to_tensor(file.tensors[name]), live_weight(subject, name)), name


def test_rows_by_hand():
    weight = torch.tensor([[1.0, 3, 10], [0, 0, 0], [5, 5, 7], [6, 5, 7]])
    book = share_rows(weight, 2, 1)
    # {1, 3} and {10}; a zero for the row of zeros; {5} and {7}; {5, 6} and {7} (6 is as near to 5.5 as 7 is not).
    assert book.centers.tolist() == [2, 10, 0, 5, 7, 5.5, 7]
    assert book.codes.tolist() == [[0, 0, 1], [2, 2, 2], [3, 3, 4], [5, 5, 6]]
    assert book.starts.tolist() == [0, 2, 3, 5]
    assert (book.most, book.size) == (2, 7)
    pairs = share_rows(weight, 2, 2)
    assert pairs.starts.tolist() == [0, 0, 2, 2]
    assert pairs.nearest(torch.full((4, 3), 9.0)).tolist() == [[1] * 3] * 2 + [[pairs.size - 1] * 3] * 2


def test_bits_of_rows_count_codes_within_a_row():
    assert shared_bits(100, 40, 32, 4) == 100 * 2 + 40 * 32
    assert shared_bits(100, 1, 32) == 100 + 32


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
def test_every_so_many_rows_have_values_of_their_own(rows, pruned):
    plain = network(40)
    if pruned:
        plain = apply(plain, Magnitude(sparsity=0.5).plan(plain))
    shared = apply(plain, KMeans(bits=2, scope=rows, include=["0.weight"]).plan(plain))
    weight = live_weight(shared, "0.weight")
    assert torch.equal(weight == 0, live_weight(plain, "0.weight") == 0)
    for row in range(0, 40, rows):
        part = weight[row : row + rows]
        assert len(part[part != 0].unique()) <= 4
    assert len(weight.unique()) > 5
    assert_stored_bit_by_bit(shared)


@pytest.mark.slow
def test_rows_of_many_columns_are_stored_with_small_codes():
    torch.manual_seed(0)
    layer = nn.Linear(600, 16, bias=False)
    layer.weight.data = torch.randn(16, 600) * torch.logspace(-2, 0, 16)[:, None]
    plain = Subject.of(layer, torch.randn(1, 600))
    shared = apply(plain, KMeans(bits=2, scope=1).plan(plain))
    tree = to_artifact(freeze(shared)).tensors["weight"]
    assert isinstance(tree.codes, Shift)
    assert_stored_bit_by_bit(shared)
    one = apply(plain, KMeans(bits=6).plan(plain))
    before = layer.weight.detach()
    lost = [float((live_weight(found, "weight") - before).square().mean(1)[0]) for found in (shared, one)]
    assert lost[0] < lost[1] / 5  # the smallest row


def test_rows_train_are_cut_and_survive_a_plan_as_data():
    plain = network()
    shared = apply(plain, KMeans(bits=2, scope=3).plan(plain))
    cut = apply(shared, Plan("t", edits=(Cut(keep=((group_of(shared, 24), tuple(range(0, 24, 2))),)),)))
    assert torch.equal(live_weight(cut, "0.weight"), live_weight(shared, "0.weight")[::2])
    assert_stored_bit_by_bit(cut)
    before = live_weight(cut, "0.weight").clone()
    step(cut.model, 0.1)
    after = live_weight(cut, "0.weight")
    assert not torch.equal(before, after)
    assert_stored_bit_by_bit(cut)
    plan = KMeans(bits=2, scope=3).plan(plain)
    again = apply(plain, Plan.from_dict(*plan.to_dict()))
    assert torch.equal(live_weight(again, "0.weight"), live_weight(shared, "0.weight"))


def group_of(subject: Subject, size: int) -> str:
    return next(group.name for group in subject.groups if not group.stuck and group.size == size)


def step(model: nn.Module, rate: float) -> None:
    """One step of gradient descent."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    model(torch.randn(9, 16, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()


def test_values_that_rows_share_are_not_parted():
    book = share(torch.tensor([[1.0, 2], [1, 2], [5, 6]]), 4)
    assert parts_rows(book, 1)
    assert not parts_rows(book, 2)
    plain = network()
    whole = apply(plain, KMeans(bits=3).plan(plain))
    plan = KMeans(bits=2, scope=1).plan(whole)
    assert not plan.constraints
    assert "which codebooks of their own would part" in plan.skipped[0].reason


def test_one_codebook_across_sites_trains_as_one_and_is_stored_once():
    plain = network()
    shared = apply(plain, KMeans(bits=4, scope="global").plan(plain))

    def values(subject: Subject) -> list[set[float]]:
        return [set(live_weight(subject, name).unique().tolist()) for name in subject.sites]

    together = set().union(*values(shared))
    assert len(together) <= 16
    centers = {id(p) for n, p in shared.model.named_parameters(remove_duplicate=False) if "centers" in n}
    assert len(centers) == 1
    (center,) = (p for n, p in shared.model.named_parameters() if "centers" in n)
    weights = {name: live_weight(shared, name).requires_grad_() for name in shared.sites}
    biases = {name: p for name, p in shared.model.named_parameters() if name.endswith("bias")}
    inputs = torch.randn(5, 16)
    torch.func.functional_call(copy.deepcopy(plain.model), {**weights, **biases}, (inputs,)).square().sum().backward()
    shared.model.zero_grad()
    shared.model(inputs).square().sum().backward()
    expected = torch.zeros_like(center)
    for name, weight in weights.items():
        codes = shared.constraints[name].codebook.codes
        expected.index_add_(0, codes.flatten().int(), weight.grad.flatten())
    torch.testing.assert_close(center.grad, expected)
    shared.model.zero_grad()
    step(shared.model, 0.5)
    assert set().union(*values(shared)) != together
    assert len(set().union(*values(shared))) <= 16
    assert_stored_bit_by_bit(shared)


@pytest.mark.slow
def test_the_file_holds_centers_of_all_sites_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 60))
    plain = Subject.of(model, torch.randn(1, 60))
    shared = apply(plain, KMeans(bits=7, scope="global", start="optimal").plan(plain))
    file = stored(shared)
    first, last = file.tensors["0.weight"], file.tensors["2.weight"]
    assert first.centers is last.centers
    held = stored_bytes(file.tensors)
    assert sum(held.values()) == len(dumps(file)) - header_bytes(file)
    apart = to_artifact(freeze(apply(plain, KMeans(bits=7, start="optimal").plan(plain))))
    assert len(dumps(file)) < len(dumps(apart)) - 300
    assert_stored_bit_by_bit(shared)
    assert_stored_bit_by_bit(copy.deepcopy(shared))


def header_bytes(file: Artifact) -> int:
    from gossamer.artifact.container import read_header

    return read_header(dumps(file))[1]


def test_a_codebook_of_all_sites_keeps_zeros_out():
    plain = network()
    pruned = apply(plain, Magnitude(sparsity=0.6).plan(plain))
    shared = apply(pruned, KMeans(bits=3, scope="global").plan(pruned))
    for name in plain.sites:
        assert torch.equal(live_weight(shared, name) == 0, live_weight(pruned, name) == 0)
    assert len(torch.cat([live_weight(shared, name).flatten() for name in plain.sites]).unique()) <= 9
    assert_stored_bit_by_bit(shared)


def seen(subject: Subject, inputs: torch.Tensor, targets: torch.Tensor, needs: set[str]):
    batches = [((x[None],), {}, y[None]) for x, y in zip(inputs, targets, strict=True)]
    return calibrate(subject, batches, needs, loss=lambda y, t: (y - t).square().sum() / 2)


def test_importance_by_hand():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0]])
    subject = Subject.of(layer, torch.zeros(1, 2))
    inputs, targets = torch.tensor([[1.0, 2], [3, 0]]), torch.tensor([[4.0], [1.0]])
    evidence = seen(subject, inputs, targets, {"second_moment", "gradient"})
    (site,) = subject.sites.values()
    moment = importance(evidence, site, "second_moment")
    torch.testing.assert_close(moment / moment.sum(), torch.tensor([[10.0, 4]]) / 14)
    # y = 5, 3; y - t = 1, 2; gradients (1, 2), (6, 0); squares (1, 4), (36, 0), their mean (18.5, 2).
    torch.testing.assert_close(importance(evidence, site, "fisher"), torch.tensor([[18.5, 2]]))
    assert importance(evidence, site, "none") is None
    assert positive(torch.tensor([0.0, 2.0])).tolist() == [1e-6, 2]
    assert positive(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("weigh", ["second_moment", "fisher"])
@pytest.mark.parametrize("scope", ["layer", "global", 6])
def test_what_matters_more_moves_less(weigh, scope):
    subject = network()
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(60, 16, generator=generator) * torch.logspace(-1.5, 0.5, 16)
    evidence = seen(subject, inputs, torch.randn(60, 8, generator=generator), {"second_moment", "gradient"})
    lost = []
    for how in ("none", weigh):
        plan = KMeans(bits=3, scope=scope, weigh=how, start="optimal").plan(subject, evidence)
        shared = apply(subject, plan)
        heavy = {name: importance(evidence, site, weigh) for name, site in subject.sites.items()}
        moved = [heavy[n] * (live_weight(shared, n) - live_weight(subject, n)).square() for n in plan.constraints]
        lost.append(float(sum(part.sum() for part in moved)))
    assert lost[1] < 0.97 * lost[0]


def test_what_was_not_collected_is_asked_for():
    subject = network()
    assert KMeans(weigh="fisher").needs == {"gradient"}
    assert KMeans(weigh="second_moment").needs == {"second_moment"}
    assert KMeans().needs == frozenset()
    with pytest.raises(EvidenceError, match="no evidence to weigh by fisher"):
        KMeans(weigh="fisher").plan(subject)


def test_settings_in_a_recipe():
    text = 'name = "x"\n[[step]]\nmethod = "share.kmeans"\nscope = {}\nweigh = "fisher"\nstart = "optimal"'
    for given, wanted in (('"global"', "global"), ('"layer"', "layer"), ("8", 8)):
        recipe = Recipe.from_toml(text.format(given))
        assert recipe.steps[0].method == KMeans(scope=wanted, weigh="fisher", start="optimal")
        assert Recipe.from_toml(recipe.to_toml()) == recipe
    for bad in (0, "rows", 2.5):
        with pytest.raises(SettingError, match=r"KMeans\.scope"):
            KMeans(scope=bad)


def test_the_price_of_a_plan_counts_codes_within_rows():
    subject = network()
    bits = {}
    for scope in ("layer", 1):
        plan = KMeans(bits=2, scope=scope, include=["0.weight"]).plan(subject)
        bits[scope] = plan_cost(subject, plan).sites["0.weight"].bits
    assert bits["layer"] == 24 * 16 * 2 + 4 * 32
    assert bits[1] == 24 * 16 * 2 + 24 * 4 * 32


@pytest.mark.parametrize(
    ("starts", "message"),
    [([0], "wanted one for each of 2 rows"), ([0, 1], "wanted 0 to 0 in rows that start there")],
)
def test_starts_must_fit(starts, message):
    with pytest.raises(PlanError, match=message):
        Codebook(torch.tensor([[0, 1], [1, 1]]), torch.tensor([1.0, 2.0]), starts=torch.tensor(starts))
