"""Rate-distortion quantization: whole numbers that cost few bits where that hurts the loss least, without training.

Minimises the rise of the loss plus λ times the bits of the file over the whole numbers Q and the step of every site.
The rise is ½ Σ_r g_r e_r H e_rᵀ, e_r the rows of E = W - step Q, H from the inputs and g from the loss
(`calibrate.curvature`); H is the covariance of inputs where a bias takes up what errors do to the mean (`centred`).
Errors are fed back through the factor of H (`feedback`), and the bits are those of the model that will code Q
(`codings.rates`), asked anew after every sweep since it learns from what it codes. One λ for all sites means that
everywhere the last bit buys as much (Shoham and Gersho 1988). The objective with H alone, in the same greedy form, is
that of Conzelmann and Bamler, "Reducing Storage of Pretrained Neural Networks by Rate-Constrained Quantization and
Entropy Coding", 2025 (arXiv 2505.18758). At high rate a uniform step has g h step² = 12 λ / ln 2; the search for each
step sets out an octave below.

With ``trellis`` each element then is on one of two grids, as those before it in its row say (`trellis`). The same slope
wants a step 1.12 times as long on each grid, so that both together have one of 0.56.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.codings.paths import follow, least_bytes
from gossamer.codings.rates import Rates, rates
from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.quantize.centred import covariances, taken_up, taking_up
from gossamer.methods.quantize.feedback import Band, Codes, Matrix, Part, covered, rounded
from gossamer.methods.quantize.small import rounded_small
from gossamer.methods.quantize.trellis import traced
from gossamer.model import Evidence, Grid, Layout, Method, Moment, Plan, Skip, Subject, live_weight, signed_bits

_MOST = 2**14
_ROUNDING = 1 / 6  # numbers below one half and this start at zero, for prices to start from
_LAST_SWEEPS = 3
_FIRST_FINER, _THEN_LONGER = 0.56, 2**0.25
_LEAST_BITS = 0.5  # a number on average; with fewer two grids gain next to nothing
_MOST_TRACED = 1 << 22  # numbers of a site: four paths in each row take about a hundred bytes for each
_HINT = "calibrate with needs={'curvature', 'mean'}"


class RateDistortion(Method, frozen=True, tag="quantize.rate_distortion"):
    """Put each site on whole multiples of one step, chosen together so that the file gets small and the loss stays.

    Everything that is rounded makes up for what was rounded before it. Zeros fall out by themselves; zeros of a mask
    stay zero. Nothing is trained, and under the built-in losses no label is read: the evidence is inputs and what the
    model itself believes. Where the patterns leave out all sites, biases and the like are rounded alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"curvature", "mean"})
    strength: ClassVar[str | None] = "price"
    strengths: ClassVar[tuple[float, float] | None] = (1e-4, 1.0)
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"price": 0.001})

    price: Annotated[
        float,
        msgspec.Meta(gt=0.0, description="rise of the loss (nats) that one bit less for every weight is worth"),
    ] = 0.005
    weigh: Annotated[
        Literal["loss", "outputs"],
        msgspec.Meta(description="errors count by what they do to the loss, or to the outputs of their own layer"),
    ] = "loss"
    others: Annotated[
        bool,
        msgspec.Meta(
            description="round biases, norms and their statistics too, where errors count by the loss; biases take up "
            "what rounding does to mean outputs in any case"
        ),
    ] = True
    damping: Annotated[
        float, msgspec.Meta(ge=1e-6, description="added to the diagonal of the second moment, in shares of its mean")
    ] = 0.01
    spread: Annotated[
        float, msgspec.Meta(ge=0.0, description="added to the curvature of each output, in shares of the site's mean")
    ] = 0.3
    trellis: Annotated[
        bool,
        msgspec.Meta(
            description="numbers are on one of two grids, as those before them say: some percent fewer bytes, in two "
            "to three times the time"
        ),
    ] = False
    most_inputs: Annotated[
        int, msgspec.Meta(ge=1, description="sites with more inputs feed no errors from input to input")
    ] = 8192

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a grid and new values for every chosen site whose inputs are known.

        Raises:
            PatternError: a pattern of names matches no site.
            ModelError: a weight is not finite.
            EvidenceError: no curvature or no mean was collected.
        """
        if evidence is None:
            raise EvidenceError(f"{self.tag} was given no evidence", hint=_HINT)
        if self.weigh == "loss" and not evidence.has("curvature"):
            raise EvidenceError(
                f"{self.tag} was given evidence without curvature",
                hint=f"{_HINT}, or weigh errors by outputs",
            )
        reasons = {site.name: self._why_not(subject, site.name, evidence) for site in self.chosen(subject)}
        skipped = [Skip(name, reason) for name, reason in reasons.items() if reason is not None]
        wanted = [name for name, reason in reasons.items() if reason is None]
        known = wanted or subject.sites  # patterns that name no site leave a price per weight all the same
        weights = sum(subject.sites[name].numel for name in known)
        grids: dict[str, Grid] = {}
        tensors: dict[str, Tensor] = {}
        biases: dict[str, Tensor] = {}
        for name in wanted:
            problem = self._problem(subject, name, evidence)
            search = _Search(problem, self.price / weights)
            best = plain = search.best()
            held = subject.constraints.get(name)
            if self.trellis and _may_follow_paths(subject, name):
                best = search.on_paths(plain)
            narrow = held.grid.bits if held is not None and held.grid is not None else 32
            best = plain if best.bits > narrow else best
            if best.bits > narrow:
                skipped.append(Skip(name, f"it is on {narrow} bits already"))
                continue
            numbers, step = best.numbers, torch.tensor(best.step, dtype=torch.float32)
            grids[name] = Grid(step, torch.tensor(0, dtype=torch.int32), best.bits)
            tensors[name] = torch.from_numpy(numbers).float() * step
            if problem.bias is not None:
                biases[problem.bias] = taken_up(subject, name, problem.bias, tensors[name], evidence)
        tensors |= biases
        if self.others and self.weigh == "loss" and (wanted or not reasons):
            tensors |= rounded_small(subject, evidence, self.price / weights, biases, self._named)
        return Plan(self.tag, constraints=grids, tensors=tensors, skipped=tuple(skipped))

    def _named(self, name: str) -> bool:
        """Return whether the patterns, which are of sites, name this tensor."""
        some, none = (any(fnmatchcase(name, one) for one in patterns) for patterns in (self.include, self.exclude))
        return some and not none

    def _why_not(self, subject: Subject, name: str, evidence: Evidence) -> str | None:
        """Return why a site is left alone, or None if it is not.

        Raises:
            ModelError: a weight is not finite.
        """
        held = subject.constraints.get(name)
        if not subject.sites[name].numel:
            return "it has no values"
        if held is not None and held.shared:
            return "its values are shared"
        if name in evidence.unread:
            return f"its inputs are not known: {evidence.unread[name]}"
        if self.weigh == "loss" and name not in evidence.curvatures:
            return "no gradient reached it as a whole, so what its errors do to the loss is not known"
        weight = live_weight(subject, name).detach().cpu()
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{name}: a weight is not finite, so it cannot be put on a grid")
        return _why_no_parts(weight, *self._known(name, evidence))

    def _known(self, name: str, evidence: Evidence) -> tuple[Sequence[Moment], Sequence[Tensor | None]]:
        """Return the second moments and the curvatures of the parts of a site."""
        moments = evidence.second_moment(name)
        return moments, evidence.curvature(name) if self.weigh == "loss" else (None,) * len(moments)

    def _problem(self, subject: Subject, name: str, evidence: Evidence) -> "_Problem":
        """Return what there is to solve for a site, in float64."""
        held = subject.constraints.get(name)
        weight = live_weight(subject, name).detach().cpu().double()
        free = torch.ones(weight.shape, dtype=torch.bool) if held is None or held.mask is None else held.mask.keep
        bias = taking_up(subject, name, evidence)
        moments, curvatures = self._known(name, evidence)
        spreads = [one.expected.numpy() for one in moments] if bias is None else covariances(name, evidence)
        known = zip(moments, spreads, curvatures, strict=True)
        parts = [self._part(weight, one.layout, H, g) for one, H, g in known]
        return _Problem(weight.numpy(), free.numpy(), parts, bias)

    def _part(self, weight: Tensor, layout: Layout, H: Matrix, curvature: Tensor | None) -> "_Placed":
        matrix = layout.matrix(weight).numpy()
        if H.ndim == 2 and len(H) > self.most_inputs:
            H = H.diagonal().copy()
        g = np.ones(len(matrix)) if curvature is None else curvature.double().numpy()
        return _Placed(layout, Part(matrix, g + self.spread * g.mean(), H, self.damping))


class _Placed(NamedTuple):
    """A part of a site's weight, and where it lies."""

    layout: Layout
    part: Part


