"""Trained weight sharing: the weights of a site take few values, found by k-means and then trained.

Han, Mao and Dally, "Deep Compression", ICLR 2016 (arXiv 1510.00149), section 3: per site, never across sites; centers
start at equal distances, unless told otherwise; a center's gradient is the sum of its members' gradients (the live
constraint sees to that); zeros of pruning stay out of it. A schedule shares the weights little by little, the largest
first, while the others go on training and make up for it: the incremental quantization of Zhou, Yao, Guo, Xu and Chen,
ICLR 2017 (arXiv 1702.03044), with k-means for its powers of two.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.share.points import summed
from gossamer.methods.share.starts import Start, clustered
from gossamer.model import (
    Codebook,
    Constraint,
    Constraints,
    Evidence,
    Mask,
    Method,
    Plan,
    Skip,
    Subject,
    live_weight,
    nearest_center,
)


class KMeans(Method, frozen=True, tag="share.kmeans"):
    """Let the weights of each site share at most 2^bits values.

    Zeros stay zero and do not take one of the values. A site whose values are few enough already keeps them exactly,
    so with enough bits nothing changes.
    """

    ramps: ClassVar[str | None] = "portion"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"bits": 16})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"bits": 2})

    bits: Annotated[int, msgspec.Meta(ge=1, le=16, description="each site keeps at most 2^bits different values")] = 5
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

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a codebook for every chosen site that sharing makes smaller.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        constraints: dict[str, Constraint | tuple[Constraint, ...]] = {}
        skipped = []
        constrained = subject.constraints
        for site in self.chosen(subject):
            weight = live_weight(subject, site.name).detach().cpu()
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"{site.name}: a weight is not finite, so weights cannot be clustered")
            decided = self._decide(weight, constrained.get(site.name, Constraints()))
            if isinstance(decided, str):
                skipped.append(Skip(site.name, decided))
            else:
                constraints[site.name] = decided
        return Plan(self.tag, constraints=constraints, skipped=tuple(skipped))

    def _decide(self, weight: Tensor, held: Constraints) -> tuple[Constraint, ...] | str:
        """Return what shall hold for a site's values, or why nothing can."""
        keep = weight != 0
        members = int(keep.sum())
        if not members:
            return "all its weights are zero"
        if held.grid is not None and held.grid.axis is not None:
            return "it is on a grid with a scale per channel, which has no shared values"
        if held.codebook is not None and held.codebook.shared is not None and held.codebook.size <= 2**self.bits:
            return (grown(held.codebook, held.codebook.shared, weight, self.portion),)
        if held.codebook is not None and held.codebook.size <= 2**self.bits:
            return f"it shares {held.codebook.size} values already"
        codebook = share(weight, 2**self.bits, start=self.start, seed=self.seed, trained=self.trained)
        if self.portion < 1.0 and held.codebook is None:
            codebook = grown(codebook, torch.zeros_like(keep), weight, self.portion)
        width = 8 * weight.element_size()
        if shared_bits(members, codebook.size, width) >= width * members:
            return f"{codebook.size} shared values for {members} weights would save nothing"
        return (codebook,) if members == weight.numel() else (codebook, Mask(keep))


def share(weight: Tensor, limit: int, *, start: Start = "linear", seed: int = 0, trained: bool = True) -> Codebook:
    """Return the codebook of at most ``limit`` centers for the non-zero values of ``weight``.

    Values that are no more than ``limit`` in number become the centers themselves. Centers without members are left
    out. The codes of zeros are those of the center nearest to zero; a mask must hold them.

    Args:
        weight: finite, on the CPU, with at least one value that is not zero.
        limit: most centers allowed, at least 1.
        start: where centers start; see :func:`clustered`.
        seed: of a drawn start.
        trained: whether training may move the centers.
    """
    flat = weight.flatten()
    plain = flat.to(torch.promote_types(flat.dtype, torch.float32)).numpy()
    points = summed(plain, limit=limit)
    found = points.at if points.at.size <= limit else clustered(points, limit, start, seed)
    centers = torch.unique(torch.from_numpy(found).to(weight.dtype))
    kept = centers[torch.unique(nearest_center(torch.from_numpy(points.at), centers))]
    return Codebook(nearest_center(weight, kept), kept, trained)


def grown(codebook: Codebook, shared: Tensor, weight: Tensor, portion: float) -> Codebook:
    """Return ``codebook`` with more values shared: those that are, then the largest of ``weight`` that are not.

    Args:
        codebook: its centers stay, and the codes of what is shared.
        shared: bool, which values are shared so far.
        weight: the live values; zeros do not count.
        portion: part of the values that are not zero that shall be shared.
    """
    there = weight != 0
    size = torch.where(shared & there, torch.inf, weight.abs().float())
    largest = size.flatten().argsort(descending=True, stable=True)[: round(portion * int(there.sum()))]
    more = shared.flatten().index_fill(0, largest, value=True).view(weight.shape)
    codes = torch.where(shared, codebook.codes, nearest_center(weight, codebook.centers.to(weight.dtype)))
    return replace(codebook, codes=codes, shared=more)


def shared_bits(members: int, centers: int, width: int) -> int:
    """Return the bits of ``members`` packed codes and ``centers`` of ``width`` bits (Deep Compression, equation 1)."""
    return members * math.ceil(math.log2(centers)) + width * centers if centers > 1 else members + width
