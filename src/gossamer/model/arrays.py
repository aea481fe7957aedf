"""Between torch tensors and codings: which numpy form each dtype has, and the coding hint of a constrained value."""

import itertools

import numpy as np
import torch
from torch import Tensor

from gossamer import codings
from gossamer.errors import CodingError
from gossamer.model.buckets import coded
from gossamer.model.codebook import Codebook
from gossamer.model.constraint import Constraints, Grid, Hash
from gossamer.model.latent import Bucketed, Points
from gossamer.model.levels import levels, settled, shared_by_rows

_AS_BITS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}
_TABLES = 1 << 12
_HAVE_AFFINE = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def to_dense(tensor: Tensor) -> codings.Dense:
    """Return ``tensor`` as a coding, bit for bit.

    Raises:
        CodingError: codings have no such dtype (complex numbers).
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in codings.DTYPES:
        raise CodingError(f"a tensor of {name} cannot be stored: wanted one of {', '.join(codings.DTYPES)}")
    plain = tensor.detach().cpu().contiguous()
    bits = plain.view(_AS_BITS[plain.dtype]) if plain.dtype in _AS_BITS else plain
    return codings.Dense(bits.numpy().copy(), name)


def to_tensor(coding: codings.Coding) -> Tensor:
    """Return the tensor that ``coding`` stands for, bit for bit.

    The memory is torch's own: matrix kernels round differently on memory that is aligned differently, and equal weights
    should give equal outputs.
    """
    tensor = torch.from_numpy(np.array(codings.decode(coding))).clone()
    wanted: torch.dtype = getattr(torch, codings.dtype(coding))
    return tensor if tensor.dtype == wanted else tensor.view(wanted)


def hint_of(original: Tensor, held: Constraints, common: dict[str, codings.Dense] | None = None) -> codings.Coding:
    """Return the coding that says how ``original`` becomes the value that ``held`` allows; it decodes to that value.

    Args:
        original: the parameter.
        held: what holds for it.
        common: the centers of each tie so far; those of this one are added, or taken if they are the same.
    """
    keep = None if held.keep is None or bool(held.keep.all()) else held.keep
    value = original.detach().cpu()
    if held.hash is not None:
        return _hashed(held.hash, held.grid, keep, value.dtype)
    if held.codebook is not None:
        if held.codebook.shared is None:
            return _shared(held.codebook, held.grid, keep, value.dtype, {} if common is None else common)
        centers = held.codebook.centers.to(value.dtype)
        value = torch.where(held.codebook.shared, centers[held.codebook.codes.int()], value)
    if held.latent is not None and held.codebook is None:
        if held.grid is None and isinstance(held.latent, Bucketed | Points):
            return _with_codes(*coded(held.latent, original.detach(), held.keep), keep, value.dtype)
        if held.grid is None and not isinstance(held.latent, Bucketed | Points):
            return _shared(settled(held.latent, original, held.keep), None, keep, value.dtype, {})
        value = levels(held.latent, original.detach(), held.keep).cpu()
    if held.grid is not None:
        return _on_grid(value, held.grid, keep)
    return to_dense(value) if keep is None else _sparse(keep, to_dense(value[keep]))


def _shared(
    codebook: Codebook,
    grid: Grid | None,
    keep: Tensor | None,
    dtype: torch.dtype,
    common: dict[str, codings.Dense],
) -> codings.Coding:
    centers = codebook.centers.to(dtype)
    if codebook.words is not None:
        found = _shared_by_words(codebook.words, centers.view(-1, codebook.width), codebook.codes.shape, grid, keep)
        if found is not None:
            return found
    if codebook.starts is not None:
        return _shared_by_rows(codebook, centers, grid, keep)
    coded: codings.Coding = to_dense(centers) if grid is None else _on_grid(centers, grid, None)
    if codebook.tie and isinstance(coded, codings.Dense):
        other = common.setdefault(codebook.tie, coded)
        alike = other.dtype == coded.dtype and codings.same_bits(other.array, coded.array)
        coded = other if alike else coded
    codes = codebook.codes if keep is None else codebook.codes.flatten()[keep.flatten()]
    return _sparse(keep, codings.Codebook(_narrow(codes), coded))


def _shared_by_rows(codebook: Codebook, centers: Tensor, grid: Grid | None, keep: Tensor | None) -> codings.Coding:
    """Return codes in the centers of their row; the zero of what is masked is one more center of every row."""
    starts = torch.zeros(len(codebook.codes), dtype=torch.int64) if codebook.starts is None else codebook.starts
    codes = codebook.codes - starts.view(-1, *[1] * (codebook.codes.ndim - 1))
    if keep is not None:
        codes = torch.where(keep, codes + 1, 0)
        parts = [torch.cat([centers.new_zeros(1), centers[start:stop]]) for start, stop in codebook.pages]
        begins = torch.tensor([0, *itertools.accumulate(map(len, parts))])
        page = torch.searchsorted(torch.tensor([start for start, _ in codebook.pages]), starts)
        centers, starts = torch.cat(parts), begins[page]
    coded = to_dense(centers) if grid is None else _on_grid(centers, grid, None)
    return codings.Codebook(codings.Shift(_narrow(codes), codings.Dense(starts.to(torch.int32).numpy())), coded)


def _shared_by_words(
    words: Tensor, codewords: Tensor, shape: torch.Size, grid: Grid | None, keep: Tensor | None
) -> codings.Coding | None:
    """Return a word for each subvector; one with zeros is a codeword of its own. None if nearly all would be that."""
    width = codewords.shape[1]
    there = None
    if keep is not None:
        kept = keep.reshape(*words.shape, width)
        named = torch.where(kept.any(-1), words, 0).unsqueeze(-1)
        pairs = torch.cat([named, kept.long()], -1).flatten(0, 1)
        distinct, place = torch.unique(pairs, dim=0, return_inverse=True)
        if 2 * len(distinct) > words.numel():
            return None
        words, codewords, there = place.view(words.shape), codewords[distinct[:, 0]], distinct[:, 1:].bool().flatten()
    centers = codewords.flatten()
    if grid is not None:
        coded = _on_grid(centers, grid, there)
    else:
        coded = to_dense(centers if there is None else torch.where(there, centers, 0))
    return codings.Codebook(codings.Runs(_narrow(words), width, tuple(shape)), coded)


def _hashed(hashed: Hash, grid: Grid | None, keep: Tensor | None, dtype: torch.dtype) -> codings.Coding:
    buckets = hashed.buckets.to(dtype)
    coded = to_dense(buckets) if grid is None else _on_grid(buckets, grid, None, narrow=True)
    return codings.Hash(coded, hashed.seed, hashed.shape, None if keep is None else codings.Dense(keep.numpy()))


def _on_grid(value: Tensor, grid: Grid, keep: Tensor | None, *, narrow: bool = False) -> codings.Coding:
    """Return the affine coding of ``value``; where it is masked, the code is that of zero."""
    return _with_codes(grid.quantize(value, narrow=narrow), grid, keep, value.dtype)


def _with_codes(codes: Tensor, grid: Grid, keep: Tensor | None, dtype: torch.dtype) -> codings.Coding:
    """Return the affine coding of ``codes``, whole numbers on the CPU or where the values are."""
    codes = codes.cpu()
    if dtype not in _HAVE_AFFINE or (keep is not None and _too_many_levels(grid)):
        plain = grid.dequantize(codes).to(dtype)
        return to_dense(plain) if keep is None else _sparse(keep, to_dense(plain[keep]))
    if keep is not None and grid.groups and grid.zero.is_floating_point():
        rows = grid.dequantize(codes).to(dtype).view(grid.scale.numel(), -1)
        book = shared_by_rows(rows, trained=False)
        return codings.Reshape(_shared_by_rows(book, book.centers, None, keep.view(rows.shape)), tuple(codes.shape))
    scale, zero = (
        codings.Dense(part.flatten().numpy() if grid.groups else part.numpy()) for part in (grid.scale, grid.zero)
    )
    codes = codes.to(torch.int32)

    def affine(inner: codings.Coding) -> codings.Coding:
        if grid.groups and codes.numel():
            rows = codings.Reshape(inner, (scale.array.size, codes.numel() // scale.array.size))
            levels = codings.Affine(rows, scale, zero, 0, _HAVE_AFFINE[dtype])
            return codings.Reshape(levels, tuple(codes.shape))
        return codings.Affine(inner, scale, zero, grid.axis, _HAVE_AFFINE[dtype])

    if keep is None:
        return affine(_narrow(codes))
    if grid.axis is None:
        return _sparse(keep, affine(_narrow(codes[keep])))
    if not bool(grid.zero.any()):
        return affine(_sparse(keep, _narrow(codes[keep])))
    zeros = grid.quantize(torch.zeros(codes.shape)).to(torch.int32)
    return affine(_narrow(torch.where(keep, codes, zeros)))


def _too_many_levels(grid: Grid) -> bool:
    """Return whether so many buckets, in which 0.0 is no level, are worth no table of levels each."""
    return grid.zero.is_floating_point() and grid.groups > _TABLES


def _sparse(keep: Tensor | None, values: codings.Coding) -> codings.Coding:
    return values if keep is None else codings.Sparse(codings.Dense(keep.numpy()), values)


def _narrow(codes: Tensor) -> codings.Dense:
    """Return integers in the smallest dtype that holds them."""
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    for dtype in (np.uint8, np.int8, np.uint16, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return codings.Dense(codes.numpy().astype(dtype))
    return codings.Dense(codes.numpy().astype(np.int32))
