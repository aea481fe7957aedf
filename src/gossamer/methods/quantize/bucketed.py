"""Quantized distillation: gradients are taken where weights are on few levels in buckets, and move the real ones.

Polino, Pascanu and Alistarh, "Model compression via distillation and quantization", ICLR 2018 (arXiv 1802.05668),
section 3 and algorithm 1: each 256 consecutive weights are scaled between their smallest and their largest (section
2.1), rounded to 2^bits even levels, the nearest or one drawn by how near it is, and scaled back; the gradient of the
loss at these weights moves the real ones, which are rounded once more in the end. Their loss is that of a teacher,
0.7 T² KL + 0.3 of the task's with T = 2, which `distill.logits` gives in a step before this one.

What differs: they quantize biases and batch norms as well, which stay real here; the code of the paper averages KL over
classes too, not over samples alone. `model.buckets` says how buckets are cut.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from torch import Tensor

from gossamer.methods.quantize.few import Few, FewLevels
from gossamer.model import Bucketed as Rule
from gossamer.model import Evidence, Site, Skip, Subject, bucket_count

BucketSize = Annotated[
    Annotated[int, msgspec.Meta(ge=2)] | Literal["all"],
    msgspec.Meta(
        description="consecutive weights that have a smallest and a largest of their own, the largest divisor of the "
        "number of weights up to this; all: those of a site together"
    ),
]


class InBuckets(FewLevels, frozen=True, tag="quantize.in_buckets"):
    """Base of the two methods: where no size near the one asked for divides a site, they say which one it has."""

    bucket_size: BucketSize = 256

    @property
    def size(self) -> int | None:
        """Values of a bucket that are asked for; None for all."""
        return None if self.bucket_size == "all" else self.bucket_size

    def decided(self, subject: Subject, evidence: Evidence | None) -> Few:
        """Return the rules, with a note on each site whose buckets are of quite another size."""
        found = super().decided(subject, evidence)
        size = self.size
        for name in found.latents:
            values = subject.sites[name].numel
            each = values // bucket_count(values, size)
            if size is not None and size < values and not size <= 2 * each <= 2 * size:
                found.skipped.append(Skip(name, f"buckets of {each}, for no size near {size} divides {values} weights"))
        return found


class Bucketed(InBuckets, frozen=True, tag="quantize.bucketed"):
    """Train with weights on even levels between the smallest and the largest of their bucket.

    Acts while its step trains; then the levels of each bucket are a grid with a scale and a zero of its own, and stay.
    What is shared, on a grid or does not train is left alone.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"bits": 4})

    bits: Annotated[int, msgspec.Meta(ge=1, le=8, description="bits of a weight")] = 4
    drawn: Annotated[
        bool,
        msgspec.Meta(description="while training, draw one of the two levels beside a weight, not the nearer one"),
    ] = False

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Rule:
        """Return the rule of even levels."""
        del subject, site, weight
        return Rule(self.bits, self.size, self.drawn)