class _Found(NamedTuple):
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
class _Problem:
    """One site: its weight, where it may be other than zero, its parts, and the bias that takes up mean errors."""

    weight: Matrix
    free: NDArray[np.bool_]
    parts: Sequence[_Placed]
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
class _Search:
    """The search for the numbers and the step of one site, a bit being worth ``price``."""

    problem: _Problem
    price: float

    @cached_property
    def _bands(self) -> list[list[Band]]:
        free = self.problem.free
        return [part.bands(self.price, float(_matrix(layout, free).mean())) for layout, part in self.problem.parts]

    def best(self) -> _Found:
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

    def on_paths(self, plain: _Found) -> _Found:
        """Return the best found of paths near ``plain``, or itself if it is better or paths do not suit."""
        rich = plain.rates.total(plain.codes) >= _LEAST_BITS * plain.codes.size
        if not rich or plain.codes.size > _MOST_TRACED or not self.problem.whole_rows:
            return plain
        step = self.problem.bounded(_FIRST_FINER * plain.step)
        known_rates = plain.rates.stretched(2 * step / plain.step)
        best = self._better(_Found(math.inf, plain.codes, step, known_rates, paths=True))
        if best.rates.total(best.codes) < 8 * least_bytes(plain.codes.shape):  # so many columns want more bytes
            return plain
        for factor in (1.0, 1.0, _THEN_LONGER, 1.0):
            best = min(best, self._better(best, best.step * factor), key=lambda one: one.cost)
        return min(plain, best, key=lambda one: one.cost)

    def _start(self, step: float) -> _Found:
        """Return plain rounding, with a wider zero."""
        W, free = self.problem.weight, self.problem.free
        size = np.abs(W / step)
        codes = np.where(free, np.rint(np.maximum(size - _ROUNDING, 0)) * np.sign(W), 0).astype(np.int64)
        return _Found(math.inf, codes, step, rates(codes))

    def _better(self, before: _Found, step: float | None = None) -> _Found:
        """Return what one sweep makes at the rates of ``before``, and at its step if no other is given."""
        step = self.problem.bounded(step or before.step)
        known = before.rates if step == before.step else before.rates.stretched(step / before.step)
        codes = self._swept(before, step, known)
        new = rates(codes, before.rates)
        found = _Found(self.price * new.total(codes), codes, step, new, before.paths)
        return found._replace(cost=found.cost + self.problem.rise(found.numbers, step))

    def _swept(self, before: _Found, step: float, costs: Rates) -> Codes:
        sweep, codes = traced if before.paths else rounded, before.codes
        new = torch.from_numpy(codes.copy())
        for (layout, _), bands in zip(self.problem.parts, self._bands, strict=True):
            zero, below, above = (_matrix(layout, bits) for bits in (costs.zero, costs.below, costs.above))
            there = Rates(zero, below, above, costs.distance)
            found = sweep(bands, step, self.price, there, _matrix(layout, self.problem.free))
            new = layout.put(new, torch.from_numpy(found))
        return new.numpy()


