"""Distillation of logits against Hinton's formula written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from gossamer.errors import ModelError, SettingError
from gossamer.methods.distill import LogitPenalty, Logits
from gossamer.methods.distill.logits import distillation, logits_of
from gossamer.methods.prune import Magnitude
from gossamer.model import StepContext, Subject, apply


def by_the_formula(student, teacher, T):
    """T² Σ p log(p / q), averaged over rows."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        q, p = (s / T).exp(), (t / T).exp()
        q, p = q / q.sum(), p / p.sum()
        total += float((p * (p / q).log()).sum())
    return T * T * total / len(student)


def test_value_and_shapes():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    expected = by_the_formula(student, teacher, 3.0)
    assert distillation(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-5)
    folded = distillation(student.view(2, 3, 5), teacher.view(2, 3, 5), 3.0)
    assert folded.item() == pytest.approx(expected, rel=1e-5)
    first = distillation(student.view(2, 3, 5).mT, teacher.view(2, 3, 5).mT, 3.0, axis=1)
    assert first.item() == pytest.approx(expected, rel=1e-5)
    assert distillation(student, student, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_gradient_at_high_temperature_matches_logits():
    """Hinton et al., equation 4: for large T and centred logits the gradient tends to (z - v) / N per example."""
    torch.manual_seed(0)
    z, v = torch.randn(1, 7, dtype=torch.float64), torch.randn(1, 7, dtype=torch.float64)
    z, v = (z - z.mean()).float().requires_grad_(), (v - v.mean()).float()
    distillation(z, v, 500.0).backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / 7, rtol=2e-2, atol=1e-3)


def test_padding_is_left_out():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    targets = torch.tensor([[1, 2, 0], [3, -100, -100]])
    counted = targets != -100
    got = distillation(student, teacher, 2.0, targets=targets)
    assert got.item() == pytest.approx(by_the_formula(student[counted], teacher[counted], 2.0), rel=1e-5)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()


def test_the_blend_with_the_task():
    plain = Subject.of(network(), torch.randn(2, 4))
    taught = apply(plain, Logits(alpha=0.7, temperature=2.0).plan(plain))
    pruned = apply(taught, Magnitude(sparsity=0.5).plan(taught))
    (penalty,) = pruned.penalties
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    outputs = pruned.model(x)
    loss = F.cross_entropy(outputs, y)
    total = loss + penalty.term(StepContext(pruned, (x,), {}, outputs, y, loss))
    teacher = plain.model.eval()(x).detach()
    expected = 0.7 * by_the_formula(outputs.detach(), teacher, 2.0) + 0.3 * loss.item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert all(p.grad is not None for p in pruned.model.parameters() if p.requires_grad)
    assert all(p.grad is None and not p.requires_grad for p in penalty.teacher.parameters())


def test_the_teacher_is_the_model_at_planning_and_no_part_of_the_subject():
    plain = Subject.of(network(), torch.randn(2, 4))
    plan = Logits().plan(plain)
    taught = apply(plain, plan)
    with torch.no_grad():
        taught.model[0].weight.zero_()
    teacher = plan.penalties[0].teacher
    assert torch.equal(teacher[0].weight, plain.model[0].weight)
    assert not teacher.training
    assert taught.model.state_dict().keys() == plain.model.state_dict().keys()
    assert copy.deepcopy(plan.penalties[0]).teacher is teacher


def test_where_logits_are_found():
    x = torch.randn(2, 3)
    packed = pack_sequence([torch.randn(2, 3), torch.randn(1, 3)])
    for outputs in (x, (x, None), [x], {"logits": x, "state": None}, {"scores": x}, ((x, x), x)):
        assert logits_of(outputs) is x
    assert logits_of(packed) is packed.data
    for outputs in (None, (), {"a": x, "b": x}, "text"):
        with pytest.raises(ModelError, match=r"distill\.logits: wanted logits"):
            logits_of(outputs)


def test_bad_settings_and_outputs():
    for settings in ({"alpha": 1.5}, {"temperature": 0.0}):
        with pytest.raises(SettingError, match=r"Logits\."):
            Logits(**settings)
    with pytest.raises(ModelError, match="outputs alike"):
        distillation(torch.randn(2, 3), torch.randn(2, 4), 1.0)
    with pytest.raises(ModelError, match="two classes"):
        distillation(torch.randn(2, 1), torch.randn(2, 1), 1.0)
    assert not Logits(alpha=0.0).plan(Subject.of(network(), torch.randn(2, 4))).penalties


def test_a_given_module_can_teach():
    teacher = nn.Linear(4, 3)
    penalty = LogitPenalty(teacher, alpha=1.0, temperature=1.0)
    student = Subject.of(nn.Linear(4, 3), torch.randn(1, 4))
    x = torch.randn(2, 4)
    outputs, loss = student.model(x), torch.tensor(3.0)
    total = loss + penalty.term(StepContext(student, (x,), {}, outputs, None, loss))
    assert total.item() == pytest.approx(by_the_formula(outputs.detach(), teacher(x).detach(), 1.0), rel=1e-4)
