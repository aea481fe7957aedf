"""HashedNets: means by hand, starts like torch's own, bytes that are those of the buckets, compositions."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from awkward.checks import planned
from torch import nn

from gossamer import artifact, codings
from gossamer.errors import ModelError, SettingError
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining
from gossamer.methods.regularize import L1
from gossamer.methods.share import Hashed, KMeans
from gossamer.methods.share.hashed import averaged, default_reach
from gossamer.model import (
    Hash,
    Plan,
    StepContext,
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


def linear(outputs=24, inputs=32, **settings):
    torch.manual_seed(0)
    return Subject.of(nn.Linear(inputs, outputs, **settings), torch.randn(2, inputs))


def test_buckets_are_signed_means():
    weight = torch.tensor([[1.0, -2.0, 4.0], [0.0, 8.0, -16.0]])
    hashed = averaged(weight, 2, seed=3)
    codes, flipped = hashed.places
    for bucket in range(2):
        members = [
            -float(weight[i, j]) if flipped[i, j] else float(weight[i, j])
            for i in range(2)
            for j in range(3)
            if codes[i, j] == bucket and weight[i, j] != 0
        ]
        assert hashed.buckets[bucket] == (sum(members) / len(members) if members else 0.0)


def test_means_are_nearest_to_the_weights():
    """The least-squares solution of weight = A buckets, A with one sign in each row."""
    weight = torch.randn(12, 10, dtype=torch.float64)
    hashed = averaged(weight, 9, seed=1)
    codes, flipped = hashed.places
    A = torch.zeros(120, 9, dtype=torch.float64)
    A[torch.arange(120), codes.flatten().long()] = torch.where(flipped, -1.0, 1.0).double().flatten()
    wanted = torch.linalg.lstsq(A, weight.flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(hashed.buckets, wanted)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(40, 30),
        lambda: nn.Conv2d(8, 12, 3, groups=2),
        lambda: nn.ConvTranspose2d(8, 6, 3),
        lambda: nn.LSTM(20, 16),
        lambda: nn.GRUCell(20, 16),
        lambda: nn.Embedding(50, 30),
        lambda: nn.MultiheadAttention(24, 2),
    ],
    ids=["linear", "conv", "transposed", "lstm", "gru cell", "embedding", "attention"],
)
def test_from_scratch_weights_start_as_torch_draws_them(make):
    torch.manual_seed(3)
    module = make()
    subject = Subject(module, (), {})
    hashed = apply(subject, Hashed(ratio=0.5, start="scratch", seed=4).plan(subject))
    for name, site in subject.sites.items():
        torchs, ours = module.get_parameter(name).detach(), live_weight(hashed, name)
        assert ours.shape == site.shape
        spread = float(ours.std() / torchs.std())
        assert 0.85 < spread < 1.15, name
        reach = default_reach(subject, site)
        if reach:
            assert float(torchs.abs().max()) <= reach
            assert 0.9 * reach < float(ours.abs().max()) <= reach


def test_the_file_holds_buckets_and_a_seed(tmp_path):
    subject = linear(200, 300, bias=False)
    hashed = apply(subject, Hashed(ratio=1 / 64, seed=11).plan(subject))
    node = to_artifact(freeze(hashed)).tensors["weight"]
    assert isinstance(node, codings.Hash)
    assert (node.seed, codings.size(node.buckets), node.support) == (11, round(60_000 / 64), None)
    size = artifact.save(tmp_path / "h.goss", to_artifact(freeze(hashed)))
    assert size < 4 * 938 + 60
    filled = load(tmp_path / "h.goss").into(nn.Linear(300, 200, bias=False))
    assert torch.equal(filled.weight, live_weight(hashed, "weight"))
    assert artifact.inspect(tmp_path / "h.goss").tensors[0].coding.startswith("hash(")
    assert cost_of(hashed).bits == 32 * 938
    assert plan_cost(subject, Hashed(ratio=1 / 64).plan(subject)).bits == 32 * 938
    code = (
        "import sys; from gossamer import artifact; a = artifact.load(sys.argv[1]); assert not artifact.problems(a); "
        "assert a.array('weight').shape == (200, 300); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "h.goss")], check=True)


def test_each_site_has_a_seed_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    plan = Hashed(seed=5).plan(Subject.of(model, torch.ones(1, 8)))
    assert [plan.on(name)[0].seed for name in ("0.weight", "1.weight")] == [5, 6]
    only = Hashed(seed=5, include=("1.weight",)).plan(Subject.of(model, torch.ones(1, 8)))
    assert only.on("1.weight")[0].seed == 6
    assert str(plan).splitlines()[1] == "  0.weight: hash into 8 buckets, seed 5"


def test_zeros_stay_zero_and_do_not_count():
    subject = linear()
    pruned = apply(subject, Magnitude(sparsity=0.75).plan(subject))
    hashed = apply(pruned, Hashed(ratio=0.25).plan(pruned))
    held = hashed.constraints["weight"]
    assert held.hash.size == round(0.25 * held.mask.kept)
    assert torch.equal(live_weight(hashed, "weight") == 0, live_weight(pruned, "weight") == 0)
    node = freeze(hashed).tensors["weight"]
    assert np.array_equal(codings.decode(node), live_weight(hashed, "weight").numpy())


def test_pruning_after_hashing_adds_zeros():
    subject = linear()
    hashed = apply(subject, Hashed().plan(subject))
    pruned = apply(hashed, Magnitude(sparsity=0.5).plan(hashed))
    value = live_weight(pruned, "weight")
    assert 0.4 < float((value == 0).float().mean()) <= 0.55
    kept = value != 0
    assert torch.equal(value[kept], live_weight(hashed, "weight")[kept])
    node = to_artifact(freeze(pruned)).tensors["weight"]
    assert np.array_equal(codings.decode(node), value.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buckets_on_eight_bits(dtype):
    torch.manual_seed(0)
    subject = Subject.of(nn.Linear(32, 24).to(dtype), torch.randn(4, 32).to(dtype))
    hashed = apply(subject, Hashed(ratio=0.25).plan(subject))
    plan = planned(PostTraining(), hashed)
    assert plan.on("weight")[0].symmetric
    small = apply(hashed, plan)
    frozen = freeze(small)
    node = to_artifact(frozen).tensors["weight"]
    assert isinstance(node, codings.Hash)
    assert codings.nbytes(node) < 192 + 16
    assert torch.equal(frozen.model.weight, live_weight(small, "weight"))
    assert small.constraints["weight"].hash.size == 192


@pytest.mark.parametrize(
    ("before", "settings", "reason"),
    [
        (Hashed(), {}, "it is hashed into 96 buckets already"),
        (KMeans(bits=2), {}, "its values are shared"),
        (PostTraining(), {}, "it is on a grid that has several scales"),
        (None, {"ratio": 1.0}, "768 buckets for 768 weights would save nothing"),
    ],
)
def test_what_is_left_alone_says_why(before, settings, reason):
    subject = linear()
    if before is not None:
        subject = apply(subject, planned(before, subject))
    plan = Hashed(**settings).plan(subject)
    assert [skip.site for skip in plan.skipped] == ["weight"]
    assert reason in plan.skipped[0].reason
    assert not plan.constraints


def test_a_matrix_torch_has_no_start_for_is_left_alone():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.free, self.none = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.zeros(6, 6))

        def forward(self, x):
            return x @ self.free @ self.none

    subject = Subject.of(Free(), torch.ones(1, 6))
    why = {skip.site: skip.reason for skip in Hashed(start="scratch").plan(subject).skipped}
    assert why["free"] == "torch has no start of its own for a weight of kind other"
    assert why["none"] == "all its weights are zero"
    assert set(Hashed().plan(subject).constraints) == {"free"}


def test_other_methods_leave_hashed_sites_to_their_hash():
    subject = linear()
    hashed = apply(subject, Hashed().plan(subject))
    assert KMeans(bits=2).plan(hashed).skipped[0].reason == "it is hashed into 96 buckets"


def test_l1_shrinks_a_bucket_once_for_each_weight():
    subject = linear(bias=False)
    hashed = apply(subject, Hashed(ratio=1 / 64).plan(subject))
    hashed = apply(hashed, L1(amount=1e-3).plan(hashed))
    buckets = trainable(hashed, "weight")
    before = buckets.detach().clone()
    codes = hashed.constraints["weight"].hash.places[0]
    hashed.penalties[0].proximal(hashed, 0.01)
    members = torch.bincount(codes.flatten(), minlength=len(before))
    wanted = before.sign() * (before.abs() - 1e-5 * members).clamp_min(0)
    torch.testing.assert_close(buckets.detach(), wanted)
    context = StepContext(hashed, (), {}, None, None, torch.zeros(()))
    term = L1(amount=1.0, proximal=False).plan(hashed).penalties[0].term(context)
    torch.testing.assert_close(term, live_weight(hashed, "weight").abs().sum())


def test_training_learns_what_its_buckets_can_say():
    """The target is itself hashed with the same seed, so the loss goes to nothing."""
    torch.manual_seed(1)
    target = nn.Linear(16, 12, bias=False)
    secret = Hash(torch.randn(24), 0, (12, 16))
    goal = apply(Subject.of(target, torch.ones(1, 16)), Plan("t", {"weight": secret})).model
    subject = Subject.of(nn.Linear(16, 12, bias=False), torch.ones(1, 16))
    student = apply(subject, Hashed(start="scratch").plan(subject))
    optimizer = torch.optim.Adam([p for p in student.model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(300):
        x = torch.randn(64, 16)
        optimizer.zero_grad()
        (student.model(x) - goal(x)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(trainable(student, "weight").detach(), secret.buckets, atol=1e-3, rtol=0)


def test_errors():
    with pytest.raises(SettingError, match="ratio"):
        Hashed(ratio=0.0)
    subject = linear()
    with torch.no_grad():
        subject.model.weight[0, 0] = float("inf")
    with pytest.raises(ModelError, match="weight: a weight is not finite"):
        Hashed().plan(subject)
