"""A mixture of Gaussians that trains beside the weights it draws together; one component lies at zero.

``Mixture`` is the constraint, as plain data; ``Mix`` is what trains, a module that every site of one tie shares. It
changes no value by itself: a penalty reads it, and once the step has trained a method says what its values come to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gossamer.errors import PlanError


class Components(NamedTuple):
    """The components of a mixture, that at zero first; float tensors of shape ``(K,)``.

    Attributes:
        means: of each.
        log_precisions: natural logarithm of one over the variance.
        log_shares: natural logarithm of the mixing proportions, which add up to 1.
    """

    means: Tensor
    log_precisions: Tensor
    log_shares: Tensor


class Rates(NamedTuple):
    """Learning rates of a mixture's parameters, where those of the weights are too low or too high for them."""

    means: float
    log_precisions: float
    log_shares: float


@dataclass(frozen=True, eq=False)
class Mixture:
    """Values are drawn towards a few means while a step trains; ``settle`` takes the mixture away.

    Attributes:
        means: float tensor of shape ``(K - 1,)``: of all components but that at zero.
        log_precisions: of shape ``(K,)``: natural logarithms of one over the variances, that at zero first.
        log_shares: of shape ``(K - 1,)``: logarithms of the mixing proportions of the others, up to a constant.
        zero: the mixing proportion of the component at zero, above 0 and below 1.
        rates: learning rates.
        tie: where several sites have one mixture, a name for it.
    """

    means: Tensor
    log_precisions: Tensor
    log_shares: Tensor
    zero: float
    rates: Rates
    tie: str = ""

    def __post_init__(self) -> None:
        count = self.means.numel()
        shapes = [tuple(part.shape) for part in (self.means, self.log_precisions, self.log_shares)]
        if not count or shapes != [(count,), (count + 1,), (count,)]:
            raise PlanError(f"Mixture: wanted shapes (K - 1,), (K,) and (K - 1,), got {shapes}")
        for name in ("means", "log_precisions", "log_shares"):
            values = getattr(self, name)
            if not values.is_floating_point() or not bool(torch.isfinite(values).all()):
                raise PlanError(f"Mixture.{name}: wanted finite floats")
            object.__setattr__(self, name, values.detach().cpu())
        if not 0 < self.zero < 1:
            raise PlanError(f"Mixture.zero: wanted a share above 0 and below 1, got {self.zero}")

    @property
    def components(self) -> Components:
        """All components, that at zero first."""
        return components(self.means, self.log_precisions, self.log_shares, self.zero)


class Mix(nn.Module):
    """A mixture that trains, with learning rates of its own."""

    def __init__(self, mixture: Mixture, device: torch.device, *, trains: bool) -> None:
        super().__init__()
        self.means = _parameter(mixture.means, device, trains=trains)
        self.log_precisions = _parameter(mixture.log_precisions, device, trains=trains)
        self.log_shares = _parameter(mixture.log_shares, device, trains=trains)
        self.zero, self.rates, self.tie = mixture.zero, mixture.rates, mixture.tie

    @property
    def mixture(self) -> Mixture:
        """The mixture as it is at this moment."""
        means, precisions = self.means.detach().clone(), self.log_precisions.detach().clone()
        return Mixture(means, precisions, self.log_shares.detach().clone(), self.zero, self.rates, self.tie)

    @property
    def components(self) -> Components:
        """All components, differentiable, that at zero first."""
        return components(self.means, self.log_precisions, self.log_shares, self.zero)


def components(means: Tensor, log_precisions: Tensor, log_shares: Tensor, zero: float) -> Components:
    """Return all components of a mixture whose share at zero is ``zero``; arguments as in :class:`Mixture`."""
    others = torch.log_softmax(log_shares, 0) + math.log1p(-zero)
    return Components(
        torch.cat([means.new_zeros(1), means]),
        log_precisions,
        torch.cat([others.new_full((1,), math.log(zero)), others]),
    )


def _parameter(values: Tensor, device: torch.device, *, trains: bool) -> nn.Parameter:
    return nn.Parameter(values.to(device, copy=True), requires_grad=trains)


def own_rates(model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
    """Yield each parameter of ``model`` that trains at a learning rate of its own, once, with that rate."""
    for part in model.modules():
        if isinstance(part, Mix):
            for name, rate in part.rates._asdict().items():
                yield part.get_parameter(name), rate
