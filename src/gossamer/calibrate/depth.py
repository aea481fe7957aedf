"""Evidence of blocks: by how much the loss rises when one of them is passed by.

Removing single blocks of a trained network and looking at its error is the lesion study of Veit, Wilber and Belongie,
"Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NIPS 2016 (arXiv 1605.06431), section 4.1.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import EvidenceError
from gossamer.model.blocks import find_blocks
from gossamer.model.stand_in import stand_in
from gossamer.model.subject import Subject
from gossamer.task import Batch


def block_patterns(needs: Iterable[str]) -> frozenset[str]:
    """Return the glob patterns of modules that ``needs`` asks the depth of; an empty one stands for residual blocks."""
    kinds = (need.partition(":") for need in needs)
    return frozenset(pattern for kind, _, pattern in kinds if kind == "depth")


@dataclass
class BlockDepth:
    """Running sums of what the loss is without each block, less what it is with all.

    Attributes:
        model: runs, and is as before after every batch.
        blocks: modules of ``model`` by their paths.
    """

    model: nn.Module
    blocks: dict[str, nn.Module]
    totals: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Subject, model: nn.Module, patterns: frozenset[str]) -> "BlockDepth":
        """Return the sums, none yet, of the blocks that ``patterns`` names, see :func:`block_patterns`.

        Raises:
            PatternError: a pattern names nothing that can be dropped.
        """
        found = [block for one in sorted(patterns) for block in find_blocks(subject, (one,) if one else ())]
        return cls(model, {block.path: model.get_submodule(block.path) for block in found})

    def add(self, batch: Batch, loss: Callable[[Any, Any], Tensor], number: int) -> None:
        """Add one batch: a run of the model as it is, and one without each block.

        Raises:
            EvidenceError: the loss with all blocks is not one finite number.
        """
        whole = self._loss(batch, loss, number)
        if not math.isfinite(whole):
            raise EvidenceError(f"calibration batch {number}: wanted the loss to be one finite number, got {whole}")
        for path, module in self.blocks.items():
            with _passed_by(module):
                without = self._loss(batch, loss, number)
            rise = without - whole if math.isfinite(without) else math.inf
            self.totals[path] = self.totals.get(path, 0.0) + rise

    @torch.no_grad()
    def _loss(self, batch: Batch, loss: Callable[[Any, Any], Tensor], number: int) -> float:
        found = loss(self.model(*batch.args, **batch.kwargs), batch.targets)
        if found.numel() != 1:
            raise EvidenceError(
                f"calibration batch {number}: wanted the loss to be one finite number, got shape {tuple(found.shape)}"
            )
        return float(found)


@contextmanager
def _passed_by(module: nn.Module) -> Iterator[None]:
    """Let ``module`` pass its first input through."""
    own = vars(module).get("forward")
    module.forward = stand_in(module).forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
