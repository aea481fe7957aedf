"""Structured pruning: criteria and repair against cases worked by hand, and what the method promises of shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError, SettingError
from gossamer.methods.prune import Units
from gossamer.methods.prune.choosing import chosen, ranked
from gossamer.methods.prune.criteria import CRITERIA
from gossamer.methods.prune.least_squares import repaired
from gossamer.model import Cut, Subject, apply
from gossamer.model.coupling import kept_units, positions
from gossamer.task import Batch


def network():
    """Return 2 inputs, 3 rectified units, 1 output."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -4.0], [1.0, 1.0], [0.0, 2.0]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))
        model[2].bias.zero_()
    return model


INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
TARGETS = torch.tensor([[0.0], [0.0], [0.0]])


def evidence_of(subject, needs, size=1):
    batches = [Batch((INPUTS[at : at + size],), {}, TARGETS[at : at + size]) for at in range(0, len(INPUTS), size)]
    return calibrate(subject, batches, needs, loss=lambda outputs, targets: (outputs - targets).sum())


def scores(criterion, model=None):
    subject = Subject.of(model or network(), INPUTS)
    group = next(group for group in subject.groups if not group.stuck)
    found = CRITERIA[criterion]
    return found.scores(subject, evidence_of(subject, found.needs) if found.needs else None, group)


def test_norms_are_those_of_the_weights_that_make_a_unit():
    assert scores("l1").tolist() == [7, 2, 2]
    assert np.allclose(scores("l2"), [5, 2**0.5, 2])


def test_activity_is_that_of_the_inputs_of_readers():
    # hidden values after the rectifier: (3, 1, 0), (0, 1, 2), (2, 3, 2)
    assert np.allclose(scores("activation"), [5 / 3, 5 / 3, 4 / 3])
    assert np.allclose(scores("apoz"), [2 / 3, 1, 2 / 3])


def test_taylor_is_the_mean_over_samples_of_gradient_times_activation():
    # d loss / d hidden is the reader's weight (1, 2, -1): |3|, |0|, |2| and so on, one sample at a time
    assert np.allclose(scores("taylor"), [5 / 3, 10 / 3, 4 / 3])


def test_taylor_takes_absolute_values_of_whole_feature_maps():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    x = torch.tensor([[[[1.0, -1.0]]], [[[2.0, 1.0]]]])
    subject = Subject.of(model, x)
    batches = [Batch((x[i : i + 1],), {}, None) for i in range(2)]
    found = calibrate(subject, batches, {"taylor"}, loss=lambda outputs, _: outputs.sum())
    weight, reader = model[0].weight.flatten(), model[1].weight.flatten()
    wanted = (weight * reader).abs() * (abs(1 - 1) + abs(2 + 1)) / 2
    assert torch.allclose(found.taylor("0"), wanted, atol=1e-6)


def test_fisher_is_half_the_curvature_times_the_squared_weight():
    # gradients of the first layer's rows, sample by sample: reader weight times the input where the unit is active
    active = (INPUTS @ network()[0].weight.detach().T > 0).float()
    reader = torch.tensor([1.0, 2.0, -1.0])
    gradients = (active * reader)[:, :, None] * INPUTS[:, None, :]
    wanted = (gradients.square().mean(0) * network()[0].weight.square()).sum(1) / 2
    assert np.allclose(scores("fisher"), wanted.detach().numpy())


def test_geometric_median_ranks_by_distance_to_the_others():
    rows = network()[0].weight.detach()
    wanted = [sum(float((rows[i] - rows[j]).norm()) for j in range(3)) for i in range(3)]
    assert np.allclose(scores("geometric_median"), wanted)


def test_norm_scale_is_the_batch_norms_and_none_is_a_reason():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([-0.5, 0.1, 2.0]))
    subject = Subject.of(model, torch.randn(1, 1, 2, 2))
    group = next(group for group in subject.groups if not group.stuck)
    assert np.allclose(CRITERIA["norm_scale"].scores(subject, None, group), [0.5, 0.1, 2.0])
    assert scores("norm_scale") == "no normalisation scales its units"


def test_lanes_lose_their_own_lowest_units():
    model = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 1, 1))
    subject = Subject.of(model, torch.randn(1, 4, 2, 2))
    group = next(group for group in subject.groups if not group.stuck)
    assert group.lanes.tolist() == [[0, 1, 2], [3, 4, 5]]
    ranking = ranked(group, np.array([5.0, 1.0, 9.0, 2.0, 8.0, 3.0]), floor=0.0, round_to=1)
    assert ranking.kept(1).tolist() == [True, False, True, False, True, True]
    assert ranking.kept(2).tolist() == [False, False, True, False, True, False]
    assert ranking.kept(3).sum() == 2


def test_floor_and_multiples_are_kept():
    subject = Subject.of(nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 1)), torch.randn(1, 2))
    group = next(group for group in subject.groups if not group.stuck)
    values = np.arange(16.0)
    assert ranked(group, values, floor=0.3, round_to=1).kept(16).sum() == 5
    assert ranked(group, values, floor=0.0, round_to=4).kept(7).sum() == 12
    assert ranked(group, values, floor=0.0, round_to=4).kept(16).sum() == 4


