"""Trained weight sharing: the weights of a site take few values, found by k-means and then trained.

Han, Mao and Dally, "Deep Compression", ICLR 2016 (arXiv 1510.00149), section 3: per site and with centers that start at
equal distances, unless told otherwise; a center's gradient is the sum of its members' gradients (the live constraint
sees to that); zeros of pruning stay out of it. A schedule shares the weights little by little, the largest first, while
the others go on training and make up for it: the incremental quantization of Zhou, Yao, Guo, Xu and Chen, ICLR 2017
(arXiv 1702.03044), with k-means for its powers of two. Weights may count by how much they matter, and then one codebook
can serve all sites: the Hessian-weighted k-means of Choi, El-Khamy and Lee, ICLR 2017 (arXiv 1612.01543).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.share.codebooks import grown, parts_rows, share, share_rows, shared_bits, shared_values
from gossamer.methods.share.importance import NEEDS, Weigh, importance
from gossamer.methods.share.starts import Start
from gossamer.model import (
    Codebook,
    Constraint,
    Constraints,
    Evidence,
    Mask,
    Method,
    Plan,
    Site,
    Skip,
    Subject,
    all_finite,
    in_parts,
    kept_values,
    live_weight,
    nearest_center,
    trains,
)

Scope = Literal["layer", "global"] | Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A site to be clustered, how much each of its values matters, and whether they train.

    Its values are taken when asked for, so that those of one site at a time are in memory. With ``keep`` they are those
    that are not zero, flat.
    """

    subject: Subject
    name: str
    members: int
    weights: Tensor | None
    trains: bool
    device: torch.device
    dtype: torch.dtype
    keep: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The live values, on the CPU."""
        return _values(self.subject, self.name, flat=self.keep is not None).cpu()

    def whole(self, codebook: Codebook) -> Codebook:
        """Return the codebook of the whole site from that of its values."""
        if self.keep is None:
            return codebook
        codes = torch.zeros(self.keep.shape, dtype=codebook.codes.dtype)
        codes[self.keep] = codebook.codes
        return replace(codebook, codes=codes)

    def lost_on(self, centers: int, most: int) -> str | None:
        """Return why so many shared values, ``most`` of them for a weight to choose from, save nothing; else None."""
        members, width = self.members, 8 * self.dtype.itemsize
        centers, most = min(centers, members), min(most, members)
        if shared_bits(members, centers, width, most) < width * members:
            return None
        return f"{centers} shared values for {members} weights would save nothing"


class KMeans(Method, frozen=True, tag="share.kmeans"):
    """Let the weights that have a codebook together share at most 2^bits values.

    Zeros stay zero and do not take one of the values. What has few enough values already keeps them exactly, so with
    enough bits nothing changes. One codebook for all sites holds its values once: training moves them for all, and the
    file has them once, unless sites use so few of them that tables of their own are shorter. Sites of another dtype or
    device, or that do not train, have one of their own.
    """

    ramps: ClassVar[str | None] = "portion"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"bits": 16})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"bits": 2})

    bits: Annotated[int, msgspec.Meta(ge=1, le=16, description="a codebook keeps at most 2^bits different values")] = 5
    scope: Annotated[
        Scope,
        msgspec.Meta(
            description="what has a codebook together: each site, all chosen sites, or so many rows (indices of the "
            "first dimension, mostly output channels) of a site"
        ),
    ] = "layer"
    weigh: Annotated[
        Weigh,
        msgspec.Meta(
            description="how much a weight counts: alike, by the second moment of the input it multiplies, or by its "
            "mean squared gradient, which compares sites too"
        ),
    ] = "none"
    start: Annotated[
        Start,
        msgspec.Meta(description="where centers start: at equal distances, by density, drawn; or the optimum itself"),
    ] = "linear"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31, description="seed of a drawn start")] = 0
    trained: Annotated[bool, msgspec.Meta(description="let training move the shared values")] = True
    portion: Annotated[
        float,
        msgspec.Meta(ge=0.0, le=1.0, description="part of the weights shared before training ends, the largest first"),
    ] = 1.0

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the weights are weighed by."""
        return NEEDS[self.weigh]

    def by_itself(self) -> Self:
        """Return the method with a codebook for each site."""
        return msgspec.structs.replace(self, scope="layer") if self.scope == "global" else self

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a codebook for every chosen site that sharing makes smaller.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight, or how much it matters, is not finite.
            EvidenceError: what the weights are weighed by was not collected.
        """
        constraints: dict[str, Constraint | tuple[Constraint, ...]] = {}
        skipped, wanted = [], []
        constrained = subject.constraints
        for site in self.chosen(subject):
            match self._looked_at(subject, site, constrained.get(site.name, Constraints()), evidence):
                case str(reason):
                    skipped.append(Skip(site.name, reason))
                case Codebook() as growing:
                    constraints[site.name] = growing
                case _Wanted() as one:
                    wanted.append(one)
        for one, weight, codebook in self._clustered(wanted):
            held = constrained.get(one.name, Constraints())
            decided = codebook if isinstance(codebook, str) else self._decided(one, weight, one.whole(codebook), held)
            del weight
            if isinstance(decided, str):
                skipped.append(Skip(one.name, decided))
            else:
                constraints[one.name] = decided
        return Plan(self.tag, constraints=constraints, skipped=tuple(skipped))

    def _looked_at(
        self, subject: Subject, site: Site, held: Constraints, evidence: Evidence | None
    ) -> _Wanted | Codebook | str:
        """Return what is to be clustered, the codebook that goes on growing, or why the site is left alone."""
        flat = self.portion == 1.0 and not isinstance(self.scope, int)
        value = _values(subject, site.name, flat=flat)
        weight = value.cpu()
        if not all_finite(weight):
            raise ModelError(f"{site.name}: a weight is not finite, so weights cannot be clustered")
        if not bool(weight.any()):
            return "all its weights are zero"
        if held.hash is not None:
            return f"it is hashed into {held.hash.size} buckets"
        if held.grid is not None and held.grid.axis is not None:
            return "it is on a grid with a scale per channel, which has no shared values"
        if held.codebook is not None:
            found = self._shared_before(held.codebook, weight)
            if found is not None:
                return found
        weights = importance(evidence, site, self.weigh)
        if isinstance(weights, str):
            return weights
        members, trained = int(weight.count_nonzero()), trains(subject, site.name)
        keep = None if value.shape == site.shape or held.mask is None else held.mask.keep
        weights = weights if weights is None or keep is None else weights[keep]
        return _Wanted(subject, site.name, members, weights, trained, value.device, weight.dtype, keep)

    def _shared_before(self, book: Codebook, weight: Tensor) -> Codebook | str | None:
        """Return what becomes of a codebook that is there: it grows, or stands for a reason; None for a coarser one."""
        if book.width > 1:
            return f"its subvectors share codewords of {book.width} values already"
        if (book.most if isinstance(self.scope, int) else book.size) <= 2**self.bits:
            if book.shared is not None:
                return grown(book, book.shared, weight, self.portion)
            return f"it shares {book.size} values already"
        if isinstance(self.scope, int) and book.shared is None and parts_rows(book, self.scope):
            return "its rows share values already, which codebooks of their own would part"
        return None

    def _clustered(self, wanted: list[_Wanted]) -> Iterator[tuple[_Wanted, Tensor, Codebook | str]]:
        """Yield the values of each site with their codebook, or why they have none."""
        if self.scope == "global":
            yield from self._together(wanted)
            return
        for one in wanted:
            found = partial(share, start=self.start, seed=self.seed, trained=self.trained)
            if isinstance(self.scope, int):
                found = partial(share_rows, rows=self.scope, start=self.start, seed=self.seed, trained=self.trained)
            weight = one.weight
            yield one, weight, found(weight, 2**self.bits, weights=one.weights)
            del weight

    def _together(self, wanted: list[_Wanted]) -> Iterator[tuple[_Wanted, Tensor, Codebook | str]]:
        """Yield codebooks with the same centers for sites of one dtype and device that all train or do not."""
        limit = 2**self.bits
        kinds: dict[tuple[torch.dtype, torch.device, bool], list[_Wanted]] = {}
        for one in wanted:
            reason = one.lost_on(limit, limit)
            if reason is not None:
                yield one, torch.empty(0), reason
            else:
                kinds.setdefault((one.dtype, one.device, one.trains), []).append(one)
        for parts in kinds.values():
            weights = [one.weights for one in parts if one.weights is not None]
            centers = shared_values(
                [one.weight for one in parts], limit, start=self.start, seed=self.seed, weights=weights or None
            )
            tie = parts[0].name if len(parts) > 1 else ""
            for one in parts:
                weight = one.weight
                yield one, weight, Codebook(nearest_center(weight, centers), centers, self.trained, tie=tie)

    def _decided(
        self, one: _Wanted, weight: Tensor, codebook: Codebook, held: Constraints
    ) -> tuple[Constraint, ...] | str:
        """Return what shall hold for a site's values, or why sharing does not pay."""
        reason = one.lost_on(codebook.size, codebook.most)
        if reason is not None:
            return reason
        keep = _there(weight, held.mask, one.keep)
        if self.portion < 1.0 and held.codebook is None:
            codebook = grown(codebook, torch.zeros_like(keep), weight, self.portion)
        return (codebook,) if bool(keep.all()) else (codebook, Mask(keep))


def _values(subject: Subject, site: str, *, flat: bool) -> Tensor:
    """Return the live values of a site; with ``flat``, those that its mask keeps if nothing else holds it."""
    kept = kept_values(subject, site) if flat else None
    return live_weight(subject, site) if kept is None else kept


def _there(weight: Tensor, mask: Mask | None, keep: Tensor | None) -> Tensor:
    """Return which values are not zero: what the mask keeps, in its own memory, where that is the same.

    With ``keep``, ``weight`` are the values where it is true.
    """
    if keep is not None:
        if bool(weight.all()):
            return keep
        there = keep.clone()
        there[keep] = weight != 0
        return there
    if mask is not None:
        pairs = zip(in_parts(weight), in_parts(mask.keep), strict=True)
        if all(torch.equal(values != 0, kept) for values, kept in pairs):
            return mask.keep
    return weight != 0
