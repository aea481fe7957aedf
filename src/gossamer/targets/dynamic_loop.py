"""GRU and RNN in integers whose inputs and states are quantized as they come: a loop of ``DynamicQuantizeMatMul``.

ONNX Runtime has no quantized operator for them. Other forms were measured on ONNX Runtime 1.32 (two layers of 650
units, 32 steps, batch 1, one thread; the float operator takes 14.8 ms): this one 2.7 ms, ``MatMulNBits`` of 8 bits
inside the loop 2.6 ms, either unrolled over the steps 2.9 to 3.0 ms. ``MatMulNBits`` computes row by row, so it falls
behind as soon as there are several sequences or steps (8.1 ms with the input product in it), and unrolling needs a
fixed number of steps. The loop itself takes 7 microseconds per step: at 128 units twice the time of the float operator.
"""

import onnx
from onnx import helper

from gossamer.targets.loop import Way, lower_loop
from gossamer.targets.stacked import Stacked
from gossamer.targets.wiring import MICROSOFT, Wiring


def lower_dynamic_loop(wiring: Wiring, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked]) -> None:
    """Write the ``GRU`` or ``RNN`` ``node``; see `lower_loop`."""
    lower_loop(wiring, node, matrices, lambda _: _product)


def _product(way: Way, half: int, value: str, result: str) -> list[onnx.NodeProto]:
    return [helper.make_node("DynamicQuantizeMatMul", [value, *way.matrix(half)], [result], domain=MICROSOFT)]
