"""Soft weight sharing: a mixture of Gaussians learns to describe the weights, which learn to be described in few bits.

Ullrich, Meeds and Welling, "Soft Weight-Sharing for Neural Network Compression", ICLR 2017 (arXiv 1702.04008), after
Nowlan and Hinton, "Simplifying Neural Networks by Soft Weight-Sharing", Neural Computation 4(4), 1992. The loss of all
samples has τ times -Σ_i log Σ_k π_k N(w_i | μ_k, σ_k²) added, and the mixture trains with the weights of a trained
network. One component stays at zero with most of the mixing proportion, so weights that the loss does not hold become
zero; the other means start evenly over the range of the weights. Gamma priors on the precisions keep variances from
vanishing. After the training components that have become alike are merged (``merging``), and each weight takes the mean
of the component with the highest responsibility for it. What the paper leaves open is as in the first author's code
(github.com/KarenUllrich/Tutorial-SoftWeightSharingForNNCompression): learning rates, shapes of the Gamma priors, and in
distances between neighbouring means (0.08 there) the deviations that the priors expect and that components start with
(0.02 and 0.25). Biases are left alone here, and the mixing proportion at zero stays.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.share.codebooks import shared_bits
from gossamer.methods.share.merging import merged
from gossamer.methods.share.prior import MixturePenalty, responsible
from gossamer.model import (
    Codebook,
    Constraint,
    Constraints,
    Evidence,
    Mask,
    Method,
    Mixture,
    Plan,
    Rates,
    Revise,
    Site,
    Skip,
    Subject,
    always_moved,
    live_weight,
    trains,
)
from gossamer.model.live import Live, live_parts


class Soft(Method, frozen=True, tag="share.soft"):
    """Draw weights together while they train, many of them to zero, and let them share what they have gathered at.

    Needs a training in the same step, by AdamW, whose last epoch is kept: figures of earlier ones are of weights that
    are not shared yet. Zeros stay zero, outside the mixture. Sites of another dtype or device have a mixture of their
    own. Weights that are shared already, that do not train or that are on a grid with a scale per channel are left
    alone.
    """

    in_training: ClassVar[bool] = True
    trained_by: ClassVar[str | None] = "adamw"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"tau": 0.0})

    tau: Annotated[
        float, msgspec.Meta(ge=0.0, description="weight of the description length against the loss of all samples")
    ] = 0.005
    components: Annotated[
        int, msgspec.Meta(ge=3, le=256, description="components of the mixture, that at zero among them")
    ] = 17
    zero: Annotated[
        float, msgspec.Meta(gt=0.0, lt=1.0, description="mixing proportion of the component at zero, which stays")
    ] = 0.99
    scope: Annotated[
        Literal["global", "layer"], msgspec.Meta(description="one mixture for all chosen sites, or one for each")
    ] = "global"
    width: Annotated[
        float,
        msgspec.Meta(gt=0.0, description="deviation of each component at the start, in distances between means"),
    ] = 3.0
    expected: Annotated[
        float,
        msgspec.Meta(gt=0.0, description="deviation that the Gamma priors expect, in distances between means"),
    ] = 0.25
    zero_shape: Annotated[
        float, msgspec.Meta(ge=1.0, description="shape of the Gamma prior on the precision at zero")
    ] = 5000.0
    shape: Annotated[
        float,
        msgspec.Meta(ge=1.0, description="shape of the Gamma prior on each other precision: larger holds it more"),
    ] = 250.0
    mean_lr: Annotated[float, msgspec.Meta(gt=0.0, description="learning rate of the means")] = 1e-4
    precision_lr: Annotated[
        float, msgspec.Meta(gt=0.0, description="learning rate of the logarithms of precisions")
    ] = 3e-3
    share_lr: Annotated[
        float, msgspec.Meta(gt=0.0, description="learning rate of the logarithms of mixing proportions")
    ] = 3e-3
    merge: Annotated[
        float, msgspec.Meta(ge=0.0, description="components nearer to each other than this, in nats, become one")
    ] = 0.1
    trained: Annotated[bool, msgspec.Meta(description="let later training move the shared values")] = True

    def by_itself(self) -> Self:
        """Return the method with a mixture for each site."""
        return msgspec.structs.replace(self, scope="layer")

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the mixtures of the chosen sites and the penalty that trains with them; no weight changes before.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        chosen = self.chosen(subject)
        if self.tau == 0.0:
            return Plan(self.tag)
        weights, skipped = _described(subject, chosen)
        constraints: dict[str, tuple[Constraint, ...]] = {}
        hyper: dict[str, float] = {}
        for names in self._together(weights):
            some = torch.cat([weights[name][weights[name] != 0].flatten().cpu() for name in names])
            reason = self._lost_on(some)
            if reason is not None:
                skipped |= dict.fromkeys(names, reason)
                continue
            mixture, distance = self._start(some, names[0] if len(names) > 1 else "")
            hyper |= dict.fromkeys(names, self.expected * distance)
            for name in names:
                keep = weights[name] != 0
                constraints[name] = (mixture,) if bool(keep.all()) else (mixture, Mask(keep))
        penalty = MixturePenalty(tuple(constraints), self.tau, hyper, self.zero_shape, self.shape)
        skips = tuple(Skip(site.name, skipped[site.name]) for site in chosen if site.name in skipped)
        return Plan(self.tag, constraints, penalties=(penalty,) if constraints else (), skipped=skips)

    def revision(self, subject: Subject) -> Revise | None:
        """Return what says before each step that the mixture has moved, so that weights kept before fit another."""
        del subject
        return None if self.tau == 0.0 else always_moved(self)

    def conclusion(self, subject: Subject) -> Plan | None:
        """Return the values that the weights come to share, and which of them are zero.

        Raises:
            ModelError: a mixture has only zeros left, as after a training that is too short for it.
        """
        parts: dict[int, tuple[str, Live]] = {}
        for owner, _, live, parameter in live_parts(subject.model):
            parts.setdefault(id(parameter), (owner.name, live))
        groups: dict[int, list[tuple[str, Live]]] = {}
        for name, live in parts.values():
            held = live.constraints
            if live.mix is not None and not held.shared and (held.grid is None or held.grid.axis is None):
                groups.setdefault(id(live.mix), []).append((name, live))
        constraints: dict[str, tuple[Constraint, ...]] = {}
        for sites in groups.values():
            constraints |= self._collapsed(subject, sites)
        return Plan(self.tag, constraints) if constraints else None

    def _together(self, weights: Mapping[str, Tensor]) -> Iterator[list[str]]:
        """Yield the names of the sites that have one mixture."""
        groups: dict[Any, list[str]] = {}
        for name, weight in weights.items():
            groups.setdefault(name if self.scope == "layer" else (weight.dtype, weight.device), []).append(name)
        yield from groups.values()

    def _lost_on(self, weights: Tensor) -> str | None:
        centers, width = self.components - 1, 8 * weights.element_size()
        if shared_bits(weights.numel(), centers, width) < width * weights.numel():
            return None
        return f"{centers} shared values for {weights.numel()} weights would save nothing"

    def _start(self, weights: Tensor, tie: str) -> tuple[Mixture, float]:
        """Return the mixture that training starts with, and the distance between its means.

        Args:
            weights: all that it is for, (N,), on the CPU, none of them zero.
            tie: a name for it, if several sites have it.
        """
        plain = weights.to(torch.promote_types(weights.dtype, torch.float32))
        low, high = float(plain.min()), float(plain.max())
        count = self.components - 1
        distance = (high - low) / (count - 1) or abs(high)
        return Mixture(
            means=torch.linspace(low, high, count, dtype=plain.dtype),
            log_precisions=plain.new_full((self.components,), self.width * distance).log() * -2,
            log_shares=plain.new_zeros(count),
            zero=self.zero,
            rates=Rates(self.mean_lr, self.precision_lr, self.share_lr),
            tie=tie,
        ), distance

    def _collapsed(self, subject: Subject, sites: list[tuple[str, Live]]) -> dict[str, tuple[Constraint, ...]]:
        """Return the codebook and the mask of each of the sites that have one mixture."""
        mix = sites[0][1].mix
        if mix is None:
            return {}
        mixture = merged(mix.mixture.components, self.merge)
        weights = {name: live_weight(subject, name).cpu() for name, _ in sites}
        found = {name: responsible(weight, mixture) for name, weight in weights.items()}
        codes = {name: torch.where(weights[name] == 0, 0, found[name]) for name in found}
        used = torch.cat([part.flatten() for part in codes.values()])
        used = torch.unique(used)
        used = used[mixture.means[used] != 0]
        if not len(used):
            raise ModelError(
                f"share.soft: the mixture of {sites[0][0]} has come to nothing but zero",
                hint="train for more steps, by AdamW, or take a larger precision_lr or a smaller width",
            )
        place = torch.zeros(len(mixture.means), dtype=torch.int64)
        place[used] = torch.arange(len(used))
        tie = sites[0][0] if len(sites) > 1 else ""
        decided: dict[str, tuple[Constraint, ...]] = {}
        for name, part in codes.items():
            keep = torch.isin(part, used)
            mask: tuple[Constraint, ...] = () if bool(keep.all()) else (Mask(keep),)
            centers = mixture.means[used].to(weights[name].dtype)
            book = (Codebook(place[part], centers, self.trained, tie=tie),) if bool(keep.any()) else ()
            decided[name] = (*book, *mask)
        return decided


def _described(subject: Subject, chosen: Iterable[Site]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the values of the sites that a mixture can describe, and why the others are left alone.

    Raises:
        ModelError: a weight is not finite.
    """
    held = subject.constraints
    weights: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for site in chosen:
        weight = live_weight(subject, site.name)
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{site.name}: a weight is not finite, so no mixture can describe it")
        reason = _why_not(weight, held.get(site.name, Constraints()), may_train=trains(subject, site.name))
        if reason is None:
            weights[site.name] = weight
        else:
            skipped[site.name] = reason
    return weights, skipped


def _why_not(weight: Tensor, held: Constraints, *, may_train: bool) -> str | None:
    """Return why a site is left alone, or None if it is not."""
    if not bool(weight.any()):
        return "all its weights are zero"
    if held.shared:
        return "its values are shared already"
    if held.grid is not None and held.grid.axis is not None:
        return "it is on a grid with a scale per channel, which has no shared values"
    return None if may_train else "its values do not train"
