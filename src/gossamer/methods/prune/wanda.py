"""Wanda: a weight matters by its magnitude times the size of what it multiplies.

Sun, Liu, Bair and Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024 (arXiv
2306.11695), equation 1: S_ij = |W_ij| · ‖X_j‖₂, compared within each output. The norm is the root of the diagonal of
the inputs' second moment. Where one weight multiplies several inputs (ties), the squared norms add up: S² is what the
removal of the weight alone adds to the squared error of all outputs.
"""

from typing import ClassVar

import torch
from torch import Tensor

from gossamer.methods.prune.ranked import AnyScope, Ranked, Scores, weight_of
from gossamer.model import Evidence, Moment, Site, Subject


class Wanda(Ranked, frozen=True, tag="prune.wanda"):
    """Zero a share of the weights of each output, those with the smallest magnitude times input norm.

    No weight is changed otherwise. For images the paper finds ranking by layer slightly better than by output.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_moment"})

    scope: AnyScope = "row"

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return |w| times the norm of its input, or why the inputs are not known."""
        if evidence is None:
            return {}
        found: dict[str, Tensor | str] = {}
        for site in sites:
            if site.name in evidence.unread:
                found[site.name] = f"its inputs are not known: {evidence.unread[site.name]}"
            else:
                found[site.name] = wanda_scores(weight_of(subject, site.name), evidence.second_moment(site.name))
        return found


def wanda_scores(weight: Tensor, moments: tuple[Moment, ...]) -> Tensor:
    """Return |w| times the root of the summed squares of what it multiplies, in the weight's shape."""
    squares = torch.zeros_like(weight)
    for moment in moments:
        matrix = moment.layout.matrix(squares)
        squares = moment.layout.put(squares, matrix + moment.diagonal.to(matrix.dtype))
    return weight.abs() * squares.sqrt()
