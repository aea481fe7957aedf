"""Prices: those of the values as they are sum to the coded size, and each set of alternatives is a distribution."""

import numpy as np
import pytest

from gossamer import coders
from gossamer.coders import outline, outlined, stream
from gossamer.coders.price import price


def sparse(rng: np.random.Generator) -> np.ndarray:
    density = np.outer(rng.choice([0.3, 1.0], 120), rng.choice([0.1, 0.6], 150))
    return np.where(rng.random(density.shape) < density, np.rint(rng.laplace(scale=4, size=density.shape)), 0)


def dense(rng: np.random.Generator) -> np.ndarray:
    mean = rng.normal(size=(120, 3)) @ rng.normal(size=(3, 150))
    scale = rng.choice([1.0, 3.0], (120, 1))
    return np.rint(scale * (mean + rng.normal(size=mean.shape)))


@pytest.mark.parametrize("model", ["mixed", "outlined"])
@pytest.mark.parametrize("make", [sparse, dense])
def test_the_prices_of_a_matrix_sum_to_its_bytes(make, model):
    values = make(np.random.default_rng(3)).astype(np.int64)
    found = price(values, model)
    low = int(values.min())
    bytes_ = len(coders.encode(values - low, int(values.max()) - low + 1, model=model))
    if model == "outlined":
        trial = outlined.search(values.astype(np.int32), -low, int(values.max()) - low + 1)
        head, parts = outline.write(trial.plan.known)
        bytes_ -= len(head) + len(stream.write(parts, "ans")) + len(trial.sent())  # said ahead, no element's
    assert found.zero.shape == found.below.shape == found.above.shape == values.shape
    assert float(found.bits(values).sum()) == pytest.approx(8 * bytes_, rel=0.02)


@pytest.mark.parametrize("model", ["mixed", "outlined"])
@pytest.mark.parametrize("make", [sparse, dense])
def test_zero_below_and_above_are_all_there_is(make, model):
    found = price(make(np.random.default_rng(4)).astype(np.int64), model)
    total = sum(2.0 ** -part.astype(np.float64) for part in (found.zero, found.below, found.above))
    assert np.allclose(total, 1, atol=2e-3)
    assert np.allclose(found.bits(np.zeros(found.zero.shape, np.int64)), found.zero, atol=0.02)


def test_the_outline_makes_likely_values_cheap():
    values = np.zeros((64, 80), np.int64)
    values[:, :40] = np.rint(np.random.default_rng(5).normal(size=(64, 40)) * 5)
    found = price(values, "outlined")
    assert found.zero[:, 40:].max() < 0.5 < found.zero[:, :40].min()
    near, far = (found.bits(np.full(values.shape, value)) for value in (3, 9))
    assert (near[:, :40] < far[:, :40]).all()
