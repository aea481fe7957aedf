"""Recurrent layers in integers whose inputs and states are on stored grids: a loop of products of codes.

The codes of the inputs are multiplied for all steps at once, those of the state step by step, by
``MatMulIntegerToFloat``.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from gossamer.targets.levels import Levels
from gossamer.targets.loop import Product, Way, lower_loop
from gossamer.targets.quantized import quantized_input, zero_of
from gossamer.targets.stacked import Stacked
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute

LEAST_STATIC: Mapping[str, int] = MappingProxyType({"LSTM": 256, "GRU": 320, "RNN": 256})
"""The hidden size from which integers on stored grids are faster than floats, by operator."""


def lower_static_loop(
    wiring: Wiring, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked], levels: Mapping[str, Levels]
) -> None:
    """Write the ``GRU``, ``LSTM`` or ``RNN`` ``node``; see `lower_loop`.

    Args:
        wiring: the graph being written.
        node: the operator.
        matrices: the input and the recurrent matrix.
        levels: of what each of their weights multiplies.
    """
    lower_loop(wiring, node, matrices, lambda way: _product_on([_unsigned(levels[way.site(half)]) for half in (0, 1)]))


def why_no_static(operator: str, hidden: int) -> str | None:
    """Return why an ``operator`` of so many ``hidden`` units is not multiplied on stored grids, or None if it is."""
    least = LEAST_STATIC[operator]
    return f"{operator} units are too few: float is faster below {least}" if hidden < least else None


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


def _unsigned(levels: Levels) -> Levels:
    """Return the same levels with unsigned codes, which the operator wants."""
    return Levels(levels.scale, levels.zero + 128, signed=False) if levels.signed else levels


def _product_on(levels: Sequence[Levels]) -> Product:
    def product(way: Way, half: int, value: str, result: str) -> list[onnx.NodeProto]:
        grid = levels[half]
        scale = way.wiring.constant(f"input:{grid.scale!r}", np.array(grid.scale, np.float32))
        zero = zero_of(way.wiring, grid)
        matrix, column, offset, *bias = way.matrix(half)
        nodes = []
        if half == 0:
            codes = quantized_input(way.wiring, value, grid, back=False)
        else:
            codes = f"{value}:codes"
            nodes.append(helper.make_node("QuantizeLinear", [value, scale, zero], [codes]))
        parts = [codes, matrix, scale, column, zero, offset, *bias]
        return [*nodes, helper.make_node("MatMulIntegerToFloat", parts, [result], domain=MICROSOFT)]

    return product
