"""Grids and significant bits against cases worked by hand."""

import numpy as np
import pytest

from gossamer.codec.grid import bits_for, keep_bits, on_grid, spread
from gossamer.codec.target import search
from gossamer.codings import Affine, Dense, decode


def test_the_nearest_points():
    dense = Dense(np.array([[0.0, 0.24, 0.26], [-0.74, -0.76, 1.0]], np.float32))
    coded = on_grid(dense, 0.5, spread(dense))
    assert isinstance(coded, Affine)
    assert decode(coded.codes).tolist() == [[0, 0, 1], [-1, -2, 2]]
    assert decode(coded).tolist() == [[0, 0, 0.5], [-0.5, -1, 1]]


def test_spread():
    found = spread(Dense(np.array([1.0, 2.0, 3.0, -6.0], np.float32)))
    assert (found.std, found.most) == (np.sqrt(12.5), 6)
    assert spread(Dense(np.array([1.0, np.nan], np.float32))) is None
    assert spread(Dense(np.zeros(0, np.float32))) is None
    assert spread(Dense(np.array([1, 2]))) is None
    one = Dense(np.array([0x3F80, 0xBF80], np.uint16), "bfloat16")  # 1 and -1
    assert spread(one) == (1.0, 1.0)


def test_the_largest_numbers_do_not_become_infinite():
    half = Dense(np.array([65504, -65504, 30000], np.float16))
    assert np.isfinite(decode(on_grid(half, 50_000.0, spread(half)))).all()
    kept = keep_bits(Dense(np.array([np.finfo(np.float32).max], np.float32)), 11)
    assert np.isfinite(kept.array).all()


def test_a_grid_finer_than_the_numbers_says_nothing():
    half = Dense(np.linspace(-1, 1, 64, dtype=np.float16))
    assert on_grid(half, 1e-4, spread(half)) is None
    assert on_grid(half, 1e-2, spread(half)) is not None
    flat = Dense(np.ones(9, np.float32))
    assert on_grid(flat, 0.0, spread(flat)) is None


def test_significant_bits():
    # 1 + 2^-10 has 11 significant bits; a further 2^-11 is a tie, and goes to the even neighbour
    values = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-12), 0.0, -0.0, 2 - 2**-20], np.float32)
    kept = keep_bits(Dense(values), 11).array
    assert kept.tolist() == [1 + 2**-10, 1, 1 + 2**-9, -1, 0, 0, 2]
    assert np.signbit(kept[5])
    assert keep_bits(Dense(values.astype(np.float16)), 11) is None
    found = spread(Dense(values))
    assert bits_for(1.0, found) == 11
    assert bits_for(2.0**-15, found) == 17


def bytes_at(step):
    """A file of 1,000 bytes and 10,000 weights whose rate falls as that of a Gaussian does, in whole bytes."""
    return 1000 + int(10_000 / 8 * np.log2(1 + 17.1 / step**2) / 2)


@pytest.mark.parametrize("size", [1700, 2000, 4000, 9000])
def test_the_step_that_meets_a_size(size):
    tried = []

    def trial(step):
        tried.append(step)
        return bytes_at(step)

    step = search(size, 10_000, trial)
    assert 0.995 * size <= bytes_at(step) <= size
    assert len(tried) <= 8


def test_a_size_out_of_reach():
    assert search(1000, 10_000, bytes_at) is None
    assert search(10**9, 10_000, bytes_at) == 2.0**-16
