"""Finding the outline of a matrix: the levels and directions that save more bits than they cost.

Levels minimise the code of the elements, as of a Laplace distribution, plus the code of the levels by how often each
occurs. Directions are singular vectors on a coarse grid, the finer the stronger the direction (the step that balances
the distortion of reverse water-filling against the bits of both factors). Floating point is used on the writer's side
only.
"""

import numpy as np

from gossamer.coders.outline import (
    GAIN_UNIT, MOST_DIRECTIONS, MOST_FACTOR, MOST_GAIN, PER_OCTAVE, SCALES, TOP_LEVEL, UNIT, Outline, plain,
)
from gossamer.coders.stream import Array


def fit(values: Array) -> Outline:
    """Return the outline with which ``values`` (rows, columns) are expected to take the fewest bits."""
    everything = slice(None)
    raw = values.astype(np.float64) * UNIT
    outline = plain(raw.shape, *_levels(np.abs(raw)))
    for _ in range(2):
        deviation = SCALES[outline.levels(everything)]
        gains, left, right = _directions(raw / deviation)
        if not gains.size:
            break
        trial = Outline(outline.base, outline.rows, outline.columns, gains, left, right)
        levels = _levels(np.abs(raw - trial.means(everything, deviation)))
        outline = Outline(*levels, gains, left, right)
        gains = _gains(raw / SCALES[outline.levels(everything)], left, right)
        outline = Outline(*levels, gains, left, right)
    return outline


def _levels(errors: Array) -> tuple[int, Array, Array]:
    """Return base, row and column levels for ``errors`` (not negative, 1/64), by alternating fits."""
    errors = np.maximum(errors, UNIT / 8)
    column = np.zeros(errors.shape[1], np.int64)
    row = _choose(errors, np.zeros(errors.shape[1]))
    for _ in range(3):
        column = _choose(errors.T, row)
        row = _choose(errors, column)
    base = int(row.min() + column.min())
    if base < 0:
        row, base = np.maximum(row, -column.min()), 0
    return base, row - row.min(), column - column.min()


def _choose(errors: Array, across: Array) -> Array:
    """Return a level for each row of ``errors`` given the levels ``across``: the fewest bits, its own included."""
    size = (errors * 2.0 ** (-across / PER_OCTAVE)).mean(axis=1)
    best = np.log2(size) * PER_OCTAVE
    level = np.rint(best).astype(np.int64)
    reach = np.arange(-TOP_LEVEL, 2 * TOP_LEVEL)
    for _ in range(3):
        counts = np.bincount(level + TOP_LEVEL, minlength=reach.size)[: reach.size] + 0.1
        price = -np.log2(counts / counts.sum())
        octaves = (reach[None] - best[:, None]) / PER_OCTAVE
        # Laplace: a deviation that is d octaves too large costs d + (2^-d - 1) log2 e bits an element.
        bits = errors.shape[1] * (octaves + (2.0**-octaves.clip(-30) - 1) * 1.4427)
        level = reach[np.argmin(bits + price, axis=1)]
    return level


def _directions(matrix: Array) -> tuple[Array, Array, Array]:
    """Return gains and factors of the directions of ``matrix`` that pay."""
    rows, columns = matrix.shape
    clipped = np.clip(matrix, -8, 8)
    u, sizes, v = np.linalg.svd(clipped, full_matrices=False)
    gains, left, right = [], [], []
    rest = matrix
    energy = float((rest**2).sum())
    missed = 0
    for k in range(min(MOST_DIRECTIONS, sizes.size)):
        strength = sizes[k] ** 2 / energy
        step = min(max(float(np.sqrt(6 * (rows + columns) / (matrix.size * strength))), 0.25), 1.8)
        one = _grid(u[:, k], step)
        other = _grid(one @ rest, step)
        one = _grid(rest @ other, step)
        norm = float((one @ one) * (other @ other))
        if not norm:
            break
        gain = round(float(one @ rest @ other) / norm * GAIN_UNIT)
        if not 0 < gain <= MOST_GAIN:
            break
        after = rest - gain / GAIN_UNIT * np.outer(one, other)
        less = float((after**2).sum())
        saved = matrix.size / 2 * np.log2(energy / less)
        if saved < _price(one) + _price(other) + 24:
            missed += 1
            if missed > 2:
                break
            continue
        rest, energy = after, less
        gains.append(gain)
        left.append(one)
        right.append(other)
    return np.array(gains, np.int64), np.array(left, np.int64), np.array(right, np.int64)


def _grid(vector: Array, step: float) -> Array:
    size = float(np.sqrt((vector**2).mean())) or 1.0
    return np.clip(np.rint(vector / (size * step)), -MOST_FACTOR, MOST_FACTOR)


def _price(factor: Array) -> float:
    counts = np.unique(factor, return_counts=True)[1]
    return float(-(counts * np.log2(counts / factor.size)).sum())


def _gains(matrix: Array, left: Array, right: Array) -> Array:
    """Return the gains of least squares for given factors."""
    gram = (left @ left.T) * (right @ right.T)
    match = np.einsum("ki,ij,kj->k", left.astype(float), matrix, right.astype(float), optimize=True)
    gains = np.linalg.lstsq(gram.astype(float), match, rcond=None)[0]
    return np.clip(np.rint(gains * GAIN_UNIT), 0, MOST_GAIN).astype(np.int64)
