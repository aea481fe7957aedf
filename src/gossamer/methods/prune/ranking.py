"""From scores to masks: the lowest share of units becomes zero, in a scope and a pattern, the same for all criteria.

Scores count by their absolute values, so that magnitudes need no memory of their own; a weight that is zero already has
score zero. Exactly ``sparsity`` times the number of weights go (rounded, halves up), or all zeros if these are more.
Among equal scores the earlier go first, so the outcome is the same everywhere, and masks of growing sparsity are nested
while scores stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.methods.prune.pattern import Free, Pattern
from gossamer.model import Layout, Mask

Scope = Literal["global", "layer", "row"]
_CHUNK = 1 << 20
Array = NDArray[Any]
Keep = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of one site.

    Attributes:
        scores: one per weight, in its place; zero where the weight is.
        parts: how the site is read as matrices (outputs, inputs).
    """

    scores: Tensor
    parts: tuple[Layout, ...]


def masks(scored: Mapping[str, Scored], sparsity: float, scope: Scope, pattern: Pattern) -> dict[str, Mask]:
    """Return the mask of every site.

    Args:
        scored: scores by site.
        sparsity: share of the weights that goes, from 0 to what the pattern allows.
        scope: rank the units of all sites together, of each site alone, or of each row of a site's matrices alone.
        pattern: which weights go together.
    """
    if not scored or pattern.most == 0:
        return {}
    share = min(1.0, sparsity / pattern.most)
    whole = isinstance(pattern, Free) and scope != "row"
    scores = {site: _matrices(one, whole=whole) for site, one in scored.items()}
    units = {site: [pattern.units(matrix) for matrix in matrices] for site, matrices in scores.items()}
    keeps = _kept(units, share, scope)
    found = {}
    for site, one in scored.items():
        parts = [pattern.expand(keep, matrix) for keep, matrix in zip(keeps[site], scores[site], strict=True)]
        found[site] = Mask(_put(one, parts, whole=whole))
    return found


def _matrices(one: Scored, *, whole: bool) -> list[Array]:
    """Return the scores as matrices; as one long row where neither pattern nor scope asks for more."""
    if whole:
        return [one.scores.reshape(1, -1).numpy()]
    return [part.matrix(one.scores).abs().contiguous().numpy() for part in one.parts]


def _put(one: Scored, parts: Sequence[Keep], *, whole: bool) -> Tensor:
    if whole:
        return torch.from_numpy(parts[0]).reshape(one.scores.shape)
    keep = torch.ones(one.scores.shape, dtype=torch.bool)
    for layout, part in zip(one.parts, parts, strict=True):
        keep = layout.put(keep, torch.from_numpy(part))
    return keep


def _kept(units: Mapping[str, list[Array]], share: float, scope: Scope) -> dict[str, list[Keep]]:
    match scope:
        case "global":
            every = [one for parts in units.values() for one in parts]
            keeps = iter(_together(every, share))
            return {site: [next(keeps) for _ in parts] for site, parts in units.items()}
        case "layer":
            return {site: _together(parts, share) for site, parts in units.items()}
        case "row":
            return {site: [keep_largest_rows(one, share) for one in parts] for site, parts in units.items()}


def _together(parts: Sequence[Array], share: float) -> list[Keep]:
    keeps = keep_largest([one.reshape(-1) for one in parts], share)
    return [keep.reshape(one.shape) for keep, one in zip(keeps, parts, strict=True)]


def keep_largest(scores: Sequence[Array], sparsity: float) -> list[Keep]:
    """Return for each flat array which of its numbers stay when the smallest share of all becomes zero.

    Args:
        scores: count by their absolute values; at least one array.
        sparsity: share that goes, from 0 to 1.
    """
    together = scores[0] if len(scores) == 1 else np.concatenate(scores)
    gone = int(sparsity * together.size + 0.5)
    threshold = ranked(together, gone - 1) if gone else 0
    keep, equal, below = np.empty(together.shape, np.bool_), [], 0
    for start in range(0, together.size, _CHUNK):
        part = np.abs(together[start : start + _CHUNK])
        keep[start : start + _CHUNK] = part >= threshold if threshold > 0 else part > 0
        equal.append(np.flatnonzero(part == threshold) + start)
        below += int(np.count_nonzero(part < threshold))
    if threshold > 0:
        keep[np.concatenate(equal)[: gone - below]] = False
    ends = np.cumsum([0, *(one.size for one in scores)])
    return [keep[first:last] for first, last in pairwise(ends)]


def ranked(scores: Array, rank: int) -> float:
    """Return the absolute value of the one of ``scores``, flat, that so many others come before in order."""
    bits = scores.view(np.uint32) if scores.dtype == np.float32 and scores.flags.c_contiguous else None
    if bits is None or bits.size <= _CHUNK:
        return float(np.partition(np.abs(scores), rank)[rank])
    # Floats without their sign have the order of their bits: first the upper half of the one that is sought, then the
    # lower half, each by counting, for a partition would take as much memory as there is.
    parts = [bits[start : start + _CHUNK] for start in range(0, bits.size, _CHUNK)]
    below = np.cumsum(sum(np.bincount(part >> 16 & 0x7FFF, minlength=1 << 15) for part in parts))
    upper = int(np.searchsorted(below, rank, side="right"))
    rank -= int(below[upper - 1]) if upper else 0
    lowers = (np.bincount(part[part >> 16 & 0x7FFF == upper] & 0xFFFF, minlength=1 << 16) for part in parts)
    lower = int(np.searchsorted(np.cumsum(sum(lowers)), rank, side="right"))
    return float(np.uint32(upper << 16 | lower).view(np.float32))


def keep_largest_rows(scores: Array, sparsity: float) -> Keep:
    """Return which numbers of a matrix stay when the smallest share of each row becomes zero."""
    gone = int(sparsity * scores.shape[1] + 0.5)
    keep: Keep = scores > 0
    if gone:
        order = np.argsort(scores, axis=1, kind="stable")[:, :gone]
        np.put_along_axis(keep, order, values=False, axis=1)
    return keep
