"""The levels of weights that train behind a few of them, with the gradients that their papers give (`latent`)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from gossamer.model.buckets import bucketed, pointed
from gossamer.model.codebook import Codebook
from gossamer.model.latent import Binary, Bucketed, Latent, Points, Tanh, Ternary, numbers_of
from gossamer.model.straight import straight_through, trained_ternary


def levels(
    latent: Latent, real: Tensor, keep: Tensor | None = None, scales: Tensor | None = None, *, draws: bool = False
) -> Tensor:
    """Return the values that ``latent`` makes of ``real``, in its dtype, with the gradients of its paper.

    Args:
        latent: the rule.
        real: the real values, any shape.
        keep: which values count in means and thresholds, bool of that shape; None for all.
        scales: those that train, or the points, in place of the rule's own.
        draws: whether a rule that draws does, from torch's own generator.
    """
    exact = real.float()
    match latent:
        case Binary():
            value = _binary(latent, exact, keep, draws=draws and latent.drawn)
        case Ternary():
            scales = latent.scales if scales is None else scales
            value = _ternary(latent, exact, keep) if scales is None else _trained(latent, exact, keep, scales)
        case Tanh():
            value = _tanh(latent, exact, keep)
        case Bucketed():
            value = bucketed(latent, exact, keep, draws=draws and latent.drawn)
        case Points():
            value = pointed(latent, exact, latent.points.to(exact.device) if scales is None else scales)
    return value.to(real.dtype)


def settled(latent: Binary | Ternary | Tanh, real: Tensor, keep: Tensor | None = None) -> Codebook:
    """Return the codebook of the levels that ``real`` has come to; fixed where the rule fixes the levels."""
    with torch.no_grad():
        value = levels(latent, real, keep)
    plain = value.detach().cpu()
    trained = not (isinstance(latent, Tanh) or (isinstance(latent, Binary) and latent.scale is not None))
    if latent.axis is None or len(plain) == 0:
        centers, codes = torch.unique(plain.float(), return_inverse=True)
        return Codebook(codes, centers.to(plain.dtype), trained)
    return shared_by_rows(plain, trained=trained)


def shared_by_rows(plain: Tensor, *, trained: bool) -> Codebook:
    """Return the codebook of ``plain``, on the CPU, in which every row has the values that it holds for its centers."""
    parts = [torch.unique(row.float(), return_inverse=True) for row in plain]
    sizes = torch.tensor([len(centers) for centers, _ in parts])
    starts = sizes.cumsum(0) - sizes
    codes = torch.stack([codes + start for (_, codes), start in zip(parts, starts, strict=True)])
    return Codebook(codes, torch.cat([part for part, _ in parts]).to(plain.dtype), trained, starts=starts)


class LiveLatent(nn.Module):
    """A rule at work; ``scales`` are those of a ternary rule that trains them, or the points that train."""

    scales: nn.Parameter | None

    def __init__(self, latent: Latent, device: torch.device, *, trains: bool) -> None:
        super().__init__()
        self.register_parameter("scales", None)
        self.rule = latent
        numbers = numbers_of(latent) if isinstance(latent, Ternary | Points) else None
        if numbers is not None:
            self.scales = nn.Parameter(numbers.to(device, copy=True), requires_grad=trains)

    @property
    def latent(self) -> Latent:
        """The rule as it is at this moment."""
        match self.rule:
            case Ternary() if self.scales is not None:
                return replace(self.rule, scales=self.scales.detach().clone())
            case Points() if self.scales is not None:
                return replace(self.rule, points=self.scales.detach().clone())
            case _:
                return self.rule

    def forward(self, real: Tensor, keep: Tensor | None) -> Tensor:
        """Return the levels of ``real``; ``keep`` as in :func:`levels`."""
        return levels(self.rule, real, keep, self.scales, draws=self.training and torch.is_grad_enabled())


def _binary(latent: Binary, real: Tensor, keep: Tensor | None, *, draws: bool) -> Tensor:
    if latent.scale is None:
        # Both factors have a gradient: the mean size, and the sign where |w| is 1 at most (section 3.1).
        signs = straight_through(real, _signs(real), real.detach().abs() <= 1)
        return _mean(real.abs(), keep, latent.axis) * signs + 0.0
    scale = latent.scale.to(real.device)
    if not draws:
        return straight_through(real, _signs(real) * scale)
    chance = ((real.detach() / scale + 1) / 2).clamp(0, 1)
    return straight_through(real, torch.where(torch.rand_like(chance) < chance, scale, -scale))


def _ternary(latent: Ternary, real: Tensor, keep: Tensor | None) -> Tensor:
    size = real.detach().abs()
    far = size > latent.threshold * _mean(size, keep, latent.axis)
    scale = _mean(size, far if keep is None else far & keep, latent.axis)
    return straight_through(real, torch.where(far, _signs(real) * scale, 0.0))


def _trained(latent: Ternary, real: Tensor, keep: Tensor | None, scales: Tensor) -> Tensor:
    size = real.detach().abs()
    size = size if keep is None else size * keep
    largest = size.amax() if size.numel() else size.sum()
    return trained_ternary(real, scales.to(real.device), latent.threshold * largest)


def _tanh(latent: Tanh, real: Tensor, keep: Tensor | None) -> Tensor:
    if latent.bits == 1:
        return straight_through(real, _signs(real) * _mean(real.detach().abs(), keep, None) + 0.0)
    bent = torch.tanh(real)
    counted = bent.abs() if keep is None else bent.abs() * keep
    largest = counted.amax().clamp_min(torch.finfo(torch.float32).tiny) if counted.numel() else counted.sum()
    share = bent / (2 * largest) + 0.5
    steps = 2**latent.bits - 1
    codes = (share.detach() * steps).round().clamp(0, steps)
    return straight_through(2 * share * latent.scale.to(real.device), (2 * codes / steps - 1) * latent.scale)


def _mean(values: Tensor, keep: Tensor | None, axis: int | None) -> Tensor:
    """Return the mean of the kept values, 0-d, or one for each index of ``axis`` in a shape that spreads; 0 of none."""
    others = [dim for dim in range(values.ndim) if dim != axis]
    kept = torch.ones_like(values) if keep is None else keep.to(values.dtype)
    return (values * kept).sum(others, keepdim=True) / kept.sum(others, keepdim=True).clamp_min(1.0)


def _signs(real: Tensor) -> Tensor:
    return torch.where(real.detach() >= 0, 1.0, -1.0)
