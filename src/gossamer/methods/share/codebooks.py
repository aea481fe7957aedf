"""Codebooks for the values of a site, of some of its rows, or of several sites."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gossamer.methods.share.importance import positive
from gossamer.methods.share.points import summed
from gossamer.methods.share.starts import Start, clustered
from gossamer.model import Codebook, codes_dtype, nearest_center


def share(
    weight: Tensor,
    limit: int,
    *,
    start: Start = "linear",
    seed: int = 0,
    trained: bool = True,
    weights: Tensor | None = None,
) -> Codebook:
    """Return the codebook of at most ``limit`` centers for the non-zero values of ``weight``.

    Values that are no more than ``limit`` in number become the centers themselves. Centers without members are left
    out. The codes of zeros are those of the center nearest to zero; a mask must hold them.

    Args:
        weight: finite, on the CPU, with at least one value that is not zero.
        limit: most centers allowed, at least 1.
        start: where centers start; see :func:`clustered`.
        seed: of a drawn start.
        trained: whether training may move the centers.
        weights: how much each value matters, not negative, of the shape of ``weight``; None for alike.
    """
    centers = shared_values([weight], limit, start=start, seed=seed, weights=None if weights is None else [weights])
    return Codebook(nearest_center(weight, centers, codes_dtype(len(centers))), centers, trained)


def share_rows(
    weight: Tensor,
    limit: int,
    rows: int,
    *,
    start: Start = "linear",
    seed: int = 0,
    trained: bool = True,
    weights: Tensor | None = None,
) -> Codebook:
    """Return a codebook in which every ``rows`` rows have at most ``limit`` centers of their own; else as `share`.

    Rows that are all zero have a zero for their only center.
    """
    parts, places = [], []
    for row in range(0, len(weight), rows):
        part = weight[row : row + rows]
        heavy = None if weights is None else weights[row : row + rows]
        if bool(part.any()):
            found = share(part, limit, start=start, seed=seed, trained=trained, weights=heavy)
        else:
            found = Codebook(torch.zeros(part.shape, dtype=torch.int64), weight.new_zeros(1), trained)
        parts.append(found)
        places += [sum(one.size for one in parts[:-1])] * len(part)
    starts = torch.tensor(places)
    codes = torch.cat([part.codes for part in parts]) + starts.view(-1, *[1] * (weight.ndim - 1))
    return Codebook(codes, torch.cat([part.centers for part in parts]), trained, starts=starts)


def shared_values(
    parts: Sequence[Tensor], limit: int, *, start: Start, seed: int, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Return at most ``limit`` sorted centers, in the dtype of ``parts``, for the non-zero values of all of these."""
    flat = torch.cat([part.flatten() for part in parts]) if len(parts) > 1 else parts[0].flatten()
    heavy = None if weights is None else positive(torch.cat([part.flatten() for part in weights])).numpy()
    plain = flat.to(torch.promote_types(flat.dtype, torch.float32)).numpy()
    points = summed(plain, heavy, limit=limit)
    found = points.at if points.at.size <= limit else clustered(points, limit, start, seed)
    centers: Tensor = torch.unique(torch.from_numpy(found).to(flat.dtype))
    used = nearest_center(torch.from_numpy(points.at), centers).bincount(minlength=len(centers))
    return centers[used > 0]


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
    return replace(codebook, codes=torch.where(shared, codebook.codes, codebook.nearest(weight)), shared=more)


def parts_rows(codebook: Codebook, rows: int) -> bool:
    """Return whether codebooks for each ``rows`` rows would part a shared value, for several of them have it."""
    run = torch.arange(len(codebook.codes)) // rows
    codes = codebook.codes.flatten(1)
    run, flat = run.unsqueeze(1).expand_as(codes).flatten(), codes.flatten().long()
    low = torch.full((codebook.size,), len(codes)).scatter_reduce(0, flat, run, "amin")
    high = torch.full((codebook.size,), -1).scatter_reduce(0, flat, run, "amax")
    return bool((high > low).any())


def shared_bits(members: int, centers: int, width: int, most: int | None = None) -> int:
    """Return the bits of ``members`` packed codes and ``centers`` of ``width`` bits (Deep Compression, equation 1).

    Args:
        members: how many values are shared.
        centers: how many there are.
        width: bits of a center.
        most: how many of them a code can name, where rows have centers of their own.
    """
    return members * max(math.ceil(math.log2(most or centers)), 1 if centers == 1 else 0) + width * centers
