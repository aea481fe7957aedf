"""Exact optimal brain surgeon: weights go one by one, and after each the rest of its row makes up for it.

Frantar, Singh and Alistarh, "Optimal Brain Compression", NeurIPS 2022 (arXiv 2208.11580), ExactOBS. With H the second
moment of a layer's inputs, each row of its matrix loses the weight p with the least w_p² / [H⁻¹]_pp; the others change
by δ = -w_p / [H⁻¹]_pp · H⁻¹_{:,p}, and p leaves H⁻¹ by one step of elimination (their lemma 1). The traces of all rows
are then merged: the layer loses the weights that add least to its squared error, each row a prefix of its own trace.
With H of all rows known in advance, the values that remain are the least-squares solution on what is kept (their group
form), so traces need to hold the order and the losses only.

The paper gives each layer its share of zeros from outside. Here it is the same for all, or, with ``scope = "global"``,
which is ours, the traces of all layers are merged too, each loss measured in its layer's squared outputs Σ w H wᵀ.

Eliminations are put off and done for a block of steps at once, as in blocked Cholesky factorization.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
import torch
from torch import Tensor

from gossamer.methods.prune.pattern import Few, Pattern, parse
from gossamer.methods.prune.ranked import check_pattern
from gossamer.methods.prune.ranking import keep_largest
from gossamer.methods.prune.second_order import Damping, FewText, Part, Pruned, compensated
from gossamer.model import Evidence, Method, Plan, Skip, Subject

Scope = Literal["layer", "global"]
NUMBERS = 1 << 24
"""Numbers in the inverses of the rows that are worked on together: 64 MB."""
STEPS = 64
"""Weights of a row that go before its inverse is brought up to date."""


class Obs(Method, frozen=True, tag="prune.obs"):
    """Zero a share of each site's weights, one by one, and let the rest of each row make up for every one.

    No training is needed: a look at some hundred samples gives new values to the weights that stay. Exact, and costly
    where a site has many inputs (the cube of their number for each output); ``prune.sparsegpt`` is for those.

    Raises:
        SettingError: no such pattern, or it does not allow so many zeros.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_moment"})
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"sparsity": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"sparsity": 0.5})

    sparsity: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of the weights that become zero")]
    scope: Annotated[
        Scope,
        msgspec.Meta(description="the same share of each site, or more of those whose outputs suffer less"),
    ] = "layer"
    pattern: FewText = "unstructured"
    damping: Damping = 0.01
    most_inputs: Annotated[int, msgspec.Meta(ge=1, description="sites with more inputs are left alone")] = 2048

    def __post_init__(self) -> None:
        """Check the fields one by one, then the sparsity against the pattern."""
        super().__post_init__()
        check_pattern(type(self).__name__, self.pattern, self.sparsity)

    def by_itself(self) -> Self:
        """Return the method with a scope that is within each site."""
        return msgspec.structs.replace(self, scope="layer") if self.scope == "global" else self

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask and new values for every chosen site whose inputs are known.

        Raises:
            PatternError: a pattern of names matches no site.
            ModelError: a weight is not finite.
            EvidenceError: no second moments were collected.
        """
        if self.sparsity == 0.0:
            return Plan(self.tag, skipped=tuple(Skip(site.name, "sparsity is 0") for site in self.chosen(subject)))
        pattern = parse(self.pattern)
        return compensated(
            self,
            subject,
            evidence,
            lambda layers: prune(layers, self.sparsity, self.scope, pattern),
            sparsity=self.sparsity,
            damping=self.damping,
            pattern=pattern,
            most_inputs=self.most_inputs,
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """The order in which the weights of each row go.

    Attributes:
        order: (rows, inputs): columns, first to last.
        loss: (rows, inputs): what each adds to half the squared error; infinite once the pattern allows no more.
    """

    order: Tensor
    loss: Tensor


def prune(layers: Mapping[str, Sequence[Part]], sparsity: float, scope: Scope, pattern: Pattern) -> Pruned:
    """Return the new values and what is kept of the parts of each layer."""
    inverses = {site: [part.inverse() for part in parts] for site, parts in layers.items()}
    traces = {
        site: [trace(part.weight, inverse, pattern) for part, inverse in zip(parts, inverses[site], strict=True)]
        for site, parts in layers.items()
    }
    losses = {site: [one.loss.double() / _unit(layers[site], scope) for one in found] for site, found in traces.items()}
    share = min(1.0, sparsity / pattern.most)
    together = [list(losses)] if scope == "global" else [[site] for site in losses]
    counts = {site: count for sites in together for site, count in _counts(losses, sites, share).items()}
    return {
        site: [
            _pruned(part, inverse, found, count)
            for part, inverse, found, count in zip(parts, inverses[site], traces[site], counts[site], strict=True)
        ]
        for site, parts in layers.items()
    }


def _unit(parts: Sequence[Part], scope: Scope) -> float:
    """Return what the losses of a layer are measured in: half its outputs' squared sum where layers compete."""
    return 1.0 if scope == "layer" else 0.5 * sum(part.energy() for part in parts) or 1.0


