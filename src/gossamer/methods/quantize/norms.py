"""Statistics of batch norms, measured anew once a step has trained, for the methods that train quantized layers.

Weights near the middle between two levels go on changing sides, and running averages lag behind them (Nagel,
Fournarakis, Bondarenko and Blankevoort, "Overcoming Oscillations in Quantization-Aware Training", ICML 2022, arXiv
2203.11086, section 3.1).
"""

from typing import Annotated, ClassVar

import msgspec

from gossamer.model import Method, Plan, Subject

Norms = Annotated[
    bool, msgspec.Meta(description="measure the statistics of batch norms anew once the step has trained")
]


class RemeasuresNorms(Method, frozen=True, tag="quantize.remeasures_norms"):
    """Base of the methods that act while their step trains and may then ask for batch norms measured anew."""

    in_training: ClassVar[bool] = True

    reset_norms: Norms = False

    def conclusion(self, subject: Subject) -> Plan | None:
        """Return the wish for statistics of batch norms measured anew, if that is set."""
        del subject
        return Plan(self.tag, reset_norms=True) if self.reset_norms else None
