"""HashedNets: the weights of a site share the values that a hash of their positions gives them.

Chen, Wilson, Tyree, Weinberger and Chen, "Compressing Neural Networks with the Hashing Trick", ICML 2015 (arXiv
1504.04788): weight (i, j) is ξ(i, j) · w_h(i, j), with h a hash into K buckets and ξ one into {-1, +1}, so positions
cost nothing and the file holds K buckets and a seed. A bucket's gradient is the sum of its weights' gradients, each
with its sign. h and ξ are those of ``gossamer.codings.hashed``, with another seed for every site. The paper trains from
scratch (``start = "scratch"``: buckets are drawn as torch draws the weights of such a layer, so every weight starts as
it would there). From a trained model a bucket starts at the mean of its weights, each with its sign: of all hashed
weights, the nearest to those that are there.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.model import Constraint, Constraints, Evidence, Hash, Mask, Method, Plan, Site, Skip, Subject, live_weight
from gossamer.model.subject import owner_of


class Hashed(Method, frozen=True, tag="share.hashed"):
    """Let the weights of each site share ``ratio`` as many values, its buckets, told apart by a hash of their position.

    Zeros stay zero and do not count. Weights that are shared already, or on a grid that is not symmetric about zero,
    are left alone. At ratio 1 nothing changes.
    """

    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"ratio": 1.0})

    ratio: Annotated[
        float, msgspec.Meta(gt=0.0, le=1.0, description="buckets, as a share of the weights of a site")
    ] = 0.125
    start: Annotated[
        Literal["dense", "scratch"],
        msgspec.Meta(description="buckets start at the means of the weights there are, or drawn as in a new layer"),
    ] = "dense"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31, description="seed of the hash, and of a start from scratch")] = 0

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a hash for every chosen site that has more weights than buckets.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        constraints: dict[str, Constraint | tuple[Constraint, ...]] = {}
        skipped = []
        held = subject.constraints
        seeds = {name: self.seed + number for number, name in enumerate(subject.sites)}
        for site in self.chosen(subject):
            weight = live_weight(subject, site.name).detach().cpu()
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"{site.name}: a weight is not finite, so its mean with others is none")
            keep = weight != 0
            members = int(keep.sum())
            count = max(1, round(self.ratio * members))
            reason = _why_not(held.get(site.name, Constraints()), members, count)
            reach = None if self.start == "dense" else default_reach(subject, site)
            if reason is None and self.start == "scratch" and reach is None:
                reason = f"torch has no start of its own for a weight of kind {site.kind}"
            if reason is not None:
                skipped.append(Skip(site.name, reason))
                continue
            if reach is None:
                hashed = averaged(weight, count, seeds[site.name])
            else:
                hashed = drawn(site, count, seeds[site.name], reach)
            constraints[site.name] = hashed if members == weight.numel() else (hashed, Mask(keep))
        return Plan(self.tag, constraints=constraints, skipped=tuple(skipped))


def _why_not(held: Constraints, members: int, count: int) -> str | None:
    """Return why a site cannot be hashed, or None if it can."""
    if not members:
        return "all its weights are zero"
    if held.hash is not None:
        return f"it is hashed into {held.hash.size} buckets already"
    if held.shared:
        return "its values are shared, a hash would part them"
    if held.grid is not None and not held.grid.symmetric:
        return "it is on a grid that has several scales or no minus for every value"
    return f"{count} buckets for {members} weights would save nothing" if count >= members else None


def averaged(weight: Tensor, count: int, seed: int) -> Hash:
    """Return the hash whose buckets are the means of the non-zero values of ``weight`` in them, each with its sign.

    A bucket without such values is zero.

    Args:
        weight: finite, on the CPU.
        count: number of buckets, at least 1.
        seed: of the hash.
    """
    empty = Hash(torch.zeros(count, dtype=weight.dtype), seed, tuple(weight.shape))
    codes, flipped = (part.flatten() for part in empty.places)
    signed = torch.where(flipped, -weight.flatten().double(), weight.flatten().double())
    total = torch.zeros(count, dtype=torch.float64).index_add_(0, codes, signed)
    members = torch.bincount(codes[weight.flatten() != 0], minlength=count)
    return Hash((total / members.clamp_min(1)).to(weight.dtype), seed, empty.shape)


def drawn(site: Site, count: int, seed: int, reach: float) -> Hash:
    """Return the hash whose buckets are drawn between minus and plus ``reach``, as standard normal if that is 0."""
    generator = torch.Generator().manual_seed(seed)
    if reach:
        buckets = (2 * torch.rand(count, generator=generator) - 1) * reach
    else:
        buckets = torch.randn(count, generator=generator)
    return Hash(buckets.to(site.dtype), seed, site.shape)


def default_reach(subject: Subject, site: Site) -> float | None:
    """Return how far from zero torch draws a new layer's weights, evenly; 0: as standard normal; None: unknown."""
    match site.kind:
        case "linear" | "conv" | "conv_transpose":
            return 1 / math.sqrt(math.prod(site.shape[1:]))
        case "recurrent_input" | "recurrent_hidden":
            module, _ = owner_of(subject, site.name)
            return 1 / math.sqrt(int(module.hidden_size))  # type: ignore[arg-type]
        case "attention":
            return math.sqrt(6 / sum(site.shape))
        case "embedding":
            return 0.0
        case _:
            return None
