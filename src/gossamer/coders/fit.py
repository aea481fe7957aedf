"""Finding the outline of a matrix: the levels and directions that save more bits than they cost.

Levels minimise the code of the elements, as of a Laplace distribution, plus the code of the levels by how often each
occurs. Directions are singular vectors on a coarse grid, the finer the stronger the direction (the step that balances
the distortion of reverse water-filling against the bits of both factors). Floating point is used on the writer's side
only.
"""

from collections.abc import Iterator

import numpy as np

from gossamer.coders.outline import (
    GAIN_UNIT,
    MOST_DIRECTIONS,
    MOST_FACTOR,
    MOST_GAIN,
    PER_OCTAVE,
    SCALES,
    TOP_LEVEL,
    UNIT,
    Outline,
    plain,
)
from gossamer.coders.stream import Array

_SMALL = 1 << 20  # elements up to which directions are sought to the last
_FEW = 16  # directions sought in larger matrices
_LEAST_ERROR = UNIT / 8


def fit(values: Array) -> Outline:
    """Return the outline with which ``values`` (rows, columns) are expected to take the fewest bits."""
    return fits(values)[0]


def fits(values: Array) -> list[Outline]:
    """Return the outline expected to take the fewest bits, and, if that has directions, the one of levels alone.

    Args:
        values: whole numbers around zero, (rows, columns).
    """
    raw = values.astype(np.float32)
    raw *= np.float32(UNIT)
    outline = levels_alone = plain(raw.shape, *_levels(raw))
    for _ in range(2 if raw.size <= _SMALL else 1):
        found = _directions(_scaled(raw, outline))
        if not found[0].size:
            break
        levels = _levels(_without(raw, outline, found))
        outline = Outline(*levels, *found)
        outline = Outline(*levels, _gains(_scaled(raw, outline), *found[1:]), *found[1:])
    return [outline] if outline is levels_alone else [outline, levels_alone]


def _deviation(outline: Outline) -> Array:
    kinds, kind = np.unique(outline.rows, return_inverse=True)
    return np.asarray(SCALES.astype(np.float32)[outline.levels(kinds)][kind])


def _scaled(raw: Array, outline: Outline) -> Array:
    """Return ``raw`` in deviations."""
    deviation = _deviation(outline)
    return np.divide(raw, deviation, out=deviation)


def _without(raw: Array, outline: Outline, found: tuple[Array, Array, Array]) -> Array:
    """Return ``raw`` less the means of the directions ``found``."""
    gains, left, right = found
    share = (gains[:, None] / GAIN_UNIT * left).T.astype(np.float32) @ right.astype(np.float32)
    return np.asarray(raw - share * _deviation(outline))


def _levels(errors: Array) -> tuple[int, Array, Array]:
    """Return base, row and column levels for ``errors`` (1/64), by alternating fits."""
    sizes = np.abs(errors)
    np.maximum(sizes, np.float32(_LEAST_ERROR), out=sizes)
    row = _choose(sizes.mean(axis=1), errors.shape[1])
    column = np.zeros(errors.shape[1], np.int64)
    for _ in range(3):
        column = _choose(_weights(row) @ sizes / row.size, errors.shape[0])
        row = _choose(sizes @ _weights(column) / column.size, errors.shape[1])
    base = int(row.min() + column.min())
    row, column = row - row.min(), column - column.min()
    if base < 0:
        row, base = np.maximum(row + base, 0), 0
    return min(base, TOP_LEVEL), np.minimum(row, TOP_LEVEL), np.minimum(column, TOP_LEVEL)


def _weights(levels: Array) -> Array:
    return np.asarray(2.0 ** (-levels / PER_OCTAVE)).astype(np.float32)


def _choose(sizes: Array, count: int) -> Array:
    """Return a level for each mean error of ``count`` elements: the fewest bits, those of the level included."""
    best = np.log2(sizes.astype(np.float64)) * PER_OCTAVE
    level = np.rint(best).astype(np.int64)
    reach = np.arange(level.min(), level.max() + 1)
    for _ in range(3):
        counts = np.bincount(level - reach[0], minlength=reach.size) + 0.1
        price = -np.log2(counts / counts.sum())
        octaves = (reach[None] - best[:, None]) / PER_OCTAVE
        # Laplace: a deviation that is d octaves too large costs d + (2^-d - 1) log2 e bits an element.
        bits = count * (octaves + (2.0**-octaves - 1) * 1.4427)
        level = np.asarray(reach[np.argmin(bits + price, axis=1)])
    return np.asarray(level)


