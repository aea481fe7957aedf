"""What batch norms say of the numbers inside a network, carried from layer to layer without data.

Nagel, van Baalen, Blankevoort and Welling, ICCV 2019 (arXiv 1906.04721), section 4.2.1: before a nonlinearity a channel
is normal with mean β and deviation γ, and behind ReLU it is that normal distribution clipped; its ends are β ± n γ.
Beyond the paper, what is added is taken to be independent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gossamer.methods.quantize.chains import (
    CLIPPED,
    LAYERS,
    RELU,
    SCALED,
    VIEWS,
    averages_maps,
    channel_dim,
    pads_with_itself,
    spread_of,
)
from gossamer.methods.quantize.equalize import Statistics
from gossamer.model import Node, Subject

_SUMS = frozenset({"aten.add", "aten.add_"})
_POSITIVE = SCALED - {"aten.leaky_relu", "aten.leaky_relu_"}


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of the numbers of each channel: float64 (channels,) each.

    Attributes:
        mean: mean.
        variance: variance.
        low: least number.
        high: largest number.
        dim: dimension that counts channels.
    """

    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor
    dim: int

    def clipped(self, low: float, high: float) -> "Belief":
        """Return what is believed of the numbers once they are clipped to ``low`` and ``high``."""
        mean, variance = clipped_normal(self.mean, self.variance.sqrt(), low, high)
        return replace(
            self, mean=mean, variance=variance, low=self.low.clamp(low, high), high=self.high.clamp(low, high)
        )

    def plus(self, other: "Belief") -> "Belief":
        """Return what is believed of the sum with independent numbers."""
        return Belief(
            self.mean + other.mean,
            self.variance + other.variance,
            self.low + other.low,
            self.high + other.high,
            self.dim,
        )

    def spread(self, times: int, dim: int) -> "Belief":
        """Return the belief where each channel has become ``times`` numbers in a row along ``dim``."""
        mean, variance, low, high = (
            part.repeat_interleave(times) for part in (self.mean, self.variance, self.low, self.high)
        )
        return Belief(mean, variance, low, high, dim)


def clipped_normal(mean: Tensor, deviation: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return mean and variance of normal numbers that are clipped to ``low`` and ``high``, which may be infinite.

    With a = (low - μ) / σ, b = (high - μ) / σ, φ and Φ the normal density and distribution, the part between the ends
    has mean μ (Φ(b) - Φ(a)) + σ (φ(a) - φ(b)), and the ends have what is beyond them.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    safe = deviation.clamp(min=1e-300)
    a, b = (low - mean) / safe, (high - mean) / safe
    below, above = _below(a), 1 - _below(b)
    inside = 1 - below - above
    density = (_density(a), _density(b))
    # An infinite end has no share, but infinity times nothing is no number.
    finite = torch.where(ends.isfinite(), ends, 0.0)
    edge = [torch.where(x.isfinite(), x, 0.0) * d for x, d in zip((a, b), density, strict=True)]
    first = mean * inside + deviation * (density[0] - density[1])
    square = deviation**2 * (inside + edge[0] - edge[1]) + 2 * mean * first - mean**2 * inside
    first = first + finite[0] * below + finite[1] * above
    square = square + finite[0] ** 2 * below + finite[1] ** 2 * above
    return first, (square - first**2).clamp(min=0)


def believed_inputs(subject: Subject, made: Mapping[str, Statistics], sigmas: float) -> dict[str, Belief]:
    """Return what is believed of the inputs of sites, by site, where every batch norm's word reaches.

    Args:
        subject: with its batch norms folded.
        made: what they said of the outputs of layers, by module path.
        sigmas: n of the ends β ± n γ.
    """
    known: dict[str, Belief] = {}
    inputs: dict[str, Belief | None] = {}
    for node in subject.graph.nodes:
        before = known.get(node.inputs[0]) if node.inputs else None
        if node.op in LAYERS and node.sites:
            # A layer that runs twice has inputs of two kinds.
            inputs[node.sites[0]] = None if node.sites[0] in inputs else before
            after = _made(node, made, sigmas)
        elif node.op in _SUMS:
            after = _sum([known.get(name) for name in node.inputs])
        else:
            after = None if before is None else _passed(subject, node, before)
        if after is not None:
            known[node.name] = after
    return {site: belief for site, belief in inputs.items() if belief is not None}


def _made(node: Node, made: Mapping[str, Statistics], sigmas: float) -> Belief | None:
    if node.module not in made:
        return None
    mean, deviation = made[node.module]
    reach = sigmas * deviation
    return Belief(mean, deviation**2, mean - reach, mean + reach, channel_dim(node))


def _sum(parts: list[Belief | None]) -> Belief | None:
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return None
    same = parts[0].dim == parts[1].dim and parts[0].mean.shape == parts[1].mean.shape
    return parts[0].plus(parts[1]) if same else None


def _passed(subject: Subject, node: Node, before: Belief) -> Belief | None:
    """Return what is believed behind an operator of one input, or None if it says nothing."""
    if node.op in VIEWS:
        times = spread_of(node, before.dim)
        return None if times is None else before if node.input_shapes == node.output_shapes else before.spread(times, 1)
    if node.op in RELU:
        return before.clipped(0.0, math.inf)
    if node.op in CLIPPED:
        module = subject.model.get_submodule(node.module)
        return before.clipped(module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else None
    # A maximum has another mean than its parts, which nothing is known of beyond each of them; ends hold.
    passes = node.op in _POSITIVE or averages_maps(node, before.dim) or pads_with_itself(subject.model, node)
    return before if passes else None


def _below(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
