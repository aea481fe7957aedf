"""Product quantization: clusters and errors by hand, gradients and forms by slow references, files, compositions."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from awkward.checks import planned
from torch import nn

from gossamer import artifact, codings
from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError, ModelError, PlanError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining
from gossamer.methods.regularize import L1
from gossamer.methods.share import Hashed, KMeans, Product
from gossamer.methods.share.codewords import centers, codewords, nearest, split_fullest
from gossamer.methods.share.errors import Errors, measured
from gossamer.model import (
    Codebook,
    Cut,
    Grid,
    Mask,
    Plan,
    Subject,
    apply,
    cost_of,
    freeze,
    live_weight,
    load,
    plan_cost,
    to_artifact,
    trainable,
)
from gossamer.recipe.state import load_subject, save_subject
from gossamer.targets.levels import weight_levels

FOUR = torch.tensor(
    [[1.0, 2.0, 9.0, 9.0], [1.2, 2.0, 9.0, 9.2], [9.0, 9.0, 1.0, 2.2], [9.2, 9.0, 1.2, 2.2]], dtype=torch.float64
)
"""Eight subvectors of two values: four about (1.1, 2.1), four about (9.05, 9.05)."""


def subject_of(module, *shape):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return Subject.of(module, torch.randn(*shape))


def evidence_of(subject, *batches):
    return calibrate(subject, [((x,), {}, None) for x in batches], {"second_moment"})


def plain(vectors):
    return Errors.plain(len(vectors), vectors.shape[1])


def pulls(vectors, errors):
    return torch.stack([errors.forms[errors.of[i]] @ v for i, v in enumerate(vectors)])


def test_clusters_by_hand():
    vectors = FOUR.reshape(-1, 2)
    words, table = codewords(vectors, 2, plain(vectors), rounds=20, seed=0)
    first = int(words[0])
    assert words.view(4, 2).tolist() == [[first, 1 - first]] * 2 + [[1 - first, first]] * 2
    wanted = torch.tensor([[1.1, 2.1], [9.05, 9.05]], dtype=torch.float64)
    torch.testing.assert_close(table[torch.tensor([first, 1 - first])], wanted)


def test_few_different_subvectors_are_codewords_themselves():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]], dtype=torch.float64)
    words, table = codewords(vectors, 2, plain(vectors), rounds=1, seed=0)
    assert torch.equal(table[words], vectors)


def test_errors_choose_another_codeword_than_distances():
    """(0, 0) is nearer to (1, 0) than to (0, 2), but an error in the first value counts 100 times."""
    vectors, words = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    form = Errors(torch.diag(torch.tensor([100.0, 1.0])).double().unsqueeze(0), torch.zeros(1, dtype=torch.int64))
    assert nearest(vectors, words, plain(vectors)).tolist() == [0]
    assert nearest(pulls(vectors, form), words, form).tolist() == [1]


def test_inputs_that_go_together_choose_by_their_sum():
    """With both inputs always equal, only the sum of a subvector shows: (1, -1) is as good as nothing at all."""
    vectors = torch.tensor([[0.0, 0.0]]).double()
    words = torch.tensor([[0.4, 0.4], [1.0, -1.0]]).double()
    form = Errors(torch.ones(1, 2, 2).double(), torch.zeros(1, dtype=torch.int64))
    assert nearest(pulls(vectors, form), words, form).tolist() == [1]
    assert nearest(vectors, words, plain(vectors)).tolist() == [0]


@pytest.mark.parametrize("forms", [1, 5])
def test_each_step_agrees_with_a_slow_reference(forms):
    torch.manual_seed(2)
    vectors, words = torch.randn(40, 3).double(), torch.randn(6, 3).double()
    root = torch.randn(forms, 3, 3).double()
    errors = Errors(root @ root.mT + 0.1 * torch.eye(3), torch.randint(forms, (40,)))

    def error(i, c):
        away = vectors[i] - c
        return away @ errors.forms[errors.of[i]] @ away

    found = nearest(pulls(vectors, errors), words, errors)
    assert found.tolist() == [min(range(6), key=lambda k: float(error(i, words[k]))) for i in range(40)]
    moved = centers(vectors, pulls(vectors, errors), errors, found, words)
    for k in range(6):
        members = (found == k).nonzero().flatten().tolist()
        if not members:
            assert torch.equal(moved[k], words[k])
            continue
        best = moved[k].clone().requires_grad_()
        (slope,) = torch.autograd.grad(sum(error(i, best) for i in members), best)
        torch.testing.assert_close(slope, torch.zeros(3).double(), atol=1e-9, rtol=0)


def test_rounds_never_raise_the_error():
    torch.manual_seed(3)
    vectors, root = torch.randn(300, 4).double(), torch.randn(7, 4, 4).double()
    errors = Errors(root @ root.mT, torch.randint(7, (300,))).firm()

    def total(rounds):
        words, table = codewords(vectors, 16, errors, rounds=rounds, seed=1)
        away = (vectors - table[words]).unsqueeze(1)
        return float((away @ errors.forms[errors.of] @ away.mT).sum())

    reached = [total(rounds) for rounds in (1, 2, 4, 8, 50)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(reached))
    assert total(1000) == total(2000), "a round without a change is the last"


def test_an_empty_codeword_splits_the_fullest_cluster():
    vectors = torch.tensor([[0.0, 0.0], [1.0, 1.0], [10.0, 10.0]]).double()
    words = torch.tensor([[0.5, 0.5], [10.0, 10.0], [99.0, 99.0]]).double()
    errors, generator = plain(vectors), torch.Generator().manual_seed(0)
    members = nearest(vectors, words, errors)
    assert members.tolist() == [0, 0, 1]
    members = split_fullest(vectors, words, errors, members, generator)
    assert sorted(members.tolist()) == [0, 1, 2]
    assert members[2] == 1
    assert 0 < float((words[0] - words[2]).abs().max()) < 1e-6
    torch.testing.assert_close((words[0] + words[2]) / 2, torch.tensor([0.5, 0.5]).double(), rtol=0, atol=1e-12)


def test_clusters_that_cannot_be_split_leave_codewords_out():
    vectors = torch.zeros(5, 2).double()
    words = torch.tensor([[0.0, 0.0], [9.0, 9.0]]).double()
    members = torch.zeros(5, dtype=torch.int64)
    again = split_fullest(vectors, words, plain(vectors), members, torch.Generator().manual_seed(0))
    assert again.tolist() == [0] * 5


def test_no_codeword_is_left_without_members():
    """Nine of ten subvectors are one and the same, and the start draws it many times."""
    torch.manual_seed(5)
    vectors = torch.cat([torch.ones(180, 2), torch.randn(20, 2)]).double()
    words, table = codewords(vectors, 12, plain(vectors), rounds=50, seed=0)
    assert len(table) == 12
    assert (words.bincount() > 0).all()


class Two(nn.Module):
    """A weight that is read by rows and as a table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.table(tokens))


