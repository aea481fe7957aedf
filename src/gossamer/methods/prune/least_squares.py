"""Least-squares repair of the weights that read units which go.

The readers' outputs on calibration data are to stay as they are: minimise ``‖W X − W′ X′‖²`` over the reader's new
weights, X′ being the inputs that are left (He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural
Networks", ICCV 2017, arXiv 1707.06168, section 3.1; Luo, Wu and Lin, "ThiNet", ICCV 2017, arXiv 1707.06342). With
second moments H of the inputs the solution is ``W′ = W_kept + W_gone H_gone,kept (H_kept,kept + λ I)⁻¹``; where the
reader has a bias, covariances take the place of second moments and the bias takes up the change of the mean.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.model import Evidence, Layout, Reading, Subject, live_weight
from gossamer.model.resize import Index, picked, stored_tensors

DAMPING = 1e-3
"""λ as a share of the mean of the diagonal."""

NEEDS = frozenset({"second_moment", "mean"})


def repaired(subject: Subject, evidence: Evidence, index: Mapping[str, Index]) -> dict[str, Tensor]:
    """Return new values, in the shapes after the cut, of all weights that read units which go, and of their biases.

    A weight whose inputs were not seen, or whose values are shared, is left as the cut makes it.

    Args:
        subject: before the cut.
        evidence: second moments and means of inputs.
        index: positions that stay, by tensor.
    """
    found: dict[str, Tensor] = {}
    stored = stored_tensors(subject.model)
    held = subject.constraints
    for name in index:
        shared = name in held and held[name].shared
        if name not in subject.sites or name not in evidence.moments or shared:
            continue
        weight = live_weight(subject, name).double().cpu()
        bias_name = subject.sites[name].bias or ""
        bias = stored.get(bias_name)
        fixed, shift = _solved(weight, name, evidence, index[name], centred=bias is not None)
        if fixed is None:
            continue
        found[name] = picked(fixed, index[name]).to(stored[name].dtype)
        if bias is not None and shift is not None and shift.shape == bias.shape:
            new = bias.detach().double().cpu() + shift
            kept = index.get(bias_name)
            found[bias_name] = (new if kept is None else picked(new, kept)).to(bias.dtype)
    return found


def _solved(
    weight: Tensor, name: str, evidence: Evidence, kept: Index, *, centred: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the weight with the columns that stay repaired, and what its bias takes up, by output."""
    shift: Tensor | None = None
    out, changed = weight, False
    means = {one.layout: one for one in evidence.means.get(name, ())}
    for moment in evidence.second_moment(name):
        layout = moment.layout
        stays = columns_kept(layout, tuple(weight.shape), kept)
        if stays is None or stays.all() or moment.total.ndim != 2 or not moment.count:
            continue
        matrix = layout.matrix(out)
        mean = means.get(layout) if centred else None
        spread = moment.expected if mean is None else moment.about(mean)
        stay, gone = torch.from_numpy(np.flatnonzero(stays)), torch.from_numpy(np.flatnonzero(~stays))
        inner = spread[stay][:, stay]
        inner.diagonal().add_(DAMPING * inner.diagonal().mean().clamp_min(1e-12))
        lost = matrix[:, gone]
        added = torch.linalg.solve(inner, spread[stay][:, gone] @ lost.T).T
        fresh = matrix.clone()
        fresh[:, stay] += added
        out, changed = layout.put(out, fresh), True
        if mean is not None and layout.reading in {Reading.ROWS, Reading.KERNEL}:
            shift = weight.new_zeros(weight.shape[0]) if shift is None else shift
            vector = mean.vector.double()
            shift[layout.start : layout.stop] += lost @ vector[gone] - added @ vector[stay]
    return (out if changed else None), shift


def columns_kept(layout: Layout, shape: tuple[int, ...], kept: Index) -> NDArray[np.bool_] | None:
    """Return which columns of the part ``layout`` of a weight stay, or None if all do.

    Args:
        layout: a part of the weight as a matrix (outputs, inputs).
        shape: of the weight before the cut.
        kept: positions that stay along each dimension.
    """
    dim = 1 if layout.reading in {Reading.ROWS, Reading.KERNEL} else 0
    positions = kept[dim] if dim < len(kept) else None
    if positions is None or layout.reading is Reading.TABLE:
        return None
    kernel = int(np.prod(shape[2:], dtype=np.int64))
    if positions.ndim == 2:
        positions = positions[layout.start // (shape[0] // len(positions))]
    flags = np.zeros(shape[dim], bool)
    flags[positions] = True
    if layout.reading is Reading.TRANSPOSED_KERNEL:
        flags = flags[layout.start : layout.stop]
    return np.repeat(flags, kernel)
