"""GPTQ: by hand, and against Optimal Brain Quantization written out with an inverse for every column."""

import numpy as np
import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import EvidenceError
from gossamer.methods.quantize import Gptq, PostTraining
from gossamer.model import Grid, Mask, Plan, Subject, apply, live_weight
from gossamer.model.constraint import along

FLOATS = {"input_bits": "float"}


def measured(model, batches):
    """Return the subject and its second moments."""
    subject = Subject.of(model.eval(), *batches[0])
    return subject, calibrate(subject, [(args, {}, None) for args in batches], {"range", "second_moment"})


def correlated(*shape, seed=0):
    """Inputs that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator)
    return common + 0.3 * torch.randn(*shape, generator=generator)


def grid_of(plan, site):
    return next(part for part in plan.on(site) if isinstance(part, Grid))


def slow(W, H, scale, zero, ends, order):
    """Optimal Brain Quantization with the same order for all rows: [H⁻¹] of what is left is taken anew each time."""
    W = W.clone().double()
    left = list(order)
    while left:
        c, rest = left[0], left[1:]
        inverse = torch.linalg.inv(H[left][:, left])
        codes = (torch.round(W[:, c] / scale[:, c]) + zero[:, c]).clamp(*ends)
        value = (codes - zero[:, c]) * scale[:, c]
        W[:, rest] -= ((W[:, c] - value) / inverse[0, 0])[:, None] * inverse[0, 1:]
        W[:, c] = value
        left = rest
    return W


def test_two_columns_by_hand():
    # H = [[1, 1], [1, 2]] but for the damping, step 1: 0.4 goes to 0, and its error 0.4 moves the other, 0.4, by
    # 0.4 H_01 / H_11 = 0.2 to 0.6, which is 1; to the nearest both would be 0. The second input is the larger one,
    # so by activity it goes first: 0.4 to 0, and the other becomes 0.4 + 0.4 * 1 / 1 = 0.8, so 1.
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[0.4, 0.4]])
    subject, seen = measured(layer, [(torch.tensor([[1.0, 1], [0, 1]]),)])
    grid = Grid(torch.tensor(1.0), torch.tensor(0))
    found = {
        order: Gptq(order=order, damping=1e-6, **FLOATS)._values(subject, "weight", grid, seen.second_moment("weight"))
        for order in ("index", "activity")
    }
    assert found["index"].tolist() == [[0, 1]]
    assert found["activity"].tolist() == [[1, 0]]


@pytest.mark.parametrize("order", ["activity", "index"])
@pytest.mark.parametrize("scales", ["channel", "tensor", 8])
def test_it_is_optimal_brain_quantization_in_one_order(order, scales):
    torch.manual_seed(0)
    subject, seen = measured(nn.Linear(96, 5, bias=False), [(correlated(200, 96),)])
    plan = Gptq(weight_bits=3, weight_scales=scales, order=order, **FLOATS).plan(subject, seen)
    H = seen.second_moment("weight")[0].total.double()
    H = H / 200 + 0.01 * H.diagonal().mean() / 200 * torch.eye(96)
    columns = np.argsort(-H.diagonal().numpy(), kind="stable") if order == "activity" else range(96)
    W, grid = live_weight(subject, "weight"), grid_of(plan, "weight")
    scale, zero = (along(part.double(), W.shape, grid.axis).expand(W.shape) for part in (grid.scale, grid.zero))
    expected = slow(W, H, scale, zero, grid.codes_range, columns)
    torch.testing.assert_close(plan.tensors["weight"].double(), expected, atol=1e-6, rtol=0)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose1d(8, 8, 3, padding=1)
        self.gru = nn.GRU(8, 12, batch_first=True)
        self.fc = nn.Linear(12, 20)

    def forward(self, x):
        return self.fc(self.gru(self.up(self.grouped(x)).transpose(1, 2))[0])


def test_every_kind_of_layer_makes_less_error_than_rounding_to_the_nearest():
    torch.manual_seed(0)
    subject, seen = measured(Mixed(), [(correlated(64, 8, 20),)])
    for site in subject.sites:
        given = {"include": (site,), "weight_bits": 3}
        plain = PostTraining(inputs=False, **given).plan(subject, seen)
        plan = Gptq(**given, **FLOATS).plan(subject, seen)
        assert plan.skipped == plain.skipped
        assert grid_of(plan, site).scale.equal(grid_of(plain, site).scale)
        error = {}
        for name, one in (("nearest", plain), ("fed on", plan)):
            difference = live_weight(apply(subject, one), site).double() - live_weight(subject, site).double()
            parts = [(moment.layout.matrix(difference), moment.total.double()) for moment in seen.second_moment(site)]
            error[name] = sum(float(((matrix @ H) * matrix).sum()) for matrix, H in parts)
        assert error["fed on"] < 0.8 * error["nearest"], site


def test_zeros_of_a_mask_stay_and_their_neighbours_make_up():
    torch.manual_seed(0)
    subject, _ = measured(nn.Linear(16, 4, bias=False), [(correlated(60, 16),)])
    keep = torch.rand(4, 16) < 0.5
    masked = apply(subject, Plan("prune", {"weight": Mask(keep)}))
    seen = calibrate(masked, [((correlated(60, 16),), {}, None)], {"range", "second_moment"})
    values = Gptq(weight_bits=4).plan(masked, seen).tensors["weight"]
    assert not values[~keep].any()
    assert not values.equal(
        PostTraining(weight_bits=4).plan(masked, seen).on("weight")[0].snap(live_weight(masked, "weight"))
    )


def test_what_is_rounded_to_the_nearest_is_named():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 4)
            self.fc = nn.Linear(4, 3)

        def forward(self, tokens):
            return self.fc(self.table(tokens))

    torch.manual_seed(0)
    subject, seen = measured(Tokens(), [(torch.tensor([[1, 2, 5, 1]]),)])
    plan = Gptq().plan(subject, seen)
    assert set(plan.tensors) == {"fc.weight"}
    assert any("rounded to the nearest: its rows do not meet in a sum" in skip.reason for skip in plan.skipped)
    assert set(plan.activations) == {"fc.weight"}


def test_inputs_whose_squares_are_beyond_float32_are_refused():
    subject, seen = measured(nn.Linear(3, 2), [(torch.full((2, 3), 1e20),)])
    with pytest.raises(EvidenceError, match="weight: the second moment of its inputs is beyond float32"):
        Gptq(**FLOATS).plan(subject, seen)


def test_evidence_that_is_missing_is_named():
    subject = Subject.of(nn.Linear(3, 2), torch.zeros(1, 3))
    with pytest.raises(EvidenceError, match="second moments"):
        Gptq().plan(subject)
    ranges = calibrate(subject, [((torch.ones(1, 3),), {}, None)], {"range"})
    with pytest.raises(EvidenceError, match="second moments"):
        Gptq().plan(subject, ranges)
