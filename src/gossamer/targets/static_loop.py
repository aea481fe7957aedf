"""Recurrent layers in integers whose inputs and states are on stored grids: a loop of products of codes.

The codes of the inputs are multiplied for all steps at once by ``MatMulIntegerToFloat``, those of the state step by
step by ``MatMulInteger``, whose sums are then scaled and shifted. Other forms inside the loop were measured on ONNX
Runtime 1.32 (one layer with as many inputs as units, 32 steps, batch 1, one thread, alternating, the thread's own time,
medians of 80): for a GRU and an LSTM of 256 to 650 units ``MatMulIntegerToFloat`` takes 1.10 to 1.16 times as long,
``QGemm`` and ``QLinearMatMul`` with a grid for the sums 1.04 to 1.12. Before the loop the form makes no difference.

Times of the float operator, and of what needs no grids (`dynamic`), in times of this loop, measured in that way:

    units                    64      128      192      256      320      650
    GRU   float            0.18     0.43     0.71     1.05     1.47     2.46
          dynamic          0.91     1.00     1.03     1.09     1.15     1.12
    LSTM  float            0.18     0.45     0.78     1.21     1.58     2.61
          dynamic          0.14     0.25     0.36     0.47     0.54     0.77
    RNN   float            0.28     0.53     0.80     1.10     1.48     3.14
          dynamic          0.72     0.79     0.85     0.90     0.98     1.13

So an LSTM is faster without grids, as one operator for all steps: grids serve where the target must compute what was
simulated, or trained on. In wall time of a whole network a GRU of 256 units gained nothing, so the loop starts above.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from gossamer.targets.levels import Levels
from gossamer.targets.loop import Product, Way, lower_loop
from gossamer.targets.quantized import quantized_input, zero_of
from gossamer.targets.stacked import Stacked
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute

LEAST_STATIC: Mapping[str, int] = MappingProxyType({"LSTM": 256, "GRU": 320, "RNN": 320})
"""The hidden size from which integers on stored grids are faster than floats, by operator."""


def lower_static_loop(
    wiring: Wiring,
    node: onnx.NodeProto,
    matrices: tuple[Stacked, Stacked],
    levels: Mapping[str, Levels],
    cells: Mapping[str, Levels],
) -> None:
    """Write the ``GRU``, ``LSTM`` or ``RNN`` ``node``; see `lower_loop`.

    Args:
        wiring: the graph being written.
        node: the operator.
        matrices: the input and the recurrent matrix.
        levels: of what each of their weights multiplies.
        cells: of cell states, by the recurrent weight beside them.
    """
    lower_loop(wiring, node, matrices, lambda way: _product_on([levels[way.site(half)] for half in (0, 1)]), cells)


def why_no_static(operator: str, hidden: int) -> str | None:
    """Return why an ``operator`` of so many ``hidden`` units is not multiplied on stored grids, or None if it is."""
    least = LEAST_STATIC[operator]
    return f"{operator} units are too few: with grids float is faster below {least}" if hidden < least else None


def why_no_loop(node: onnx.NodeProto) -> str | None:
    """Return what an ``LSTM`` does that a loop does not, or None."""
    if node.op_type != "LSTM":
        return None
    usual = [b"Sigmoid", b"Tanh", b"Tanh"]
    ways = 2 if attribute(node, "direction", b"forward") == b"bidirectional" else 1
    given = [name.capitalize() for name in attribute(node, "activations", usual * ways)]
    if attribute(node, "clip", 0.0) or given != usual * ways:
        return "the LSTM has a clip or other activations"
    if len(node.input) > 7 and node.input[7]:
        return "the LSTM has peepholes"
    return "the LSTM couples its gates" if attribute(node, "input_forget", 0) else None


def _product_on(levels: Sequence[Levels]) -> Product:
    def product(way: Way, half: int, value: str, result: str) -> list[onnx.NodeProto]:
        return (_recurrent if half else _entering)(way, levels[half], value, result)

    return product


def _entering(way: Way, levels: Levels, value: str, result: str) -> list[onnx.NodeProto]:
    wiring = way.wiring
    codes = quantized_input(wiring, value, levels, back=False)
    matrix, column, _, *bias = way.matrix(0)
    parts = [codes, matrix, _scale(wiring, levels), column, zero_of(wiring, levels), _zero(way, 0), *bias]
    return [helper.make_node("MatMulIntegerToFloat", parts, [result], domain=MICROSOFT)]


def _recurrent(way: Way, levels: Levels, value: str, result: str) -> list[onnx.NodeProto]:
    wiring, zero = way.wiring, zero_of(way.wiring, levels)
    matrix, _, _, *bias = way.matrix(1)
    scales = way.matrices[1].scale[way.number] * np.float32(levels.scale)
    scale = wiring.constant(f"{way.site(1)}:product:scale", scales)
    scaled = f"{result}:scaled" if bias else result
    nodes = [
        helper.make_node("QuantizeLinear", [value, _scale(wiring, levels), zero], [f"{value}:codes"]),
        helper.make_node("MatMulInteger", [f"{value}:codes", matrix, zero, _zero(way, 1)], [f"{result}:codes"]),
        helper.make_node("Cast", [f"{result}:codes"], [f"{result}:cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{result}:cast", scale], [scaled]),
    ]
    return [*nodes, helper.make_node("Add", [scaled, *bias], [result])] if bias else nodes


def _scale(wiring: Wiring, levels: Levels) -> str:
    return wiring.constant(f"input:{levels.scale!r}", np.array(levels.scale, np.float32))


def _zero(way: Way, half: int) -> str:
    """Add the one zero of a matrix, which is read faster than one for each column."""
    matrix = way.matrices[half]
    return way.wiring.constant(f"{way.site(half)}:one:zero", np.array(matrix.zero, matrix.codes.dtype))
