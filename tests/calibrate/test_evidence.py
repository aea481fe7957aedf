"""Ranges, samples, gradients, errors and storage of evidence."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from gossamer.calibrate import Evidence, Layout, Reading, calibrate, load_evidence, save_evidence
from gossamer.calibrate.sample import Sample
from gossamer.errors import EvidenceError
from gossamer.model import Subject


def subject():
    torch.manual_seed(1)
    return Subject.of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3))


def batches(count=3):
    torch.manual_seed(2)
    return [((torch.randn(5, 3),), {}, torch.randint(2, (5,))) for _ in range(count)]


def test_range_and_samples_are_those_of_the_inputs():
    data = batches()
    evidence = calibrate(subject(), data, "range")
    x = torch.cat([args[0] for args, _, _ in data])
    assert evidence.range("0.weight") == (x.min().item(), x.max().item())
    np.testing.assert_array_equal(evidence.samples("0.weight"), x.flatten().numpy())
    low, high = evidence.range("2.weight")
    assert low == 0 < high
    assert evidence.samples("2.weight").max() == pytest.approx(high)


def test_peaks_are_the_largest_of_each_input():
    data = batches()
    evidence = calibrate(subject(), data, "peak")
    x = torch.cat([args[0] for args, _, _ in data])
    assert torch.equal(evidence.peak("0.weight"), x.abs().amax(0))
    assert evidence.peak("2.weight").shape == (4,)
    with pytest.raises(EvidenceError, match="no range was collected"):
        evidence.range("0.weight")


def test_sample_is_bounded_uniform_and_independent_of_batching():
    numbers = np.arange(100_000, dtype=np.float32)
    one, many = Sample(1000), Sample(1000)
    one.add(numbers)
    for part in np.split(numbers, 50):
        many.add(part)
    np.testing.assert_array_equal(one.numbers(), many.numbers())
    kept = one.numbers()
    assert kept.size == 1000
    assert np.unique(kept).size == 1000
    # Each tenth of the stream is expected to give 100 of the sample, with a spread of 9.5.
    counts = np.histogram(kept, bins=10, range=(0, 100_000))[0]
    assert np.abs(counts - 100).max() < 40
    assert np.histogram(kept % 8, bins=8)[0].min() > 80


def test_gradient_and_fisher_are_averages_over_batches():
    plain, data = subject(), batches()
    evidence = calibrate(plain, data, {"gradient"}, loss=F.cross_entropy)
    weight = plain.model[0].weight
    grads = [torch.autograd.grad(F.cross_entropy(plain.model(*args), targets), weight)[0] for args, _, targets in data]
    torch.testing.assert_close(evidence.gradient("0.weight"), torch.stack(grads).mean(0))
    torch.testing.assert_close(evidence.fisher("0.weight"), torch.stack(grads).square().mean(0))
    assert weight.grad is None


def test_gradients_flow_through_recurrence():
    torch.manual_seed(0)
    net = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    evidence = calibrate(
        Subject.of(net, x), [((x,), {}, None)], {"gradient", "second_moment"}, loss=lambda out, _: out[0].square().sum()
    )
    expected = torch.autograd.grad(net(x)[0].square().sum(), net.weight_hh_l0)[0]
    torch.testing.assert_close(evidence.gradient("weight_hh_l0"), expected, rtol=1e-4, atol=1e-5)
    assert evidence.second_moment("weight_hh_l0")[0].count == 10


def test_same_batches_give_equal_evidence():
    first = calibrate(subject(), batches(), {"second_moment", "range"})
    again = calibrate(subject(), batches(), {"second_moment", "range"})
    for site in ("0.weight", "2.weight"):
        assert torch.equal(first.second_moment(site)[0].total, again.second_moment(site)[0].total)
        np.testing.assert_array_equal(first.samples(site), again.samples(site))


def test_bad_calibration_is_refused_with_its_place():
    data = batches()
    data[1][0][0][2, 1] = float("nan")
    with pytest.raises(EvidenceError, match=r"batch 1: the input of 0\.weight .* not finite"):
        calibrate(subject(), data, "second_moment")
    with pytest.raises(EvidenceError, match=r"batch 0: the input of 0\.weight is empty"):
        calibrate(subject(), [((torch.empty(0, 3),), {}, None)], "range")
    with pytest.raises(EvidenceError, match="no batches"):
        calibrate(subject(), iter([]), "range")
    with pytest.raises(EvidenceError, match="no evidence of kind wisdom"):
        calibrate(subject(), batches(), {"range", "wisdom"})
    with pytest.raises(EvidenceError, match="gradients without a loss"):
        calibrate(subject(), batches(), "gradient")
    with pytest.raises(EvidenceError, match=r"batch 0: wanted .args, kwargs, targets., got Tensor"):
        calibrate(subject(), [torch.randn(3, 3)], "range")
    with pytest.raises(EvidenceError, match="batch 0: wanted the loss to be one finite number"):
        calibrate(subject(), batches(), "gradient", loss=lambda out, _: out.sum() * float("inf"))
    with pytest.raises(EvidenceError, match="samples of at least 1"):
        calibrate(subject(), batches(), "range", samples=0)


def test_missing_evidence_says_what_to_do():
    evidence = calibrate(subject(), batches(), "range")
    assert evidence.has("range")
    assert not evidence.has("mean")
    with pytest.raises(EvidenceError, match=r"no second_moment was collected for 0\.weight.*hint.*second_moment"):
        evidence.second_moment("0.weight")
    with pytest.raises(EvidenceError, match="nothing of that name was calibrated"):
        evidence.range("7.weight")


def test_round_trip_through_a_file(tmp_path):
    needs = {"second_moment", "mean", "range", "peak", "gradient"}
    evidence = calibrate(subject(), batches(), needs, loss=F.cross_entropy)
    path = tmp_path / "evidence.safetensors"
    save_evidence(path, evidence)
    back = load_evidence(path)
    assert (back.kinds, back.batches, back.ranges, back.averages, back.unread) == (
        evidence.kinds, evidence.batches, evidence.ranges, evidence.averages, evidence.unread,
    )  # fmt: skip
    for site in ("0.weight", "2.weight"):
        (a,), (b,) = evidence.second_moment(site), back.second_moment(site)
        assert (a.layout, a.count) == (b.layout, b.count)
        assert torch.equal(a.total, b.total)
        assert torch.equal(evidence.mean(site)[0].vector, back.mean(site)[0].vector)
        assert torch.equal(evidence.peak(site), back.peak(site))
        assert torch.equal(evidence.gradient(site), back.gradient(site))
        assert torch.equal(evidence.fisher(site), back.fisher(site))
        np.testing.assert_array_equal(evidence.samples(site), back.samples(site))


def test_a_file_that_is_not_evidence_is_refused(tmp_path):
    path = tmp_path / "other"
    with pytest.raises(EvidenceError, match="not saved evidence"):
        load_evidence(path)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(EvidenceError, match="not saved evidence"):
        load_evidence(path)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout(Reading.ROWS, 1, 3), (4, 5)),
        (Layout(Reading.COLUMNS, 1, 3), (4, 5)),
        (Layout(Reading.KERNEL, 2, 4), (4, 3, 2, 2)),
        (Layout(Reading.TRANSPOSED_KERNEL, 2, 4), (4, 3, 2, 2)),
        (Layout(Reading.TABLE, 0, 5), (4, 5)),
    ],
)
def test_layout_puts_back_what_it_takes(layout, shape):
    weight = torch.arange(float(np.prod(shape))).reshape(shape)
    matrix = layout.matrix(weight)
    assert matrix.shape[1] == layout.inputs(shape)
    assert torch.equal(layout.put(weight, matrix), weight)
    changed = layout.put(weight, matrix + 1000)
    assert torch.equal(layout.matrix(changed), matrix + 1000)
    assert int((changed != weight).sum()) == matrix.numel()


def test_evidence_without_anything():
    with pytest.raises(EvidenceError, match="was asked for nothing"):
        Evidence(kinds=frozenset(), batches=0).gradient("fc.weight")


def test_progress_is_shown_where_asked_and_leaves_no_bar():
    with Progress(disable=True) as progress:
        seen = []
        progress.advance = lambda task: seen.append(progress.tasks[task].total)
        calibrate(subject(), batches(), "range", progress=progress)
        assert seen == [3, 3, 3]
        assert not progress.tasks


def test_packed_and_named_inputs_reach_the_model_whole():
    class Named(NamedTuple):
        sequence: PackedSequence
        scale: float

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(2, 3)

        def forward(self, inputs):
            return self.cell(inputs.sequence)[1] * inputs.scale

    named = Named(pack_sequence([torch.randn(3, 2), torch.randn(1, 2)]), 2.0)
    evidence = calibrate(Subject.of(Net(), named), [((named,), {}, None)], "second_moment")
    assert evidence.second_moment("cell.weight_ih_l0")[0].count == 4
