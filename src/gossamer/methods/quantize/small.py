"""Rounding of the small tensors beside the weights: biases, norms and their statistics.

A small network is mostly overhead once its weights are small. Each tensor gets multiples of a power of two, which the
writer recognises. A step s adds f s² / 24 to the loss for each number of curvature f and saves a bit each time it
doubles, so both have equal slope λ where f s² = 12 λ / ln 2 (Gish and Pierce 1968). The curvature of a batch norm's
statistics follows from that of its weight γ and bias β: y = γ (x - μ) / √v + β gives ∂y/∂μ = -γ / √v · ∂y/∂β and
∂y/∂v = -γ / 2v · ∂y/∂γ. Of the two biases of an LSTM or RNN layer only the sum counts, so one of them becomes zero.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gossamer.model import Evidence, Owner, Subject, find_sites
from gossamer.model.resize import stored_tensors

_MOST = 2**14  # levels on either side of zero
_SUMS = {kind.forward for kind in (nn.RNN, nn.LSTM, nn.RNNCell, nn.LSTMCell)}  # which only ever add both biases up
_EPS = 1e-5  # variances below it hardly count beside what a batch norm adds to them


def rounded_small(
    subject: Subject, evidence: Evidence, price: float, new: Mapping[str, Tensor], named: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Return new values of the parameters that are no sites and of batch norms' statistics.

    Args:
        subject: the model.
        evidence: with ``curvature``; what no gradient reached is left alone.
        price: λ, what a bit is worth in units of the loss.
        new: values that take the place of those in the model.
        named: says of each name whether it is meant.
    """
    stored = stored_tensors(subject.model)
    curvatures = {
        name: each for name, each in _curvatures(subject.model, stored, evidence.sensitivities) if named(name)
    }
    free = {name: stored[name] for name in curvatures if name not in subject.constraints}
    now = {**stored, **dict(_merged(subject.model, free)), **new}
    found = {}
    for name, curvature in curvatures.items():
        values = now[name].detach().cpu()
        if name not in subject.sites and values.dtype == torch.float32 and bool(torch.isfinite(values).all()):
            positive = name.endswith("running_var")
            found[name] = _rounded(values, curvature, price, positive=positive)
    return found


def _curvatures(
    model: nn.Module, stored: Mapping[str, Tensor], known: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the curvature of each parameter, and of each batch norm's statistics."""
    yield from ((name, curvature) for name, curvature in known.items() if name in stored)
    for path, module in model.named_modules():
        names = [f"{path}.{part}" if path else part for part in ("weight", "bias", "running_mean", "running_var")]
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or not all(name in stored for name in names):  # noqa: SLF001
            continue
        if names[0] in known and names[1] in known:
            gain = stored[names[0]].detach().cpu().square()
            variance = stored[names[3]].cpu() + module.eps
            yield names[2], known[names[1]] * gain / variance
            yield names[3], known[names[0]] * gain / (2 * variance).square()


def _merged(model: nn.Module, free: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield new values of the biases of LSTM and RNN layers: of the two of a layer, only the sum counts."""
    owned = {site.name for site in find_sites(model, every=True).values() if len(site.owners) == 1}
    for path, module in model.named_modules():
        if type(module).forward not in _SUMS:
            continue
        for name, _ in module.named_parameters(recurse=False):
            one, other = (Owner(path, name.replace("bias_ih", part)).name for part in ("bias_ih", "bias_hh"))
            if name.startswith("bias_ih") and {one, other} <= owned & free.keys():
                yield one, free[one].detach() + free[other].detach()
                yield other, torch.zeros_like(free[other])


def _rounded(values: Tensor, curvature: Tensor, price: float, *, positive: bool) -> Tensor:
    """Return multiples of one step; what is ``positive`` keeps an eighth of its least at most, and stays positive."""
    largest, mean = float(values.abs().max()) if values.numel() else 0.0, float(curvature.mean())
    if largest == 0.0 or mean <= 0.0:
        return values
    step = min(math.sqrt(12 * price / (math.log(2) * mean)), largest)
    if positive:
        step = min(step, float(values.clamp_min(_EPS).min()) / 8)
    step = max(2.0 ** math.floor(math.log2(step)), 2.0 ** math.ceil(math.log2(largest / _MOST)))
    found = (values / step).round() * step + 0.0  # no zero with a minus
    return torch.where(values > 0, found.clamp_min(step), found) if positive else found
