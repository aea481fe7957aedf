"""Prices of the coder's models."""

import numpy as np
import pytest

from gossamer.codings import encode, nbytes
from gossamer.codings.rates import rates


def sparse(shape, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0, 0.6, (shape[0], 1))
    values = np.rint(rng.laplace(0, 1.5, shape)).astype(np.int64)
    return np.where(rng.uniform(size=shape) < rows, values, 0)


@pytest.mark.parametrize("shape", [(60, 90), (20, 300), (300, 20)])
def test_prices_of_what_is_there_sum_to_the_size_of_the_file(shape):
    codes = sparse(shape)
    bits = rates(codes).total(codes)
    tables = 8 * 80  # and streams' heads, which rates leave out
    assert 0.97 * bits < 8 * nbytes(encode(codes.astype(np.int8))) < 1.02 * bits + tables


def test_a_vector_is_priced_by_its_counts():
    codes = np.array([0, 0, 0, 0, 0, 0, 1, -2])
    found = rates(codes)
    assert found.zero[0] == pytest.approx(-np.log2(1 - 3 / 10))
    assert found.above[0] == pytest.approx(-np.log2(3 / 10) - np.log2(2 / 4))
    assert found.above[0] == found.below[0]
    np.testing.assert_allclose(found.distance[:2], 1)
    assert found.distance[2] > 2


def test_dense_rows_make_numbers_cheap():
    codes = np.zeros((40, 40), np.int64)
    codes[::2] = 1
    found = rates(codes)
    assert found.above[20:40:2].mean() < found.above[21:40:2].mean()