def test_global_scope_takes_the_lowest_of_all_and_group_scope_equal_shares():
    subject = Subject.of(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1)), torch.randn(1, 2))
    groups = [group for group in subject.groups if not group.stuck]
    rankings = [
        ranked(group, values, floor=0.0, round_to=1)
        for group, values in zip(groups, (np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])), strict=True)
    ]
    share = lambda keep: sum((~flags).sum() for flags in keep.values()) / 8  # noqa: E731
    lowest = chosen(rankings, 3 / 8, "global", share)
    assert {name: int((~keep).sum()) for name, keep in lowest.items()} == {"0": 3}
    even = chosen(rankings, 0.5, "group", share)
    assert {name: int((~keep).sum()) for name, keep in even.items()} == {"0": 2, "1": 2}


def test_half_the_operations_go():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1)
    )
    subject = Subject.of(model, torch.randn(1, 3, 8, 8))
    plan = Units(amount=0.5, criterion="l2", repair=False).plan(subject)
    small = apply(subject, plan)
    assert abs(small.graph.macs / subject.graph.macs - 0.5) < 0.03
    small.model.train()(torch.randn(2, 3, 8, 8)).sum().backward()


def test_the_penalty_on_operations_shifts_the_cut_to_costly_units():
    model = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.MaxPool2d(4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1))
    subject = Subject.of(model, torch.randn(1, 1, 32, 32))

    def left(penalty):
        plan = Units(amount=0.4, of="units", criterion="l2", flops_penalty=penalty, floor=0.0, repair=False).plan(
            subject
        )
        return apply(subject, plan).graph.macs

    assert left(1000.0) < left(0.0)


def test_repair_solves_the_least_squares_problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(200, 4)
    subject = Subject.of(model, x)
    found = calibrate(subject, [Batch((x,), {}, None)], {"second_moment", "mean"})
    groups = subject.groups
    index = positions(groups, kept_units(groups, (("0", (0, 2, 3)),)))
    fixed = repaired(subject, found, index)
    hidden = model[1](model[0](x)).detach()
    left = torch.cat([hidden[:, [0, 2, 3]], torch.ones(200, 1)], 1)
    wanted = torch.linalg.lstsq(left, model[2](hidden).detach()).solution
    assert torch.allclose(fixed["2.weight"], wanted[:3].T, atol=0.05)  # damping shrinks it a little
    assert torch.allclose(fixed["2.bias"], wanted[3], atol=0.05)
    target = model[2](hidden).detach()
    best = float((left @ wanted - target).square().sum())
    got = float((left[:, :3] @ fixed["2.weight"].T + fixed["2.bias"] - target).square().sum())
    assert got < 1.01 * best


class Reader(nn.Module):
    """Reads hidden units by a parameter that has no bias and is not called weight."""

    def __init__(self):
        super().__init__()
        self.hidden, self.kernel = nn.Linear(6, 16), nn.Parameter(torch.randn(3, 16))

    def forward(self, x):
        return nn.functional.linear(torch.relu(self.hidden(x) + 2), self.kernel)


def test_repair_without_a_bias_keeps_the_mean_in_the_weight():
    torch.manual_seed(0)
    model, x = Reader().eval(), torch.randn(256, 6)
    subject = Subject.of(model, x[:1])
    found = calibrate(subject, [Batch((x,), {}, None)], {"second_moment", "mean"})
    assert subject.sites["kernel"].bias is None
    errors = []
    for repair in (True, False):
        plan = Units(amount=0.25, of="units", criterion="l2", repair=repair).plan(subject, found)
        with torch.no_grad():
            errors.append(float((apply(subject, plan).model(x) - model(x)).square().mean()))
    assert errors[0] < 0.1 * errors[1]


def test_repair_of_a_convolution_beats_none_in_every_layer_kind():
    torch.manual_seed(1)
    for model, x in (
        (nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.randn(32, 2, 8, 8)),
        (
            nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)),
            torch.randn(32, 2, 8, 8),
        ),
        (nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3)), torch.randn(32, 2, 8, 8)),
    ):
        subject = Subject.of(model, x)
        found = calibrate(subject, [Batch((x,), {}, None)], {"second_moment", "mean"})
        errors = []
        for repair in (True, False):
            plan = Units(amount=0.4, of="units", criterion="l2", repair=repair).plan(subject, found)
            assert any(isinstance(edit, Cut) for edit in plan.edits)
            with torch.no_grad():
                errors.append(float((apply(subject, plan).model(x) - model(x)).square().mean()))
        assert errors[0] < 0.9 * errors[1]


def test_left_alone_sites_say_why():
    subject = Subject.of(network(), INPUTS)
    plan = Units(amount=0.3, of="units", criterion="l2", exclude=("2.*",), repair=False).plan(subject)
    assert not plan.edits
    assert {skip.site: skip.reason for skip in plan.skipped}["0.weight"].startswith("its units also touch 2.weight")


def test_bad_settings_and_missing_evidence_are_refused():
    with pytest.raises(SettingError, match=r"Units.amount"):
        Units(amount=1.0)
    with pytest.raises(EvidenceError, match="needs gradient"):
        Units(amount=0.5, repair=False).plan(Subject.of(network(), INPUTS))


def test_a_model_that_cannot_be_seen_says_so():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x):
            return self.fc(x) if x.sum() > 0 else -self.fc(x)

    subject = Subject.of(Branch(), INPUTS)
    plan = Units(amount=0.5, criterion="l2", repair=False).plan(subject)
    assert not plan.edits
    assert plan.skipped[0].site == "fc.weight"
    assert "torch.export" in subject.coupling[1][0].why
