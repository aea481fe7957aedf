"""The description length of weights under a mixture of Gaussians, with its gradient in closed form, and its penalty.

Nowlan and Hinton, "Simplifying Neural Networks by Soft Weight-Sharing", Neural Computation 4(4), 1992: with the
responsibilities r_k of the components for a weight w, the gradient of -log Σ_k π_k N(w | μ_k, σ_k²) is
Σ_k r_k (w - μ_k) / σ_k² for the weight, -r_k (w - μ_k) / σ_k² for μ_k, ½ r_k ((w - μ_k)² / σ_k² - 1) for the
logarithm of the precision 1 / σ_k² and -r_k for that of π_k, the latter summed over the weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.model import Components, StepContext, Subject
from gossamer.model.live import live_parts
from gossamer.model.site import owned_parameters

_CHUNK = 1 << 15
"""Weights taken at a time: their table of components stays in the processor's cache."""
_LEAST = -60.0
"""Logarithm of the least responsibility told from none, against the greatest: subnormal numbers take several times as
long to compute with, and add nothing."""


def description_length(values: Tensor, mixture: Components) -> Tensor:
    """Return -Σ log Σ_k π_k N(w | μ_k, σ_k²) over ``values``, in nats, differentiable in both arguments.

    Args:
        values: floats of any shape.
        mixture: its components, in a dtype no shorter than that of the result shall be.
    """
    total: Tensor = _Length.apply(values, *mixture)  # type: ignore[no-untyped-call]
    return total


def responsible(values: Tensor, mixture: Components) -> Tensor:
    """Return the component with the highest responsibility for each of ``values``: int64, of their shape."""
    flat = values.detach().to(mixture.means).flatten()
    codes = [_log_joint(part, mixture)[1].argmax(0) for part in torch.split(flat, _CHUNK)]
    return torch.cat(codes).view(values.shape) if codes else values.new_zeros(values.shape, dtype=torch.int64)


def _log_joint(values: Tensor, mixture: Components) -> tuple[Tensor, Tensor]:
    """Return w - μ_k and log π_k N(w | μ_k, σ_k²), both of shape (components, values)."""
    away = values - mixture.means.unsqueeze(1)
    fixed = mixture.log_shares + (mixture.log_precisions - math.log(2 * math.pi)) / 2
    joint = away.square().mul_(mixture.log_precisions.exp().div(-2).unsqueeze(1)).add_(fixed.unsqueeze(1))
    return away, joint


class _Length(torch.autograd.Function):
    """Finds the gradients on the way: autograd would keep several tables of all weights by all components."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, means: Tensor, log_precisions: Tensor, log_shares: Tensor) -> Tensor:
        mixture = Components(means, log_precisions, log_shares)
        flat = values.to(means).flatten()
        precision = log_precisions.exp().unsqueeze(1)
        slope = torch.empty_like(flat)
        total = means.new_zeros((), dtype=torch.float64)
        sums = means.new_zeros(3, len(means), dtype=torch.float64)
        for start in range(0, flat.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            away, share = _log_joint(flat[part], mixture)
            most = share.amax(0)
            together = share.sub_(most).clamp_(min=_LEAST).exp_().sum(0)
            total -= (most + together.log()).sum()
            share.div_(together)  # responsibilities
            sums[0] += share.sum(1)
            push = share.mul_(away).mul_(precision)
            sums[1] += push.sum(1)
            slope[part] = push.sum(0)
            sums[2] += push.mul_(away).sum(1)
        ctx.save_for_backward(slope.view(values.shape), sums.to(means))
        ctx.dtype = values.dtype
        return total.to(means)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        slope, (share, push, square) = ctx.saved_tensors
        by = gradients[0]
        return (slope * by).to(ctx.dtype), -push * by, (square - share) / 2 * by, -share * by


@dataclass(frozen=True, slots=True)
class MixturePenalty:
    """``tau`` times the description length of the live values of ``sites`` under their mixtures, Gamma priors with it.

    Attributes:
        sites: whose values are described; a tied weight counts once, what is masked not at all.
        tau: weight against the loss of all samples.
        expected: the deviation that the Gamma priors of each site's mixture expect.
        zero_shape: shape of the Gamma prior on the precision at zero.
        shape: of those on the others.
    """

    sites: tuple[str, ...]
    tau: float
    expected: Mapping[str, float]
    zero_shape: float
    shape: float

    def term(self, context: StepContext) -> Tensor | None:
        """Return the penalty, a mean over samples as the loss is; None once the mixtures are gone.

        Raises:
            ModelError: a site is no longer there.
        """
        model = context.subject.model
        parameters = {owner.name: parameter for owner, _, parameter in owned_parameters(model)}
        lives = {owner.name: live for owner, _, live, _ in live_parts(model)}
        total: Tensor | None = None
        seen: dict[int, Components] = {}
        for site in self.sites:
            if site not in parameters:
                raise ModelError(
                    f"share.soft: site {site} is no longer there",
                    hint="put share.soft after the step that changed the model's structure",
                )
            live, parameter = lives.get(site), parameters[site]
            if live is None or live.mix is None:
                continue
            now = seen.get(id(live.mix))
            value, keep = live(parameter), live.kept
            mixture = live.mix.components if now is None else now
            term = description_length(value if keep is None else value[keep], mixture)
            if now is None:
                seen[id(live.mix)] = mixture
                term = term + self._hyper(mixture, self.expected[site])
            total = term if total is None else total + term
        return None if total is None else self.tau / context.samples * total

    def proximal(self, subject: Subject, lr: float) -> None:
        """Do nothing: the description length is all gradient."""

    def _hyper(self, mixture: Components, expected: float) -> Tensor:
        """Return -log of the Gamma priors on the precisions, up to a constant: of shape α and mean 1 / expected²."""
        shape = torch.full_like(mixture.log_precisions, self.shape)
        shape[0] = self.zero_shape
        return ((1 - shape) * mixture.log_precisions + shape * expected**2 * mixture.log_precisions.exp()).sum()