@pytest.mark.parametrize(
    ("module", "width", "shape"),
    [
        (nn.Linear(6, 8, bias=False), 3, (5, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, bias=False), 9, (2, 4, 5, 5)),
        (nn.Conv2d(4, 8, 2, bias=False), 8, (2, 4, 5, 5)),
        (nn.Conv2d(4, 8, 2, groups=2, bias=False), 4, (2, 4, 5, 5)),
        (nn.Conv2d(8, 4, 1, bias=False), 4, (2, 8, 3, 3)),
        (nn.ConvTranspose2d(3, 4, 2, bias=False), 4, (2, 3, 4, 4)),
        (nn.ConvTranspose2d(3, 4, 2, bias=False), 8, (2, 3, 4, 4)),
    ],
    ids=["linear", "conv", "two kernels", "grouped", "1x1", "transposed", "transposed, two kernels"],
)
def test_forms_give_the_error_of_the_outputs(module, width, shape):
    """A change in one subvector alone changes the outputs by what its form says."""
    subject = subject_of(module, *shape)
    x = subject.args[0]
    site = subject.sites["weight"]
    own = measured("own", evidence_of(subject, x), site, width)
    raw = torch.zeros(site.numel // width, dtype=torch.float64)
    formed = torch.zeros_like(raw)
    with torch.no_grad():
        before, weight = module.double()(x.double()), module.weight.clone()
        for i in range(len(raw)):
            change = torch.randn(width).double()
            module.weight.copy_(weight)
            module.weight.view(-1, width)[i] += change
            raw[i] = (module(x.double()) - before).square().sum()
            formed[i] = change @ own.forms[own.of[i]] @ change
    torch.testing.assert_close(formed / formed.sum(), raw / raw.sum(), rtol=2e-3, atol=1e-6)


def test_a_tied_weight_counts_both_uses():
    model = Two()
    subject = Subject.of(model, torch.tensor([[1, 1, 3]]))
    evidence = calibrate(subject, [((torch.tensor([[1, 1, 3]]),), {}, None)], {"second_moment"})
    errors = measured("own", evidence, subject.sites["table.weight"], 4)
    x = model.table.weight[[1, 1, 3]].detach().double()
    read = (errors.forms - errors.forms[errors.of[0]])[errors.of]
    scale = float(x.T.matmul(x).trace() / 4 + 3 / 8)
    torch.testing.assert_close(read[1] * scale, 2 * torch.eye(4).double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(read[3] * scale, torch.eye(4).double(), rtol=1e-4, atol=1e-6)
    assert not read[[0, 2, 4, 5, 6, 7]].any()


def test_pooled_errors_are_the_mean_over_subvectors():
    subject = subject_of(nn.Linear(4, 8, bias=False), 5, 4)
    x = subject.args[0].double()
    pooled = measured("pooled", evidence_of(subject, subject.args[0]), subject.sites["weight"], 2)
    unrolled = torch.cat([x[:, :2], x[:, 2:]])
    wanted = unrolled.T @ unrolled
    assert len(pooled.forms) == 1
    torch.testing.assert_close(pooled.forms[0], wanted / wanted.trace() * 2, rtol=1e-4, atol=1e-5)


def test_inputs_that_never_come_leave_distances():
    subject = subject_of(nn.Linear(4, 8, bias=False), 5, 4)
    errors = measured("own", evidence_of(subject, torch.zeros(3, 4)), subject.sites["weight"], 2)
    assert torch.equal(errors.forms, torch.eye(2).double().unsqueeze(0))


def test_outputs_err_less_when_errors_are_measured():
    torch.manual_seed(0)
    model = nn.Linear(32, 64, bias=False)
    x = torch.randn(400, 32) * torch.logspace(-2, 1, 32)
    subject = Subject.of(model, x)
    evidence = evidence_of(subject, x)

    def lost(measure):
        shared = apply(subject, Product(bits=5, measure=measure).plan(subject, evidence))
        with torch.no_grad():
            return float((shared.model(x) - model(x)).square().mean())

    assert lost("own") < lost("pooled") < lost("none")


@pytest.mark.parametrize(
    ("module", "shape", "settings", "width"),
    [
        (nn.Conv2d(4, 8, 3), (1, 4, 5, 5), {}, 9),
        (nn.Conv2d(4, 8, 3), (1, 4, 5, 5), {"kernels": 2}, 18),
        (nn.Conv2d(8, 16, 1), (1, 8, 5, 5), {"block": 8}, 8),
        (nn.Conv1d(4, 8, 5), (1, 4, 9), {}, 5),
        (nn.Linear(8, 16), (1, 8), {}, 4),
        (nn.LSTM(8, 4), (3, 8), {}, 4),
    ],
    ids=["conv", "two kernels", "1x1", "conv1d", "linear", "lstm"],
)
def test_how_sites_are_cut(module, shape, settings, width):
    subject = subject_of(module, *shape)
    plan = planned(Product(**settings), subject)
    assert not plan.skipped
    for name, site in subject.sites.items():
        book = plan.on(name)[0]
        assert book.width == width
        assert book.size // width <= site.numel // width // 4
        value = live_weight(apply(subject, plan), name)
        assert len(value.reshape(-1, width).unique(dim=0)) == book.size // width
        assert torch.equal(value, book.centers[book.codes.int()])


def test_a_codeword_moves_by_the_mean_of_its_members_gradients():
    subject = subject_of(nn.Linear(8, 12, bias=False), 5, 8)
    shared = apply(subject, planned(Product(bits=3), subject))
    book = shared.constraints["weight"].codebook
    x = subject.args[0]
    dense = live_weight(shared, "weight").clone().requires_grad_()
    (x @ dense.T).square().sum().backward()
    shared.model(x).square().sum().backward()
    table = trainable(shared, "weight").grad.view(-1, 4)
    for word in range(book.size // 4):
        members = [
            dense.grad[i, 4 * j : 4 * j + 4] for i in range(12) for j in range(2) if book.codes[i, 4 * j] == 4 * word
        ]
        torch.testing.assert_close(table[word], sum(members) / len(members))


def test_fixed_codewords_do_not_train():
    subject = subject_of(nn.Linear(8, 12), 2, 8)
    shared = apply(subject, planned(Product(trained=False), subject))
    assert not trainable(shared, "weight").requires_grad


def test_codewords_train_through_an_lstm():
    subject = subject_of(nn.LSTM(8, 8), 3, 8)
    shared = apply(subject, planned(Product(), subject))
    before = {name: live_weight(shared, name).clone() for name in shared.sites}
    optimizer = torch.optim.SGD([p for p in shared.model.parameters() if p.requires_grad], lr=0.1)
    shared.model(subject.args[0])[0].square().sum().backward()
    optimizer.step()
    for name in shared.sites:
        book = shared.constraints[name].codebook
        value = live_weight(shared, name)
        assert not torch.equal(value, before[name])
        assert torch.equal(value, book.centers[book.codes.int()])


def test_the_file_holds_codewords_and_words(tmp_path):
    subject = subject_of(nn.Linear(64, 256, bias=False), 40, 64)
    shared = apply(subject, planned(Product(bits=4), subject))
    node = to_artifact(freeze(shared)).tensors["weight"]
    assert isinstance(node, codings.Codebook)
    assert isinstance(node.codes, codings.Runs)
    assert (node.codes.width, codings.size(node.centers)) == (4, 64)
    size = artifact.save(tmp_path / "p.goss", to_artifact(freeze(shared)))
    assert size < 4 * 64 + 4096 * 4 / 8 + 80
    filled = load(tmp_path / "p.goss").into(nn.Linear(64, 256, bias=False))
    assert torch.equal(filled.weight, live_weight(shared, "weight"))
    assert "runs(" in artifact.inspect(tmp_path / "p.goss").tensors[0].coding
    assert cost_of(shared).bits == plan_cost(subject, planned(Product(bits=4), subject)).bits == 4 * 4096 + 32 * 64
    code = (
        "import sys; from gossamer import artifact; a = artifact.load(sys.argv[1]); assert not artifact.problems(a); "
        "assert a.array('weight').shape == (256, 64); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.goss")], check=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codewords_on_eight_bits(dtype):
    torch.manual_seed(0)
    subject = Subject.of(nn.Linear(32, 64).to(dtype), torch.randn(4, 32).to(dtype))
    shared = apply(subject, planned(Product(bits=5), subject))
    small = apply(shared, planned(PostTraining(), shared))
    frozen = freeze(small)
    node = to_artifact(frozen).tensors["weight"]
    assert isinstance(node.centers, codings.Affine)
    assert codings.nbytes(node) < 32 * 4 + 512 * 5 / 8 + 30
    levels = weight_levels(node)
    exact = torch.from_numpy((levels.codes.astype(np.float32) - levels.zero) * levels.scale).to(dtype)
    assert torch.equal(exact, frozen.model.weight)
    assert torch.equal(frozen.model.weight, live_weight(small, "weight"))


@pytest.mark.parametrize("grid", [False, True])
def test_pruning_afterwards_keeps_words(grid):
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    shared = apply(subject, planned(Product(bits=4), subject))
    if grid:
        shared = apply(shared, planned(PostTraining(), shared))
    pruned = apply(shared, Magnitude(sparsity=0.5).plan(shared))
    value = live_weight(pruned, "weight")
    assert 0.4 < float((value == 0).float().mean()) < 0.6
    node = freeze(pruned).tensors["weight"]
    assert isinstance(node.codes, codings.Runs)
    assert np.array_equal(codings.decode(node), value.numpy())
    assert np.array_equal(codings.decode(to_artifact(freeze(pruned)).tensors["weight"]), value.numpy())


def test_zeros_without_a_pattern_part_words_in_the_file_only():
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    shared = apply(subject, planned(Product(bits=5, block=8), subject))
    torch.manual_seed(1)
    masked = apply(shared, Plan("t", {"weight": Mask(torch.rand(64, 32) < 0.5)}))
    node = freeze(masked).tensors["weight"]
    assert isinstance(node, codings.Sparse)
    assert np.array_equal(codings.decode(node), live_weight(masked, "weight").numpy())


def test_a_cut_along_subvectors_keeps_them_and_one_through_them_keeps_values():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 24))
    subject = Subject.of(model, torch.randn(3, 2, 5, 5))
    shared = apply(subject, planned(Product(bits=3, exclude=("0.weight",)), subject))
    cut = apply(shared, Plan("t", edits=(Cut((("0", (0, 1, 2, 5)), ("3", (0, 1, 2, 3, 6, 7)))),)))
    assert cut.constraints["1.weight"].codebook.words.shape == (16, 4)
    assert cut.constraints["3.weight"].codebook.words.shape == (6, 4)
    parted = cut.constraints["4.weight"].codebook
    assert parted.words is None
    frozen = freeze(cut)
    for name in ("1.weight", "3.weight", "4.weight"):
        assert np.array_equal(codings.decode(frozen.tensors[name]), live_weight(cut, name).numpy())
    assert not isinstance(frozen.tensors["4.weight"].codes, codings.Runs)