def _pruned(part: Part, inverse: Tensor, found: Trace, count: Tensor) -> tuple[Tensor, Tensor]:
    gone = torch.zeros_like(part.weight, dtype=torch.bool)
    gone.scatter_(1, found.order, torch.arange(found.order.shape[1]) < count[:, None])
    return refit(part.weight, part.hessian(), inverse, gone), ~gone


def trace(weight: Tensor, inverse: Tensor, pattern: Pattern) -> Trace:
    """Return in which order the weights of each row go, zeros first.

    The eliminations are done in float32: they decide an order, no values.

    Args:
        weight: W (rows, inputs).
        inverse: H⁻¹.
        pattern: free, or N:M.
    """
    rows = max(1, NUMBERS // inverse.numel())
    parts = [_trace(some, inverse.float(), pattern) for some in torch.split(weight.float(), rows)]
    return Trace(torch.cat([part.order for part in parts]), torch.cat([part.loss for part in parts]))


def _trace(weight: Tensor, inverse: Tensor, pattern: Pattern) -> Trace:
    rows, inputs = weight.shape
    state = _Rows(weight, inverse.expand(rows, -1, -1), torch.arange(inputs).expand(rows, -1))
    order, loss = torch.empty(rows, inputs, dtype=torch.int64), torch.empty_like(weight)
    room = _Room(pattern, rows, inputs)
    for done in range(0, inputs, STEPS):
        some = slice(done, done + STEPS)
        state = state.after(room, order[:, some], loss[:, some])
    return Trace(order, loss)


class _Room:
    """How many weights of each group of neighbours may still go, where the pattern has groups."""

    def __init__(self, pattern: Pattern, rows: int, inputs: int) -> None:
        self.few = pattern if isinstance(pattern, Few) else None
        if self.few is not None:
            self.left = torch.full((rows, inputs // self.few.of), self.few.of - self.few.kept)

    def shut(self, columns: Tensor) -> Tensor:
        """Return which of ``columns`` (rows, any) may not go any more."""
        if self.few is None:
            return torch.zeros_like(columns, dtype=torch.bool)
        return self.left.gather(1, columns // self.few.of) <= 0

    def take(self, column: Tensor) -> None:
        """Note that ``column`` (rows, 1) goes."""
        if self.few is not None:
            self.left.scatter_add_(1, column // self.few.of, torch.full_like(column, -1))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of which as many weights are gone each.

    Attributes:
        weight: the weights that are left and some that are gone, (rows, some).
        inverse: the inverse of H on those left, (rows, some, some).
        columns: where they are in W, (rows, some).
        gone: which are gone, (rows, some); None if none is.
    """

    weight: Tensor
    inverse: Tensor
    columns: Tensor
    gone: Tensor | None = None

    def after(self, room: _Room, order: Tensor, loss: Tensor) -> "_Rows":
        """Fill a piece of the trace, (rows, steps), and return the rows as they are then.

        H⁻¹ after k eliminations is H⁻¹ - RᵀR, where row k of R is the eliminated row of H⁻¹ over the root of its
        pivot: inside the block only the rows that are needed are brought up to date.
        """
        w, every = self.weight.clone(), torch.arange(len(self.weight))
        gone = torch.zeros_like(w, dtype=torch.bool) if self.gone is None else self.gone.clone()
        diagonal = self.inverse.diagonal(dim1=1, dim2=2).clone()
        R = w.new_zeros(len(w), order.shape[1], w.shape[1])
        zero, least, most = w == 0, torch.finfo(w.dtype).tiny, torch.finfo(w.dtype).max
        for k in range(order.shape[1]):
            shut = room.shut(self.columns) & ~zero
            # Zeros go first. What the pattern holds back goes after all else, in an order that no one will read.
            scores = (w.square() / diagonal).masked_fill_(zero, -1).masked_fill_(shut, most)
            p = scores.masked_fill_(gone, torch.inf).argmin(1)
            row = self.inverse[every, p] - torch.bmm(R[every, :k, p].unsqueeze(1), R[:, :k]).squeeze(1)
            pivot = row[every, p].clamp_min(least)
            w_p = torch.where(zero[every, p], 0, w[every, p])
            cost = (0.5 * w_p.square() / pivot).clamp_min_(least).masked_fill_(zero[every, p], 0)
            loss[:, k] = cost.masked_fill_(shut[every, p], torch.inf)
            order[:, k] = self.columns[every, p]
            gone[every, p] = True
            w -= row * (w_p / pivot)[:, None]
            R[:, k] = row / pivot.sqrt()[:, None]
            diagonal = (diagonal - R[:, k].square()).clamp_min_(least)
            room.take(order[:, k : k + 1])
        inverse = self.inverse.contiguous().baddbmm_(R.mT, R, alpha=-1)
        return _Rows(w, inverse, self.columns, gone).compact()

    def compact(self) -> "_Rows":
        """Return the rows without what is gone, once that is a quarter of them."""
        if self.gone is None or int(self.gone[0].sum()) * 4 < self.gone.shape[1]:
            return self
        stay = (~self.gone).nonzero()[:, 1].view(len(self.weight), -1)
        inverse = torch.stack([one[at][:, at] for one, at in zip(self.inverse, stay, strict=True)])
        return _Rows(self.weight.gather(1, stay), inverse, self.columns.gather(1, stay))


def _counts(losses: Mapping[str, list[Tensor]], sites: Sequence[str], share: float) -> dict[str, list[Tensor]]:
    """Return how many weights of each row go: the cheapest ``share`` of all that may, taken trace by trace.

    A row's next weight can be cheaper than the one before it, which has to go first: the dearer of the two counts.
    """
    every = [loss for site in sites for loss in losses[site]]
    dear = torch.cat([loss.cummax(1).values.flatten() for loss in every])
    may = dear.isfinite()
    # Weights that are zero already cost nothing, and nothing else does.
    goes = torch.zeros_like(may)
    goes[may] = ~torch.from_numpy(keep_largest([dear[may].numpy()], share)[0])
    split = iter(torch.split(goes, [loss.numel() for loss in every]))
    return {site: [next(split).view(loss.shape).sum(1) for loss in losses[site]] for site in sites}


def refit(weight: Tensor, hessian: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """Return the rows nearest to ``weight``, by the error (w - ŵ) H (w - ŵ)ᵀ, that are zero where ``gone``.

    By the smaller of two systems: ŵ = w - H⁻¹_{:,P} (H⁻¹_PP)⁻¹ w_P with P what is gone, or H_KK ŵ_K = (H w)_K with K
    what is kept.
    """
    out = torch.zeros_like(weight)
    for row, (w, lost) in enumerate(zip(weight, gone, strict=True)):
        P, K = lost.nonzero()[:, 0], (~lost).nonzero()[:, 0]
        if not len(K):
            continue
        if len(P) < len(K):
            out[row] = w - inverse[:, P] @ _solve(inverse[P][:, P], w[P]) if len(P) else w
            out[row, P] = 0
        else:
            out[row, K] = _solve(hessian[K][:, K], hessian[K] @ w)
    return out


def _solve(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.cholesky_solve(vector[:, None], torch.linalg.cholesky(matrix))[:, 0]
