"""Magnitude pruning: the weights that are smallest in absolute value become zero.

Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015 (arXiv
1506.02626), with the share of zeros given instead of a threshold; ramped up while training it is the gradual pruning of
Zhu and Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.model import Evidence, Mask, Method, Plan, Skip, Subject, live_weight


class Magnitude(Method, frozen=True, tag="prune.magnitude"):
    """Zero a share of the weights, those smallest in absolute value.

    Weights that are zero already count towards the share and stay zero, so masks of growing sparsity are nested.
    Biases and norms are never pruned.
    """

    strength: ClassVar[str | None] = "sparsity"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"sparsity": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"sparsity": 0.5})

    sparsity: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of the weights that become zero")]
    scope: Annotated[
        Literal["global", "layer"],
        msgspec.Meta(description="rank the weights of all sites together, or of each site alone"),
    ] = "global"

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask for every chosen site.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        sites = self.chosen(subject)
        skipped = tuple(Skip(site.name, "it has no weights") for site in sites if not site.numel)
        names = [site.name for site in sites if site.numel]
        if self.sparsity == 0.0 or not names:
            return Plan(self.tag, skipped=skipped)
        magnitudes = [_magnitudes(subject, name) for name in names]
        match self.scope:
            case "global":
                keeps = keep_largest(magnitudes, self.sparsity)
            case "layer":
                keeps = [keep_largest([one], self.sparsity)[0] for one in magnitudes]
        masks = {
            name: Mask(torch.from_numpy(keep).reshape(subject.sites[name].shape))
            for name, keep in zip(names, keeps, strict=True)
        }
        return Plan(self.tag, constraints=masks, skipped=skipped)


def _magnitudes(subject: Subject, site: str) -> NDArray[np.float32]:
    weight: Tensor = live_weight(subject, site)
    magnitudes = weight.detach().abs().flatten().to("cpu", torch.float32).numpy()
    if not np.isfinite(magnitudes).all():
        raise ModelError(f"{site}: a weight is not finite, so weights cannot be ranked")
    return magnitudes


def keep_largest(magnitudes: Sequence[NDArray[np.float32]], sparsity: float) -> list[NDArray[np.bool_]]:
    """Return for each flat array which of its numbers stay when the smallest share of all becomes zero.

    Exactly ``sparsity`` times the number of weights (rounded, halves up) go, or all zeros if these are more. Among
    equal magnitudes the earlier ones go first, so the outcome is the same everywhere and masks are nested.

    Args:
        magnitudes: absolute values, at least one array.
        sparsity: share that goes, from 0 to 1.
    """
    together = np.concatenate(magnitudes)
    gone = int(sparsity * together.size + 0.5)
    keep = together > 0
    if gone:
        threshold = np.partition(together, gone - 1)[gone - 1]
        keep &= together >= threshold
        equal = np.flatnonzero(together == threshold)
        keep[equal[: gone - int(np.count_nonzero(together < threshold))]] = False
    ends = np.cumsum([one.size for one in magnitudes])[:-1]
    return list(np.split(keep, ends))