def _may_follow_paths(subject: Subject, name: str) -> bool:
    """Return whether a file writes codes of ``name`` as one array: those of a mask lie apart, float64 has no levels."""
    held, weight = subject.constraints.get(name), live_weight(subject, name)
    return (held is None or held.mask is None) and weight.dtype != torch.float64


def _why_no_parts(weight: Tensor, moments: Sequence[Moment], curvatures: Sequence[Tensor | None]) -> str | None:
    """Return why the parts of a weight cannot be rounded one by one."""
    if not covered(weight, moments):
        return "its parts multiply different inputs, or not all are used, and no change suits all"
    if not bool(weight.any()):
        return "all its values are zero"
    if not all(bool(moment.diagonal.any()) for moment in moments):
        return "its inputs are all zero"
    if not all(g is None or bool(g.any()) for g in curvatures):
        return "the loss does not depend on it"
    return None


def _matrix(layout: Layout, array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(layout.matrix(torch.from_numpy(np.ascontiguousarray(array))).numpy())


def _mean_log(part: Part) -> float:
    """Return the mean logarithm of what is left of the curvature of each element."""
    H = part.moment
    if H.ndim == 1:
        return float(np.log(part.curvature).mean() + np.log(H + part.damping * H.mean()).mean())
    damped = H + part.damping * float(H.diagonal().mean()) * np.eye(len(H))
    return float(np.log(part.curvature).mean() + np.linalg.slogdet(damped)[1] / len(H))
