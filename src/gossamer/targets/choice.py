"""Whether integers pay on this machine: a graph in integers and the same in floats take turns."""

from dataclasses import dataclass

import onnx

from gossamer.figure import Figure
from gossamer.targets.processes import Timing, measure
from gossamer.targets.session import Inputs

MARGIN = 1.05
"""How many times longer than floats integers must take for floats to be chosen."""


@dataclass(frozen=True)
class Choice:
    """The median time of one run, in seconds, of both graphs.

    Attributes:
        integers: of the one in integers.
        floats: of the other.
    """

    integers: Figure
    floats: Figure

    @property
    def for_floats(self) -> bool:
        """Whether integers are slower by more than what turns differ by."""
        return float(self.integers.value) > MARGIN * float(self.floats.value)


def choose(integers: onnx.ModelProto, floats: onnx.ModelProto, inputs: Inputs, timing: Timing | None = None) -> Choice:
    """Measure two graphs of one model against each other.

    Args:
        integers: the graph that multiplies in integers.
        floats: the same in floats.
        inputs: arrays by name, or in order.
        timing: how often, and on how many threads.

    Raises:
        TargetError: a graph or the inputs do not fit, or a process fails.
    """
    runs = measure({"integers": integers, "floats": floats}, inputs, timing)
    return Choice(runs["integers"].latency.median, runs["floats"].latency.median)
