"""Dynamic network surgery: weights are pruned while the network trains, and come back if they turn out to matter.

Guo, Yao and Chen, "Dynamic Network Surgery for Efficient DNNs", NIPS 2016 (arXiv 1608.04493). The loss is that of the
masked weights, and its gradient trains all of them. From time to time the mask follows: off
where |w| < a, on where |w| > b, as before in between. The choices that the paper leaves open are those of the authors'
code (github.com/yiwenguo/Dynamic-Network-Surgery, compress_conv_layer.cpp): a and b are 0.9 and 1.1 times
max(μ + c·σ, 0), with μ and σ the mean and deviation of |w| over the weights that are there when surgery begins; at
iteration i each layer is operated on with probability (1 + γ·i)^-p, γ = 0.0001 and p = 1 in its example; and after a
last iteration never. It prunes biases too; they are left alone here.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from gossamer.methods.prune.ranked import weight_of
from gossamer.model import Evidence, Method, Plan, Revise, Skip, Splice, Subject, choose, live_weight, trainable

BELOW, ABOVE = 0.9, 1.1


class Surgery(Method, frozen=True, tag="prune.surgery"):
    """Zero weights below a threshold while training, and bring back those that grow above it.

    Needs a training in the same step. How many weights go depends on ``c_rate`` and on the training; what is zero when
    the training ends stays zero. Without a training the first operation is all there is.
    """

    c_rate: Annotated[float, msgspec.Meta(description="threshold above the mean of |w|, in standard deviations")] = 1.0
    c_rate_of: Annotated[
        dict[str, float],
        msgspec.Meta(description="c_rate of the sites that a glob pattern names; of several that fit, the last holds"),
    ] = {}  # noqa: RUF012  msgspec gives each struct its own
    gamma: Annotated[float, msgspec.Meta(ge=0.0, description="how fast operations get rare, per optimizer step")] = 1e-4
    power: Annotated[float, msgspec.Meta(ge=0.0, description="exponent with which operations get rare")] = 1.0
    stop: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of training after which masks stay")] = 0.5
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**31, description="seed of when operations happen")] = 0

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the first operation: a mask that can be taken back for every chosen site.

        Raises:
            PatternError: a pattern of names, of ``c_rate_of`` too, matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        thresholds = self._thresholds(subject)
        splices = {
            name: Splice(weight_of(subject, name).abs() > BELOW * threshold) for name, threshold in thresholds.items()
        }
        left = [site for site in self.chosen(subject) if site.name not in thresholds]
        skipped = [
            Skip(
                site.name,
                "its values are shared, so they do not grow one by one" if site.numel else "it has no weights",
            )
            for site in left
        ]
        return Plan(self.tag, splices, skipped=tuple(skipped))

    def revision(self, subject: Subject) -> Revise:
        """Return the operations that follow; each is a function of the seed and the step."""
        thresholds = self._thresholds(subject)

        def revise(live: Subject, step: int, total: int) -> Plan | None:
            if not 0 < step < self.stop * total:
                return None
            draws = torch.rand(len(thresholds), generator=_generator(self.seed, step)).tolist()
            chance = (1 + self.gamma * step) ** -self.power
            drawn = [name for name, draw in zip(thresholds, draws, strict=True) if draw < chance]
            held = live.constraints if drawn else {}
            masks = {}
            for name in drawn:
                splice = held[name].splice
                if splice is not None:
                    hidden = trainable(live, name).detach().to("cpu", torch.float32)
                    masks[name] = Splice(operate(splice.keep, hidden, thresholds[name]))
            return Plan(self.tag, masks) if masks else None

        return revise

    def _thresholds(self, subject: Subject) -> Mapping[str, float]:
        own = {site.name: rate for pattern, rate in self.c_rate_of.items() for site in choose(subject, (pattern,), ())}
        held = subject.constraints
        return {
            site.name: threshold(live_weight(subject, site.name), own.get(site.name, self.c_rate))
            for site in self.chosen(subject)
            if site.numel and (site.name not in held or not held[site.name].shared)
        }


def threshold(weight: Tensor, c_rate: float) -> float:
    """Return max(μ + c·σ, 0) of the magnitudes that are not zero."""
    there = weight[weight != 0].double().abs()
    return max(float(there.mean() + c_rate * there.std(correction=0)), 0.0) if there.numel() else 0.0


def operate(keep: Tensor, hidden: Tensor, threshold: float) -> Tensor:
    """Return the mask after one operation: off up to 0.9 of the threshold, on above 1.1 of it, else as it was."""
    return torch.where(keep, hidden.abs() > BELOW * threshold, hidden.abs() > ABOVE * threshold)


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step + 1) % 2**63)