def test_l1_pulls_a_codeword_as_its_mean_gradient_would():
    subject = subject_of(nn.Linear(8, 12, bias=False), 5, 8)
    shared = apply(subject, planned(Product(bits=3), subject))
    shared = apply(shared, L1(amount=1e-3).plan(shared))
    table = trainable(shared, "weight")
    before = table.detach().clone()
    shared.penalties[0].proximal(shared, 0.01)
    torch.testing.assert_close(table.detach(), before.sign() * (before.abs() - 1e-5).clamp_min(0))


@pytest.mark.parametrize(
    ("before", "settings", "reason"),
    [
        (Product(), {}, "its values are shared already"),
        (Hashed(), {}, "its values are shared already"),
        (KMeans(bits=2), {}, "its values are shared already"),
        (Magnitude(sparsity=0.5), {}, "its zeros must stay"),
        (PostTraining(), {}, "a grid with a scale per channel"),
        (None, {"block": 5}, "its rows of 32 values are not whole subvectors of 5"),
        (None, {"block": 32}, "its 7 subvectors are too few for two codewords"),
    ],
)
def test_what_is_left_alone_says_why(before, settings, reason):
    subject = subject_of(nn.Linear(32, 7), 2, 32)
    if before is not None:
        subject = apply(subject, planned(before, subject))
    plan = planned(Product(**settings), subject)
    assert [skip.site for skip in plan.skipped] == ["weight"]
    assert reason in plan.skipped[0].reason
    assert not plan.constraints


