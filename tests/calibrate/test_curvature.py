"""Curvature of the loss in the outputs of a site."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate, load_evidence, save_evidence
from gossamer.errors import EvidenceError
from gossamer.model import Subject
from gossamer.task import IGNORE, Batch, cross_entropy, squared_error


def batches(count, size, inputs, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [Batch((torch.randn(size, inputs, generator=made),), {}, torch.zeros(size, 2)) for _ in range(count)]


def test_of_a_linear_model_under_squared_error_it_is_known():
    # The loss is the mean of (y - t)² over the numbers, so its second derivative by an output is 2 / outputs for a
    # sample and 2 for a number, which is what the targets count.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    subject = Subject.of(model, torch.zeros(1, 3))
    found = calibrate(subject, batches(600, 4, 3), "curvature", loss=squared_error)
    assert found.has("second_moment")
    (g,) = found.curvature("0.weight")
    assert g.shape == (2,)
    # A number's target is one of two, so half of them pull on each output.
    torch.testing.assert_close(g, torch.full((2,), 1.0), atol=0.1, rtol=0)
    torch.testing.assert_close(found.sensitivity("0.bias"), torch.full((2,), 1.0), atol=0.1, rtol=0)


def test_it_foretells_the_rise_of_the_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()
    data = [Batch((torch.randn(8, 6),), {}, torch.zeros(8, dtype=torch.int64)) for _ in range(500)]
    subject = Subject.of(model, torch.zeros(1, 6))
    found = calibrate(subject, data, "curvature", loss=cross_entropy)
    (moment,), (g,) = found.second_moment("2.weight"), found.curvature("2.weight")
    error = torch.zeros(4, 5)
    error[1] = 0.3 * torch.randn(5)  # the model that is kept draws the targets: its loss is their entropy
    x = torch.cat([batch.args[0] for batch in data])
    with torch.no_grad():
        before = model(x).log_softmax(-1)
        model[2].weight += error
        after = model(x).log_softmax(-1)
    rise = float((before.exp() * (before - after)).sum(1).mean())
    H = moment.total / moment.count
    foretold = 0.5 * float(g[1] * (error[1] @ H @ error[1]))
    assert foretold == pytest.approx(rise, rel=0.35)


def test_no_label_is_read():
    model = nn.Sequential(nn.Linear(3, 2))
    subject = Subject.of(model, torch.zeros(1, 3))
    data = [Batch((torch.randn(4, 3),), {}, torch.zeros(4, dtype=torch.int64)) for _ in range(5)]
    other = [Batch(batch.args, {}, torch.ones(4, dtype=torch.int64)) for batch in data]
    one, two = (calibrate(subject, each, "curvature", loss=cross_entropy) for each in (data, other))
    assert torch.equal(one.curvature("0.weight")[0], two.curvature("0.weight")[0])


def test_recurrent_layers_and_convolutions_have_it_and_it_can_be_kept(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3, groups=2)
            self.rnn = nn.GRU(4, 5, batch_first=True)
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.rnn(self.conv(x).transpose(1, 2))[0][:, -1])

    subject = Subject.of(Net(), torch.zeros(1, 2, 8))
    data = [Batch((torch.randn(4, 2, 8),), {}, torch.zeros(4, dtype=torch.int64)) for _ in range(4)]
    found = calibrate(subject, data, "curvature", loss=cross_entropy)
    assert [len(part) for part in found.curvature("conv.weight")] == [2, 2]
    assert [len(part) for part in found.curvature("rnn.weight_hh_l0")] == [15]
    save_evidence(tmp_path / "e.safetensors", found)
    again = load_evidence(tmp_path / "e.safetensors")
    assert torch.equal(again.curvature("conv.weight")[1], found.curvature("conv.weight")[1])
    assert torch.equal(again.sensitivity("head.bias"), found.sensitivity("head.bias"))


def test_it_wants_a_loss():
    subject = Subject.of(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))
    with pytest.raises(EvidenceError, match="gradients without a loss"):
        calibrate(subject, batches(1, 2, 3), "curvature")


def test_a_bad_loss_or_output_is_named_with_its_batch():
    subject = Subject.of(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))
    with pytest.raises(EvidenceError, match="batch 0: wanted the loss to be one finite number, got nan"):
        calibrate(subject, batches(1, 2, 3), "curvature", loss=lambda o, _: (o * float("nan")).mean())
    subject.model[0].bias.data[0] = float("inf")
    with pytest.raises(EvidenceError, match="batch 0: an output of the model is not finite"):
        calibrate(subject, batches(1, 2, 3), "curvature", loss=cross_entropy)


def test_batches_of_padding_alone_do_not_count():
    subject = Subject.of(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))
    real = Batch((torch.randn(4, 3),), {}, torch.zeros(4, dtype=torch.int64))
    padded = Batch((torch.zeros(4, 3),), {}, torch.full((4,), IGNORE))
    one = calibrate(subject, [real], "curvature", loss=cross_entropy)
    two = calibrate(subject, [real, padded], "curvature", loss=cross_entropy)
    torch.testing.assert_close(2 * one.sensitivity("0.bias"), 2 * two.sensitivity("0.bias"))
