"""What the error of a subvector does to the outputs of its layer: a quadratic form, from the second moments of inputs.

Stock, Joulin, Gribonval, Graham and Jégou, "And the Bit Goes Down", ICLR 2020 (arXiv 1907.05686): putting codeword c
for the subvector v changes outputs by x̃ (v - c), so the squared error is (v - c) G (v - c)ᵀ with G the second moment
of the inputs x̃ that it multiplies. The paper pools these over all subvectors of a layer; errors of one output that
come from several of its subvectors are taken to be independent.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.share.importance import LEAST
from gossamer.model import Evidence, Site
from gossamer.model.evidence import Moment

Measure = Literal["none", "pooled", "own"]


@dataclass(frozen=True, eq=False)
class Errors:
    """The quadratic form of each subvector.

    Attributes:
        forms: the different ones, symmetric and positive, float64 (forms, width, width).
        of: which of them each subvector has, int64 (n,).
    """

    forms: Tensor
    of: Tensor

    @classmethod
    def plain(cls, count: int, width: int) -> "Errors":
        """Return squared distances for ``count`` subvectors."""
        return cls(torch.eye(width, dtype=torch.float64).unsqueeze(0), torch.zeros(count, dtype=torch.int64))

    def pooled(self) -> "Errors":
        """Return the mean form for all subvectors."""
        counts = self.of.bincount(minlength=len(self.forms)).double()
        mean = (counts @ self.forms.flatten(1) / counts.sum()).view(1, *self.forms.shape[1:])
        return Errors(mean, torch.zeros_like(self.of))

    def firm(self) -> "Errors":
        """Return the forms, their diagonals raised a little: what no input reaches goes to the nearest codeword."""
        counts = self.of.bincount(minlength=len(self.forms)).double()
        level = float(counts @ self.forms.diagonal(dim1=1, dim2=2).mean(1) / counts.sum())
        width = self.forms.shape[-1]
        if level <= 0:
            return Errors.plain(len(self.of), width)
        return Errors(self.forms / level + LEAST * torch.eye(width, dtype=torch.float64), self.of)


def measured(
    measure: Measure, evidence: Evidence | None, site: Site, width: int, source: Tensor | None = None
) -> Errors | str:
    """Return how the errors of the subvectors of ``site`` are measured, or why that is not known.

    Args:
        measure: "none" for squared distances, "pooled" as in the paper, "own" for the inputs of each subvector.
        evidence: with second moments unless ``measure`` is "none".
        site: its values in C order are subvectors of ``width``.
        width: values of a subvector.
        source: where other values stand than those that evidence was collected for, the old flat position of each.

    Raises:
        EvidenceError: second moments were not collected.
        ModelError: one is not finite.
    """
    if measure == "none":
        return Errors.plain(site.numel // width, width)
    if evidence is None:
        raise EvidenceError(
            "share.product was given no evidence to measure errors by", hint="calibrate with needs={'second_moment'}"
        )
    if site.name in evidence.unread:
        return f"its inputs are not known: {evidence.unread[site.name]}"
    found = Errors(torch.zeros(1, width, width, dtype=torch.float64), torch.zeros(site.numel // width).long())
    for moment in evidence.second_moment(site.name):
        found = _added(found, moment, site, source)
    if not bool(torch.isfinite(found.forms).all()):
        raise ModelError(f"{site.name}: its second moment is not finite, so errors cannot be measured by it")
    return (found.pooled() if measure == "pooled" else found).firm()


def _added(errors: Errors, moment: Moment, site: Site, source: Tensor | None) -> Errors:
    """Return ``errors`` with what a second moment adds to the forms of the subvectors that it has a part in."""
    width = errors.forms.shape[-1]
    known = _places(moment, site)
    outputs, inputs = ((place if source is None else place[source.flatten()]).view(-1, width) for place in known)
    there = (inputs >= 0).any(1).nonzero().flatten()
    relative = outputs[there] - outputs[there, :1]
    places, of = torch.unique(torch.cat([inputs[there], relative], 1), dim=0, return_inverse=True)
    added = _forms(moment, places[:, :width], places[:, width:])
    pairs, new = torch.unique(errors.of[there] * len(added) + of, return_inverse=True)
    sums = errors.forms[pairs // len(added)] + added[pairs % len(added)]
    used, every = torch.unique(errors.of.index_copy(0, there, new + len(errors.forms)), return_inverse=True)
    return Errors(torch.cat([errors.forms, sums])[used], every)


def _places(moment: Moment, site: Site) -> tuple[Tensor, Tensor]:
    """Return row and column of each value in the matrix that a second moment belongs to; -1 outside of it."""
    matrix = moment.layout.matrix(torch.arange(site.numel).view(site.shape))
    rows, columns = (torch.full((site.numel,), -1) for _ in range(2))
    rows[matrix] = torch.arange(matrix.shape[0]).unsqueeze(1).expand_as(matrix)
    columns[matrix] = torch.arange(matrix.shape[1]).expand_as(matrix)
    return rows, columns


def _forms(moment: Moment, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the form of subvectors whose values multiply ``inputs`` for ``outputs``, both (n, width)."""
    one, other = inputs.unsqueeze(2), inputs.unsqueeze(1)
    together = (one >= 0) & (other >= 0) & (outputs.unsqueeze(2) == outputs.unsqueeze(1))
    total = moment.total.double().cpu()
    if total.ndim == 1:
        return torch.where(together & (one == other), total[one.clamp_min(0)], 0)
    return torch.where(together, total[one.clamp_min(0), other.clamp_min(0)], 0)
