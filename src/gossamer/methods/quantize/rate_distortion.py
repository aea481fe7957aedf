"""Rate-distortion quantization: whole numbers that cost few bits where that hurts the loss least, without training.

Minimises the rise of the loss plus λ times the bits of the file over the whole numbers Q and the step of every site.
The rise is ½ Σ_r g_r e_r H e_rᵀ, e_r the rows of E = W - step Q, H from the inputs and g from the loss
(`calibrate.curvature`); H is the covariance of inputs where a bias takes up what errors do to the mean (`centred`).
Errors are fed back through the factor of H (`feedback`), and the bits are those of the model that will code Q
(`codings.rates`), asked anew after every sweep since it learns from what it codes. One λ for all sites means that
everywhere the last bit buys as much (Shoham and Gersho 1988). The objective with H alone, in the same greedy form, is
that of Conzelmann and Bamler, "Reducing Storage of Pretrained Neural Networks by Rate-Constrained Quantization and
Entropy Coding", 2025 (arXiv 2505.18758). `rate_search` finds the numbers and the step of one site.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.quantize.centred import covariances, taken_up, taking_up
from gossamer.methods.quantize.feedback import Matrix, Part, covered
from gossamer.methods.quantize.rate_search import Found, Placed, Problem, Search
from gossamer.methods.quantize.small import rounded_small
from gossamer.model import Evidence, Grid, Layout, Method, Moment, Plan, Skip, Subject, live_weight

_WIDEST = 32
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
            held = subject.constraints.get(name)
            narrow = held.grid.bits if held is not None and held.grid is not None else _WIDEST
            best = self._solved(subject, name, problem, self.price / weights, narrow)
            bits, step = best.bits, torch.tensor(best.step, dtype=torch.float32)
            if bits > narrow:
                skipped.append(Skip(name, f"it is on {narrow} bits already"))
                continue
            grids[name] = Grid(step, torch.tensor(0, dtype=torch.int32), bits)
            tensors[name] = torch.from_numpy(best.numbers).float() * step
            if problem.bias is not None:
                biases[problem.bias] = taken_up(subject, name, problem.bias, tensors[name], evidence)
        tensors |= biases
        if self.others and self.weigh == "loss" and (wanted or not reasons):
            tensors |= rounded_small(subject, evidence, self.price / weights, biases, self._named)
        return Plan(self.tag, constraints=grids, tensors=tensors, skipped=tuple(skipped))

    def _solved(self, subject: Subject, name: str, problem: Problem, price: float, narrow: int) -> Found:
        """Return the numbers of a site: on paths if these are wanted, suit, and need no more bits than ``narrow``."""
        search = Search(problem, price)
        plain = search.best()
        if not self.trellis or not _may_follow_paths(subject, name):
            return plain
        found = search.on_paths(plain)
        return plain if found.bits > narrow else found

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

    def _problem(self, subject: Subject, name: str, evidence: Evidence) -> Problem:
        """Return what there is to solve for a site, in float64."""
        held = subject.constraints.get(name)
        weight = live_weight(subject, name).detach().cpu().double()
        free = torch.ones(weight.shape, dtype=torch.bool) if held is None or held.mask is None else held.mask.keep
        bias = taking_up(subject, name, evidence)
        moments, curvatures = self._known(name, evidence)
        spreads = [one.expected.numpy() for one in moments] if bias is None else covariances(name, evidence)
        known = zip(moments, spreads, curvatures, strict=True)
        parts = [self._part(weight, one.layout, H, g) for one, H, g in known]
        return Problem(weight.numpy(), free.numpy(), parts, bias)

    def _part(self, weight: Tensor, layout: Layout, H: Matrix, curvature: Tensor | None) -> Placed:
        matrix = layout.matrix(weight).numpy()
        if H.ndim == 2 and len(H) > self.most_inputs:
            H = H.diagonal().copy()
        g = np.ones(len(matrix)) if curvature is None else curvature.double().numpy()
        return Placed(layout, Part(matrix, g + self.spread * g.mean(), H, self.damping))


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
