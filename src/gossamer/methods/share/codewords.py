"""Codewords for subvectors: k-means under quadratic forms, by a fixed number of rounds of two steps.

Stock, Joulin, Gribonval, Graham and Jégou, "And the Bit Goes Down", ICLR 2020 (arXiv 1907.05686). Codewords start at
subvectors drawn at random. Each round gives every subvector the codeword of the least error, then every codeword the
values of the least error for its members: their mean, where all have one form. A codeword without members splits the
fullest cluster with noise: its codeword c becomes c + e and c - e, with e normal of deviation 1e-8. The paper draws
inputs anew for each round; here the second moment of all of them is known, and a round that changes nothing is the
last.
"""

import torch
from torch import Tensor

from gossamer.methods.share.errors import Errors

NOISE = 1e-8
"""Deviation of the noise that splits a cluster."""
_TRIES = 100
"""Clusters, the fullest first, that are tried; if noise parts none, the codeword is left out."""
_CHUNK = 1 << 21


def codewords(vectors: Tensor, count: int, errors: Errors, *, rounds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the codeword of each subvector and at most ``count`` codewords, all of them used.

    No more than ``count`` different subvectors become codewords themselves.

    Args:
        vectors: float64 (n, width), n at least 1.
        count: most codewords, at least 1.
        errors: how the error of each subvector is measured.
        rounds: most rounds, at least 1.
        seed: of the start and of the noise.

    Returns:
        int64 (n,), indices into the codewords; float64 (K, width).
    """
    distinct, place = torch.unique(vectors, dim=0, return_inverse=True)
    if len(distinct) <= count:
        return place, distinct
    generator = torch.Generator().manual_seed(seed)
    words = vectors[torch.randperm(len(vectors), generator=generator)[:count]]
    pulls = _pulls(vectors, errors)
    members = torch.full((len(vectors),), -1)
    for _ in range(rounds):
        found = nearest(pulls, words, errors)
        found = split_fullest(pulls, words, errors, found, generator)
        if torch.equal(found, members):
            break
        members = found
        words = centers(vectors, pulls, errors, members, words)
    used, members = torch.unique(members, return_inverse=True)
    return members, words[used]


def nearest(pulls: Tensor, words: Tensor, errors: Errors, some: Tensor | None = None) -> Tensor:
    """Return the codeword of the least error for each subvector; of equal ones the first.

    Args:
        pulls: form times subvector, (n, width).
        words: codewords, (K, width).
        errors: the forms.
        some: indices of the subvectors to look at; None for all.
    """
    of = errors.of if some is None else errors.of[some]
    pulls = pulls if some is None else pulls[some]
    found = torch.empty(len(pulls), dtype=torch.int64)
    outer = (words.unsqueeze(2) * words.unsqueeze(1)).flatten(1)
    step = max(1, _CHUNK // len(words))
    for start in range(0, len(pulls), step):
        part = slice(start, start + step)
        forms, own = torch.unique(of[part], return_inverse=True)
        sizes = errors.forms[forms].flatten(1) @ outer.T
        sizes = sizes if len(forms) == 1 else sizes[own]
        found[part] = torch.addmm(sizes, pulls[part], words.T, alpha=-2).argmin(1)
    return found


def split_fullest(pulls: Tensor, words: Tensor, errors: Errors, members: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``members`` after every codeword without any has split the fullest cluster that noise parts.

    ``words`` change in place.
    """
    counts = members.bincount(minlength=len(words))
    for empty in (counts == 0).nonzero().flatten().tolist():
        for full in counts.argsort(descending=True, stable=True)[:_TRIES].tolist():
            noise = torch.randn(words.shape[1], generator=generator, dtype=torch.float64) * NOISE
            pair = torch.stack([words[full] - noise, words[full] + noise])
            inside = (members == full).nonzero().flatten()
            moved = inside[nearest(pulls, pair, errors, inside) == 1]
            if 0 < len(moved) < len(inside):
                words[full], words[empty] = pair
                members = members.index_fill(0, moved, empty)
                counts = members.bincount(minlength=len(words))
                break
    return members


def centers(vectors: Tensor, pulls: Tensor, errors: Errors, members: Tensor, words: Tensor) -> Tensor:
    """Return the codewords of the least error for their members; those without any stay as in ``words``."""
    counts = members.bincount(minlength=len(words))
    there = counts > 0
    new = words.clone()
    if len(errors.forms) == 1:
        total = torch.zeros_like(words).index_add_(0, members, vectors)
        new[there] = total[there] / counts[there].unsqueeze(1)
        return new
    width = words.shape[1]
    total = torch.zeros_like(words).index_add_(0, members, pulls)
    forms = torch.zeros(len(words), width * width, dtype=torch.float64)
    step = max(1, _CHUNK // width**2)
    for start in range(0, len(members), step):
        part = slice(start, start + step)
        forms.index_add_(0, members[part], errors.forms[errors.of[part]].flatten(1))
    new[there] = torch.linalg.solve(forms.view(-1, width, width)[there], total[there])
    return new


def _pulls(vectors: Tensor, errors: Errors) -> Tensor:
    """Return form times subvector, (n, width)."""
    if len(errors.forms) == 1:
        return vectors @ errors.forms[0]
    pulls = torch.empty_like(vectors)
    step = max(1, _CHUNK // vectors.shape[1] ** 2)
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        pulls[part] = (errors.forms[errors.of[part]] @ vectors[part].unsqueeze(2)).squeeze(2)
    return pulls
