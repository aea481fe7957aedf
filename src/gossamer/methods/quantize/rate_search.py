"""The numbers and the step of one site under a price of bits, for rate-distortion quantization (`rate_distortion`).

At high rate a uniform step has g h step² = 12 λ / ln 2; the search for the step sets out an octave below. Paths, if
they are asked for, put each element on one of two grids, as those before it in its row say (`trellis`): the same slope
wants a step 1.12 times as long on each grid, so that both together have one of 0.56.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gossamer.codings.paths import follow, least_bytes
from gossamer.codings.rates import Rates, rates
from gossamer.methods.quantize.feedback import Band, Codes, Matrix, Part, rounded
from gossamer.methods.quantize.trellis import traced
from gossamer.model import Layout, signed_bits

_MOST = 2**14
_ROUNDING = 1 / 6  # numbers below one half and this start at zero, for prices to start from
_LAST_SWEEPS = 3
_FIRST_FINER, _THEN_LONGER = 0.56, 2**0.25
_LEAST_BITS = 0.5  # a number on average; with fewer two grids gain next to nothing
_MOST_TRACED = 1 << 22  # numbers of a site: four paths in each row take about a hundred bytes for each


class Placed(NamedTuple):
    """A part of a site's weight, and where it lies."""

    layout: Layout
    part: Part


class Found(NamedTuple):
    """Codes, their step, what they cost (rise of the loss plus price of the bits), and the rates they make.

    Codes are whole numbers of steps or, if ``paths``, indices of paths.
    """

    cost: float
    codes: Codes
    step: float
    rates: Rates
    paths: bool = False

    @property
    def numbers(self) -> Codes:
        """How many steps each is."""
        return follow(self.codes).astype(np.int64) if self.paths else self.codes

    @property
    def bits(self) -> int:
        """Of a grid that holds the numbers."""
        return signed_bits(int(np.abs(self.numbers).max(initial=0)))


@dataclass(frozen=True, eq=False)
class Problem:
    """One site: its weight, where it may be other than zero, its parts, and the bias that takes up mean errors."""

    weight: Matrix
    free: NDArray[np.bool_]
    parts: Sequence[Placed]
    bias: str | None

    def rise(self, codes: Codes, step: float) -> float:
        """Return what the loss rises by."""
        error = self.weight - step * codes
        return sum(part.distortion(_matrix(layout, error)) for layout, part in self.parts)

    @property
    def whole_rows(self) -> bool:
        """Whether each row of a part is a whole row of the weight, as paths run."""
        size = self.weight[0].size if self.weight.ndim > 1 else 0
        places = np.arange(self.weight.size).reshape(self.weight.shape)
        rows = [_matrix(layout, places) for layout, _ in self.parts] if size else []
        return bool(rows) and all(np.array_equal(one, one[:, :1] // size * size + np.arange(size)) for one in rows)

    def first_step(self, price: float) -> float:
        """Return the step of high rates, less an octave."""
        logs = [math.log(3 * price / math.log(2)) - _mean_log(part) for _, part in self.parts]
        return self.bounded(math.exp(float(np.mean(logs)) / 2))

    def bounded(self, step: float) -> float:
        """Return the nearest step that leaves a number other than zero, and none beyond the largest."""
        largest = float(np.abs(self.weight).max())
        return float(np.float32(min(max(step, largest / _MOST), largest)))


@dataclass(frozen=True, eq=False)
class Search:
    """The search for the numbers and the step of one site, a bit being worth ``price``."""

    problem: Problem
    price: float

    @cached_property
    def _bands(self) -> list[list[Band]]:
        free = self.problem.free
        return [part.bands(self.price, float(_matrix(layout, free).mean())) for layout, part in self.problem.parts]

    def best(self) -> Found:
        """Return the best numbers found over steps a quarter of an octave apart."""
        best = self._start(self.problem.first_step(self.price))
        for _ in range(2):
            best = self._better(best)
        for factor in (2**0.5, 0.5**0.5):
            found = self._better(best, best.step * factor)
            moved = found.cost < best.cost
            while found.cost < best.cost:
                best, found = found, self._better(found, found.step * factor)
            if moved:
                break
        for factor in (2**0.25, 0.5**0.25):
            best = min(best, self._better(best, best.step * factor), key=lambda one: one.cost)
        for _ in range(_LAST_SWEEPS):
            best = min(best, self._better(best), key=lambda one: one.cost)
        return best

    def on_paths(self, plain: Found) -> Found:
        """Return the best found of paths near ``plain``, or itself if it is better or paths do not suit."""
        rich = plain.rates.total(plain.codes) >= _LEAST_BITS * plain.codes.size
        if not rich or plain.codes.size > _MOST_TRACED or not self.problem.whole_rows:
            return plain
        step = self.problem.bounded(_FIRST_FINER * plain.step)
        known_rates = plain.rates.stretched(2 * step / plain.step)
        best = self._better(Found(math.inf, plain.codes, step, known_rates, paths=True))
        if best.rates.total(best.codes) < 8 * least_bytes(plain.codes.shape):  # so many columns want more bytes
            return plain
        for factor in (1.0, 1.0, _THEN_LONGER, 1.0):
            best = min(best, self._better(best, best.step * factor), key=lambda one: one.cost)
        return min(plain, best, key=lambda one: one.cost)

    def _start(self, step: float) -> Found:
        """Return plain rounding, with a wider zero."""
        W, free = self.problem.weight, self.problem.free
        size = np.abs(W / step)
        codes = np.where(free, np.rint(np.maximum(size - _ROUNDING, 0)) * np.sign(W), 0).astype(np.int64)
        return Found(math.inf, codes, step, rates(codes))

    def _better(self, before: Found, step: float | None = None) -> Found:
        """Return what one sweep makes at the rates of ``before``, and at its step if no other is given."""
        step = self.problem.bounded(step or before.step)
        known = before.rates if step == before.step else before.rates.stretched(step / before.step)
        codes = self._swept(before, step, known)
        new = rates(codes, before.rates)
        found = Found(self.price * new.total(codes), codes, step, new, before.paths)
        return found._replace(cost=found.cost + self.problem.rise(found.numbers, step))

    def _swept(self, before: Found, step: float, costs: Rates) -> Codes:
        sweep, codes = traced if before.paths else rounded, before.codes
        new = torch.from_numpy(codes.copy())
        for (layout, _), bands in zip(self.problem.parts, self._bands, strict=True):
            zero, below, above = (_matrix(layout, bits) for bits in (costs.zero, costs.below, costs.above))
            there = Rates(zero, below, above, costs.distance)
            found = sweep(bands, step, self.price, there, _matrix(layout, self.problem.free))
            new = layout.put(new, torch.from_numpy(found))
        return new.numpy()


def _matrix(layout: Layout, array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(layout.matrix(torch.from_numpy(np.ascontiguousarray(array))).numpy())


def _mean_log(part: Part) -> float:
    """Return the mean logarithm of what is left of the curvature of each element."""
    H = part.moment
    if H.ndim == 1:
        return float(np.log(part.curvature).mean() + np.log(H + part.damping * H.mean()).mean())
    damped = H + part.damping * float(H.diagonal().mean()) * np.eye(len(H))
    return float(np.log(part.curvature).mean() + np.linalg.slogdet(damped)[1] / len(H))
