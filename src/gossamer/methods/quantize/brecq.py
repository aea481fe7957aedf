"""BRECQ with QDrop: rounding is learned block by block, outputs weighed by the gradient of the loss.

Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang and Gu, "BRECQ: Pushing the Limit of Post-Training Quantization by Block
Reconstruction", ICLR 2021 (arXiv 2102.05426): weights of one residual block depend on one another in what they do to
the loss, and learn together, by relaxed rounding (Nagel et al. 2020, `rounding`). The error of each output counts by
the squared gradient of the loss in it, the diagonal of the Fisher information (equation 10). That gradient is nothing
where a unit is off and may come on: half of the weight is even, as the authors' own code adds one. Steps of inputs
train along, first fast and then slower.

Wei, Gong, Li, Liu and Yu, "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization",
ICLR 2022 (arXiv 2203.05740): in training, each number that enters a layer is left as it is half of the time, and what
enters a block is that of the model without rounding half of the time, so that the loss is flat in these errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from gossamer.errors import EvidenceError
from gossamer.methods.quantize.learned_rounding import LearnedRounding
from gossamer.methods.quantize.reconstruct import Settings
from gossamer.methods.quantize.units import Unit, block_units
from gossamer.methods.quantize.watch import Loss
from gossamer.model import Evidence, Subject


class Brecq(LearnedRounding, frozen=True, tag="quantize.brecq"):
    """Put weights on a grid of few bits and learn, block by block, which way each of them is rounded.

    Blocks are modules whose own forward adds up two branches or joins several, and others of their classes; a layer in
    none of them learns by itself, and what is neither linear nor a convolution is rounded to the nearest, as the plan
    says. Steps of the inputs of layers learn
    along. Takes about a quarter longer than ``quantize.adaround``.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"iterations": 5})

    drop: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="chance of a number to enter a layer unrounded while it learns")
    ] = 0.5
    weigh: Annotated[
        Literal["loss", "outputs"],
        msgspec.Meta(description="errors count by the gradient of the loss, or all alike"),
    ] = "loss"

    def units(self, subject: Subject, layers: Mapping[str, str], calls: Mapping[str, int]) -> Sequence[Unit]:
        """Return the blocks of ``subject``, and the layers that are in none of them."""
        once = {site: path for site, path in layers.items() if calls[path] == 1}
        blocks = block_units(subject, once)
        inside = {site for unit in blocks for site, _ in unit.sites}
        alone = {site: path for site, path in layers.items() if site not in inside}
        return [*blocks, *super().units(subject, alone, calls)]

    def settings(self) -> Settings:
        """Return how each part is learned."""
        plain = super().settings()
        return replace(plain, drop=self.drop, steps=True)

    def loss(self, evidence: Evidence) -> Loss | None:
        """Return the loss whose gradients weigh outputs.

        Raises:
            EvidenceError: it was not given to calibration.
        """
        if self.weigh == "outputs":
            return None
        if evidence.loss is None:
            raise EvidenceError(
                f"{self.tag} weighs errors by the loss, and calibration was given none",
                hint='pass loss=task.loss to calibrate, or set weigh to "outputs"',
            )
        return evidence.loss
