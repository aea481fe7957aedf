"""Bits of weights that are not whole numbers yet: the coder's prices of whole numbers, interpolated between them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gossamer.codings.rates import rates


class Table(NamedTuple):
    """What leaving zero costs at each place of a site, in bits.

    Attributes:
        zeros: of all places together, were all zero.
        down: minus what -1 costs more than 0, which is the slope between them; the site's shape.
        up: what 1 costs more than 0; likewise.
        rise: entry k is what k + 1 costs more than k, entry 0 not counted; the last holds beyond.
        far: entry k is what k costs more than 1, entry 0 not counted.
        version: of the codes that were priced.
    """

    zeros: float
    down: Tensor
    up: Tensor
    rise: Tensor
    far: Tensor
    version: int


def tabled(codes: Tensor) -> Table:
    """Return what the coder asks around ``codes``, whole numbers of any shape."""
    found = rates(codes.cpu().numpy().astype("int64"))

    def tensor(bits: Any) -> Tensor:
        return torch.as_tensor(bits, dtype=torch.float32, device=codes.device)

    distance = tensor(found.distance)
    far = torch.cat([distance.new_zeros(1), distance - distance[0]])
    rise = torch.cat([distance.new_zeros(1), distance.diff()])
    zero, below, above = tensor(found.zero), tensor(found.below), tensor(found.above)
    version = codes._version  # noqa: SLF001
    return Table(float(zero.sum()), zero - below - distance[0], above + distance[0] - zero, rise, far, version)


def spent(weight: Tensor, step: Tensor, table: Table, keep: Tensor | None = None) -> Tensor:
    """Return the bits of ``weight`` / ``step``, 0-d float32: those of whole numbers, interpolated between them.

    Args:
        weight: any shape; gets the gradient of its own bits.
        step: 0-d; gets the gradient of all.
        table: of codes of the same shape.
        keep: what is not zero whatever ``weight`` says.
    """
    bits: Tensor = _Spent.apply(weight, step, table, keep)  # type: ignore[no-untyped-call]
    return bits


class _Spent(torch.autograd.Function):
    """Most weights are between -1 and 1 step, where few passes over memory do; this is most of the penalty's time."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, table: Table, keep: Tensor | None) -> Tensor:
        ratio = weight.float() / step
        if keep is not None:
            ratio.masked_fill_(~keep, 0.0)
        slope = torch.where(ratio < 0, table.down, table.up).masked_fill_(ratio == 0, 0.0)
        beyond = torch.nonzero(ratio.abs().view(-1) >= 1).squeeze(1)
        bits = torch.dot(slope.view(-1), ratio.clamp(-1, 1).view(-1)) + table.zeros
        if len(beyond):
            signed = ratio.view(-1)[beyond]
            at = signed.abs().clamp(max=len(table.rise) - 1).long()
            bits = bits + (table.far[at] + table.rise[at] * (signed.abs() - at)).sum()
            slope.view(-1)[beyond] = table.rise[at] * signed.sign()
        ctx.save_for_backward(slope, ratio, step)
        ctx.dtype = weight.dtype
        return bits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        slope, ratio, step = ctx.saved_tensors
        each = slope * (gradients[0] / step)
        return each.to(ctx.dtype), -torch.dot(each.view(-1), ratio.view(-1)), None, None
