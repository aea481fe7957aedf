"""SparseGPT: one sweep over the columns of a layer, pruning block by block and feeding the error to what follows.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023 (arXiv
2301.00774), algorithm 1. All rows share the sequence of inverses of H over the columns that are still to come: they
are the rows of the upper Cholesky factor of H⁻¹ = UᵀU. Of each block of columns the weights with the least
w² / [H⁻¹]_cc go, that is w² / U_cc²; each zeroed weight's error w / U_cc is fed forward along its row of U. For N:M the
choice is made for each group of M columns when the sweep comes to it. Blocks of 128 columns and a damping of 1 % of
the mean diagonal are the paper's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor

from gossamer.methods.prune.pattern import Few, Free, Pattern, parse
from gossamer.methods.prune.ranked import above_zero, check_pattern
from gossamer.methods.prune.ranking import keep_largest, keep_largest_rows
from gossamer.methods.prune.second_order import Damping, FewText, Part, compensated
from gossamer.model import Evidence, Method, Plan, Skip, Subject


class SparseGpt(Method, frozen=True, tag="prune.sparsegpt"):
    """Zero a share of each block of columns of each site, and let the columns to its right make up for it.

    No training is needed: a look at some hundred samples gives new values to the weights that stay. One factorization
    per site, whatever its number of outputs.

    Raises:
        SettingError: no such pattern, or it does not allow so many zeros.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_moment"})
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"sparsity": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"sparsity": 0.5})

    sparsity: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of each block's weights that goes")]
    pattern: FewText = "unstructured"
    block: Annotated[int, msgspec.Meta(ge=1, description="columns among which the weights to go are chosen")] = 128
    damping: Damping = 0.01

    def __post_init__(self) -> None:
        """Check the fields one by one, then the sparsity against the pattern."""
        super().__post_init__()
        check_pattern(type(self).__name__, self.pattern, self.sparsity)

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask and new values for every chosen site whose inputs are known.

        Raises:
            PatternError: a pattern of names matches no site.
            ModelError: a weight is not finite.
            EvidenceError: no second moments were collected.
        """
        if self.sparsity == 0.0:
            return Plan(self.tag, skipped=tuple(Skip(site.name, "sparsity is 0") for site in self.chosen(subject)))
        pattern = parse(self.pattern)
        return compensated(
            self,
            subject,
            evidence,
            lambda layers: {
                site: [sweep(part, self.sparsity, pattern, self.block) for part in parts]
                for site, parts in layers.items()
            },
            sparsity=self.sparsity,
            damping=self.damping,
            pattern=pattern,
        )


def sweep(part: Part, sparsity: float, pattern: Pattern, block: int) -> tuple[Tensor, Tensor]:
    """Return the new values of one matrix and what is kept of it."""
    U = torch.linalg.cholesky(part.inverse(), upper=True)
    W, zero = part.weight.clone(), part.weight == 0
    keep = torch.ones_like(zero)
    inputs = W.shape[1]
    together = pattern.of if isinstance(pattern, Few) else inputs
    # Groups of neighbours do not straddle blocks, and each group is chosen when the sweep comes to it.
    width = max(block // together, 1) * together if isinstance(pattern, Few) else block
    for first in range(0, inputs, width):
        last = min(first + width, inputs)
        errors = torch.empty(len(W), last - first, dtype=W.dtype)
        for i in range(first, last):
            if i == first or (i - first) % together == 0:
                chosen = slice(i, i + together if isinstance(pattern, Few) else last)
                scores = (W[:, chosen] / U.diagonal()[chosen]).square()
                keep[:, chosen] = _keep(above_zero(scores, (~zero[:, chosen]).double()), sparsity, pattern)
            errors[:, i - first] = torch.where(keep[:, i], 0, W[:, i]) / U[i, i]
            W[:, i + 1 : last] -= errors[:, i - first, None] * U[i, i + 1 : last]
        W[:, last:] -= errors @ U[first:last, last:]
    return torch.where(keep, W, 0), keep


def _keep(scores: Tensor, sparsity: float, pattern: Pattern) -> Tensor:
    """Return what stays of a block, or of one group of neighbours in every row."""
    if isinstance(pattern, Free):
        return torch.from_numpy(keep_largest([scores.flatten().numpy()], sparsity)[0]).view(scores.shape)
    return torch.from_numpy(keep_largest_rows(scores.numpy(), sparsity))