def test_a_grid_with_one_scale_holds_for_codewords():
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    grid = Grid(torch.tensor(0.05), torch.tensor(0))
    once = apply(subject, Plan("t", {"weight": grid}))
    shared = apply(once, planned(Product(), once))
    value = live_weight(shared, "weight")
    assert torch.equal(grid.snap(value), value)
    assert np.array_equal(codings.decode(to_artifact(freeze(shared)).tensors["weight"]), value.numpy())


def test_kmeans_leaves_codewords_alone():
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    shared = apply(subject, planned(Product(), subject))
    assert KMeans(bits=2).plan(shared).skipped[0].reason == "its subvectors share codewords of 4 values already"


def test_the_plan_tells_and_survives_saving():
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    plan = planned(Product(bits=4), subject)
    assert str(plan).splitlines()[1] == "  weight: share 16 codewords of 4 values"
    again = Plan.from_dict(*plan.to_dict())
    assert again.on("weight")[0].width == 4
    assert torch.equal(again.on("weight")[0].words, plan.on("weight")[0].words)


def test_a_journal_keeps_codewords(tmp_path):
    subject = subject_of(nn.Linear(32, 64), 4, 32)
    shared = apply(subject, planned(Product(bits=4), subject))
    save_subject(tmp_path, shared, subject)
    again = load_subject(tmp_path, subject)
    assert torch.equal(live_weight(again, "weight"), live_weight(shared, "weight"))
    assert torch.equal(again.constraints["weight"].codebook.words, shared.constraints["weight"].codebook.words)