def _directions(matrix: Array) -> tuple[Array, Array, Array]:
    """Return gains and factors of the directions of ``matrix`` that pay; of the matrix their rest is left."""
    rest = matrix
    energy = float(np.vdot(rest, rest))
    found: list[tuple[int, Array, Array]] = []
    missed = 0
    for vector, strength in _strongest(np.clip(matrix, -_CLIP, _CLIP)):
        share = strength**2 / max(energy, 1e-9)
        if not share:
            break
        step = float(np.clip(np.sqrt(6 * sum(matrix.shape) / (matrix.size * share)), *_STEPS))
        right = _grid(_grid(vector, step) @ rest, step)
        left = _grid(rest @ right, step)
        norm = float((left @ left) * (right @ right))
        match = float(left @ rest @ right)
        gain = round(match / max(norm, 1.0) * GAIN_UNIT)
        if not 0 < gain <= MOST_GAIN:
            break
        taken = gain / GAIN_UNIT
        less = max(energy - 2 * taken * match + taken**2 * norm, _LEAST_SHARE * energy)
        if matrix.size / 2 * np.log2(energy / less) < _price(left) + _price(right) + 24:
            missed += 1
            if missed > _PATIENCE:
                break
            continue
        rest -= np.outer(np.float32(taken) * left, right)
        energy = less
        found.append((gain, left, right))
    return _stacked(found, matrix.shape)


_CLIP = 8  # deviations: no single element makes a direction
_STEPS = (0.25, 1.8)
_PATIENCE = 2  # directions in a row that do not pay
_LEAST_SHARE = 1e-6  # of the energy that one direction may leave, rounding apart


def _stacked(found: list[tuple[int, Array, Array]], shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    left, right = np.zeros((len(found), shape[0]), np.int64), np.zeros((len(found), shape[1]), np.int64)
    for k, (_, one, other) in enumerate(found):
        left[k], right[k] = one, other
    return np.array([gain for gain, _, _ in found], np.int64), left, right


def _strongest(matrix: Array) -> Iterator[tuple[Array, float]]:
    """Yield left singular vectors of ``matrix`` and their singular values, the strongest first.

    Of large matrices some, by a random sketch and two power iterations (Halko, Martinsson and Tropp 2011).
    """
    if matrix.size <= _SMALL:
        left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    else:
        sketch = np.random.default_rng(0).standard_normal((matrix.shape[1], _FEW + 8)).astype(np.float32)
        for _ in range(2):
            sketch = matrix.T @ np.linalg.qr(matrix @ sketch)[0]
        basis = np.linalg.qr(matrix @ sketch)[0]
        inner, sizes, _ = np.linalg.svd(basis.T @ matrix, full_matrices=False)
        left = basis @ inner[:, :_FEW]
    most = min(MOST_DIRECTIONS, left.shape[1], matrix.size // sum(matrix.shape))
    for k in range(most):
        yield left[:, k], float(sizes[k])


def _grid(vector: Array, step: float) -> Array:
    """Return ``vector`` in whole numbers of ``step`` root mean squares."""
    size = float(np.sqrt((vector**2).mean())) or 1.0
    return np.asarray(np.clip(np.rint(vector / (size * step)), -MOST_FACTOR, MOST_FACTOR), np.float32)


def _price(factor: Array) -> float:
    """Return the bits of ``factor`` by how often its values occur."""
    counts = np.unique(factor, return_counts=True)[1]
    return float(-(counts * np.log2(counts / factor.size)).sum())


def _gains(matrix: Array, left: Array, right: Array) -> Array:
    """Return the gains of least squares for given factors."""
    gram = (left @ left.T) * (right @ right.T)
    match = ((left.astype(np.float32) @ matrix) * right).sum(axis=1)
    gains = np.linalg.lstsq(gram.astype(np.float64), match.astype(np.float64), rcond=None)[0]
    return np.asarray(np.clip(np.rint(gains * GAIN_UNIT), 0, MOST_GAIN)).astype(np.int64)
