"""Levels and ranges by hand, and least squared error against brute force."""

from functools import partial

import numpy as np
import pytest

from gossamer.methods.quantize.minmax import minmax
from gossamer.methods.quantize.mse import least_squares
from gossamer.methods.quantize.percentile import percentile
from gossamer.methods.quantize.ranges import choose_levels
from gossamer.methods.quantize.uniform import affine, symmetric

MATRIX = np.array([[0.5, -1.0, 0.25], [3.0, 0.0, -1.5], [0.0, 0.0, 0.0]], np.float32)


def test_symmetric_3_bit_levels_of_a_3_by_3_matrix_by_hand():
    # 3 bits: codes -4 to 3, the largest magnitude gets 3. Steps: 1/3, 3/3 and, for the row of zeros, 1.
    levels = symmetric(*minmax(MATRIX), bits=3)
    np.testing.assert_array_equal(levels.scale, np.array([np.float32(1) / np.float32(3), 1.0, 1.0], np.float32))
    np.testing.assert_array_equal(levels.zero, [0, 0, 0])
    assert (levels.lowest, levels.highest) == (-4, 3)
    # 0.5 / (1/3) = 1.5 goes to the even 2, -1 to -3, 0.25 * 3 = 0.75 to 1; -1.5 goes to the even -2.
    third = np.float32(1) / np.float32(3)
    wanted = np.array([[2 * third, -3 * third, third], [3.0, 0.0, -2.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(levels.snap(MATRIX), wanted)


def test_affine_2_bit_levels_by_hand():
    # -1 to 2 in codes 0 to 3: step 1, zero point 1.
    levels = affine(np.float32([-1.0]), np.float32([2.0]), bits=2)
    assert (levels.scale[0], levels.zero[0], levels.lowest, levels.highest) == (1.0, 1, 0, 3)
    got = levels.snap(np.float32([[-5.0, -0.4, 0.0, 0.6, 1.4, 9.0]]))
    np.testing.assert_array_equal(got, [[-1.0, 0.0, 0.0, 1.0, 1.0, 2.0]])


@pytest.mark.parametrize(("low", "high"), [(0.3, 2.0), (-2.0, -0.3), (-0.1, 0.7), (0.0, 0.0), (-1e-20, 1e-20)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_is_always_exactly_a_level(low, high, bits):
    for levels in (
        affine(np.float32([low]), np.float32([high]), bits),
        symmetric(np.float32([low]), np.float32([high]), bits),
    ):
        assert levels.snap(np.float32([[0.0]]))[0, 0] == 0.0
        assert levels.lowest <= levels.zero[0] <= levels.highest
        assert levels.scale[0] > 0


def test_minmax_by_hand():
    low, high = minmax(MATRIX)
    np.testing.assert_array_equal(low, [-1.0, -1.5, 0.0])
    np.testing.assert_array_equal(high, [0.5, 3.0, 0.0])


def test_percentiles_by_hand():
    # Of 0, 1, ..., 100 the percentile p is p itself.
    rows = np.arange(101, dtype=np.float32)[None]
    low, high = percentile(rows, 90.0)
    assert (low[0], high[0]) == (10.0, 90.0)
    low, high = percentile(rows, 100.0)
    assert (low[0], high[0]) == (0.0, 100.0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", [symmetric, affine])
def test_least_squares_is_as_good_as_brute_force(bits, kind):
    rng = np.random.default_rng(bits)
    rows = np.concatenate([rng.normal(size=(3, 400)), rng.normal(size=(3, 4)) * 8], axis=1).astype(np.float32)
    make = partial(kind, bits=bits)
    found = make(*least_squares(rows, *minmax(rows), make))
    for row in range(len(rows)):
        one = rows[row : row + 1]
        low, high = minmax(one)
        errors = [
            float(np.square(make(low * t, high * t).snap(one).astype(np.float64) - one).sum())
            for t in np.linspace(0.2, 1.0, 1601, dtype=np.float32)
        ]
        got = float(np.square(found.snap(rows)[row].astype(np.float64) - one[0]).sum())
        assert got <= 1.05 * min(errors)


def test_least_squares_clamps_an_outlier_at_few_bits_only():
    rows = np.concatenate([np.linspace(-1, 1, 1000), [4.0]]).astype(np.float32)[None]
    ends = {}
    for bits in (3, 8):
        make = partial(symmetric, bits=bits)
        _, ends[bits] = least_squares(rows, *minmax(rows), make)
    assert ends[3][0] < 2.5
    assert ends[8][0] > 3.5


def test_a_choice_by_name_or_by_percentile():
    rows = np.arange(101, dtype=np.float32)[None]
    make = partial(affine, bits=8)
    assert choose_levels(rows, "minmax", make).scale[0] == np.float32(100 / 255)
    assert choose_levels(rows, 90, make).scale[0] == np.float32(90 / 255)
    assert choose_levels(rows, "minmax", make, (0.0, 200.0)).scale[0] == np.float32(200 / 255)
