"""Curves, outlines, classes and the walk over decisions, against hand-worked cases and slow references."""

from itertools import pairwise
from math import erfc, exp, pi, sqrt

import numpy as np
import pytest

from gossamer import coders
from gossamer.coders import blended, outline, outlined, stream
from gossamer.coders.classes import AROUND_ZERO, KINDS, Plan, Tables, blocks
from gossamer.coders.curves import SHAPES, TAIL_BITS, tail
from gossamer.coders.fit import fit, fits
from gossamer.coders.outline import SCALES, UNIT, Outline, plain
from gossamer.errors import CodingError


def product(rows: int = 90, columns: int = 120, rank: int = 2, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    """A matrix of low rank and noise, whole numbers of one scale or four."""
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns)) + noise * rng.normal(size=(rows, columns))
    return np.rint(3 * whole * rng.choice([1.0, 4.0], (rows, 1))).astype(np.int64)


def test_tails_agree_with_the_functions_they_stand_for():
    for at in (-5.0, -1.0, 0.0, 0.3, 1.0, 2.5, 4.0):
        distance, deviation = np.array([round(at * 64_000)]), np.array([64_000])
        shares = {shape: int(tail(shape, distance, deviation)[0]) / 2**TAIL_BITS for shape in SHAPES}
        assert shares["logistic"] == pytest.approx(1 / (1 + exp(at * 2 * np.log(2))), rel=0.01)
        assert shares["normal"] == pytest.approx(erfc(at / sqrt(pi)) / 2, abs=4e-4)
        assert min(shares.values()) <= shares["between"] <= max(shares.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_tails_never_rise(shape):
    distance = np.arange(-4000, 4000)
    for deviation in (1, 3, 64, 5000):
        assert (np.diff(tail(shape, distance, np.full_like(distance, deviation))) <= 0).all()


def test_an_outline_by_hand():
    """Level 24 is a deviation of 64 / 64; half of 2 times 3 deviations of it is a mean of 3."""
    found = Outline(
        20, np.array([4, 8]), np.array([0, 4]), np.array([1 << 15]), np.array([[2, -1]]), np.array([[3, 0]])
    )
    level = found.levels(found.rows)
    assert level.tolist() == [[24, 28], [28, 32]]
    assert SCALES[level].tolist() == [[64, 128], [128, 256]]
    assert (found.shares() * SCALES[level] / 65536).tolist() == [[192, 0], [-192, 0]]


def test_an_outline_survives_writing():
    found = fit(product())
    assert found.gains.size == 2
    head, parts = outline.write(found)
    data = head + stream.write(parts, "ans")
    assert outline.length(data) == len(head)
    back = outline.read(head, stream.read(data[len(head) :], "ans"), (90, 120))
    for name in ("base", "rows", "columns", "gains", "left", "right"):
        assert np.array_equal(getattr(back, name), getattr(found, name)), name


def test_fit_finds_the_scales_and_the_directions_that_were_planted():
    values = product(noise=0.5)
    found = fit(values)
    level = found.levels(found.rows)
    mean = found.shares() * SCALES[level] / 65536 / UNIT
    assert ((values - mean) ** 2).sum() < 0.2 * (values**2).sum()  # a ninth is noise; a coarse grid takes the rest
    assert [outline.gains.size > 0 for outline in fits(values)] == [True, False]
    noise = np.rint(np.random.default_rng(1).normal(size=(80, 80)) * 4).astype(np.int64)
    assert fit(noise).gains.size == 0  # nothing pays in noise
    assert np.ptp(fit(noise).rows) == 0


def test_classes_agree_with_a_slow_reference():
    """Element by element in whole numbers, as the page on models states it."""
    values = product(12, 15)
    found = fit(values)
    blocks_ = [Plan(found, 200, 401, around_zero=way).block(slice(None)) for way in (False, True)]
    numbers = [block.numbers.reshape(values.shape) for block in blocks_]
    distances = [block.distances(values).reshape(values.shape) for block in blocks_]
    for row in range(12):
        for column in range(15):
            level = min(found.base + int(found.rows[row]) + int(found.columns[column]), 95)
            scale = int(SCALES[level])
            share = sum(
                int(g) * int(u[row]) * int(v[column])
                for g, u, v in zip(found.gains, found.left, found.right, strict=True)
            )
            mean = share * scale >> 16
            anchor = (mean + 32) >> 6
            rest = mean - 64 * anchor
            parts = min(max(128 // scale, 1), 8)
            side = -1 if rest < 0 else 1
            assert numbers[0][row, column] == level * 8 + min(abs(rest) * 2 * parts // 64, parts - 1)
            assert distances[0][row, column] == side * (values[row, column] - anchor)
            far = next((k for k in range(7) if (k + 1) ** 2 > abs(share) >> 12), 7)
            assert numbers[1][row, column] == (level >> 1) * 8 + far
            assert distances[1][row, column] == (-1 if share < 0 else 1) * values[row, column]


def test_a_table_is_a_curve_and_what_was_seen():
    """Weight 256 (kind 8, normal), 64 for each element; deviation one, fraction from 0 to a half: centre a quarter."""
    tables = Tables(4, 8, np.zeros(0, np.int64))
    edges = [64 * d - 32 - 8 for d in range(-4, 6)]
    beyond = [int(tail("normal", np.array([edge]), np.array([64]))[0]) for edge in edges]
    curve = [(a - b) * 256 * 64 // 2**40 + 1 for a, b in pairwise(beyond)]
    assert tables.frequencies(24 * 8).tolist() == curve
    tables.see(24 * 8, np.array([4, 4, 5]))
    curve[4], curve[5] = curve[4] + 128, curve[5] + 64
    assert tables.frequencies(24 * 8).tolist() == curve


def test_blocks_cover_all_rows_and_grow():
    found = list(blocks(1000, 10))
    assert [found[0].start, found[-1].stop] == [0, 1000]
    assert all(left.stop == right.start for left, right in pairwise(found))
    assert found[0] == slice(0, 51)
    assert found[-2].stop - found[-2].start > 150
    assert list(blocks(3, 10_000)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize("model", ["outlined", "blended"])
def test_structure_that_no_table_sees_pays(model):
    values = product()
    symbols, alphabet = values - values.min(), int(np.ptp(values)) + 1
    plain = len(coders.encode(symbols, alphabet, model="static"))
    assert len(coders.encode(symbols, alphabet, model=model)) < 0.85 * plain


def test_the_walk_sees_neighbours():
    """Columns drift like pixels: nothing for levels and few directions, much for the error of the column before."""
    rng = np.random.default_rng(2)
    values = np.rint(
        np.cumsum(rng.normal(size=(100, 200)) * 2, axis=1) % 7 + np.cumsum(rng.normal(size=(100, 200)), axis=1)
    )
    symbols = (values - values.min()).astype(np.int64)
    sizes = {name: len(coders.encode(symbols, int(symbols.max()) + 1, model=name)) for name in ("outlined", "blended")}
    assert sizes["blended"] < 0.93 * sizes["outlined"]


@pytest.mark.parametrize("model", ["outlined", "blended"])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((5, 7), int),
        np.full((1, 1), 3),
        np.eye(9, dtype=int) * 40,
        -np.eye(9, dtype=int) + 1,
        np.arange(500).reshape(2, 250),
        np.arange(36).reshape(3, 3, 2, 2) % 5,
    ],
    ids=["zeros", "one", "above", "below", "wide", "kernel"],
)
def test_odd_matrices_survive(model, values):
    for coder in ("ans", "range"):
        data = coders.encode(values, 500, model=model, coder=coder)
        assert np.array_equal(coders.decode(data, values.shape, 500, model=model, coder=coder), values.reshape(-1))


def test_bounds():
    with pytest.raises(CodingError, match="within 511 of their mean"):
        coders.encode(np.array([[0, 0, 1100], [0, 0, 0]]), 1101, model="outlined")
    with pytest.raises(CodingError, match="1 to 1048576 elements"):
        coders.encode(np.zeros((1025, 1024), np.int8), 2, model="blended")
    with pytest.raises(CodingError, match="5000 steps and lag 2"):
        coders.decode(bytes([0, 0, 0, 2, *bytes(5)]), (5000, 2), 2, model="blended")
    head = bytes(5) + bytes([0, 0, 0, 1, 20, 0, 0, 0, 0]) + bytes(60)
    with pytest.raises(CodingError, match="3 x 4 has 20 directions"):
        coders.decode(head, (3, 4), 9, model="outlined")
    with pytest.raises(CodingError, match="cut off in the gains of 20"):
        outline.length(bytes([0, 0, 0, 1, 20, 0, 0, 0, 0]) + bytes(59))
    with pytest.raises(CodingError, match="levels 96, 0, 0"):
        outline.length(bytes([96, 0, 0, 1, 0, 0, 0, 0, 0]))
    with pytest.raises(CodingError, match=f"kind {KINDS}"):
        coders.decode(bytes([0, 0, 0, 0, KINDS]), (3, 4), 9, model="outlined")
    assert AROUND_ZERO == len(SHAPES) == 3
    assert blended.MOST_STEPS**2 > blended.LARGEST
    assert outlined.least_bytes((64, 64)) == 256 + 8
    assert blended.least_bytes((64, 32), 255) == 2 * 9 * 64 + 16
    assert plain((2, 3), 0, np.zeros(2, int), np.zeros(3, int)).shares().shape == (2, 3)