def test_unread_inputs_are_a_reason():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.free = nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            return x * self.free.sum()

    subject = Subject.of(Odd(), torch.ones(1, 16))
    assert "its inputs are not known" in planned(Product(), subject).skipped[0].reason
    assert set(planned(Product(measure="none"), subject).constraints) == {"free"}


def test_errors():
    with pytest.raises(SettingError, match="block"):
        Product(block=1)
    subject = subject_of(nn.Linear(8, 12), 2, 8)
    with pytest.raises(EvidenceError, match=r"share\.product was given no evidence"):
        Product().plan(subject)
    with torch.no_grad():
        subject.model.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match="weight: a weight is not finite"):
        Product(measure="none").plan(subject)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 3}, "4 values are not codewords of 3"),
        ({"width": 2, "tie": "x"}, "codewords are those of one whole site"),
        ({"width": 2, "starts": torch.zeros(2, dtype=torch.int64)}, "codewords are those of one whole site"),
        ({"width": 2, "shared": torch.ones(2, 4, dtype=torch.bool)}, "codewords are those of one whole site"),
    ],
)
def test_a_codebook_of_codewords_checks_its_parts(settings, message):
    with pytest.raises(PlanError, match=message):
        Codebook(torch.zeros(2, 4, dtype=torch.int64), torch.ones(4), **settings)
