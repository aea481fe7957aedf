"""Recurrent layers in integers: 8-bit matrices times inputs that are quantized as they come.

Inputs and hidden states have no stored grid; each product puts its own on 8 unsigned bits between its smallest and
largest value (dynamic quantization: ONNX operator ``DynamicQuantizeLinear``). An LSTM becomes ONNX Runtime's
``DynamicQuantizeLSTM``. A GRU and a plain RNN have no such operator and become a loop; see ``dynamic_loop.py``.

An integer operator has a fixed cost in every step, which small layers do not earn back. ``LEAST`` says from which
hidden size it was faster than the floating-point operator on ONNX Runtime 1.32 at batch 1, one thread; below, weights
are stored in 8 bits and multiplied in float.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from gossamer.targets.dynamic_loop import lower_loop
from gossamer.targets.levels import Weight
from gossamer.targets.stacked import Stacked, sources, stack
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute, attributes, reads

LEAST: Mapping[str, int] = MappingProxyType({"LSTM": 64, "GRU": 320, "RNN": 256})
"""The hidden size from which integers are faster, by operator."""


class Recurrent:
    """What becomes of the recurrent operators of a graph.

    Args:
        wiring: the graph being written.
        weights: 8-bit levels of those weights that have them.

    Attributes:
        reasons: for weights of recurrent operators that stay in floating point, why.
    """

    def __init__(self, wiring: Wiring, weights: Mapping[str, Weight]) -> None:
        self.wiring = wiring
        self.weights = weights
        self.reasons: dict[str, str] = {}
        self._stacks: dict[str, tuple[Stacked, Stacked]] = {}
        for node in wiring.old.graph.node:
            if node.op_type in LEAST:
                self._decide(node)

    def takes(self, node: onnx.NodeProto) -> bool:
        """Return whether ``node`` is a recurrent operator that runs in integers."""
        return node.op_type in LEAST and node.output[0] in self._stacks

    def unread(self) -> set[str]:
        """Return first outputs of the nodes that only led to matrices that are now stored as the operators want."""
        needed = {value.name for value in self.wiring.old.graph.output}
        gone = set()
        for node in reversed(self.wiring.old.graph.node):
            if not needed.intersection(node.output):
                gone.add(node.output[0])
            elif self.takes(node):
                needed.update(name for index, name in enumerate(node.input) if index not in (1, 2))
            else:
                needed.update(reads(node))
        return gone

    def write(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Write ``node`` in integers and return the weights that it multiplies."""
        matrices = self._stacks[node.output[0]]
        if node.op_type == "LSTM":
            _lstm(self.wiring, node, matrices)
        else:
            lower_loop(self.wiring, node, matrices)
        return (*matrices[0].sites, *matrices[1].sites)

    def _decide(self, node: onnx.NodeProto) -> None:
        sites = [name for index in (1, 2) for name in sources(self.wiring, node.input[index], self.weights) or ()]
        if not any(site in self.weights for site in sites):
            return
        found = self._matrices(node)
        if isinstance(found, str):
            self.reasons |= dict.fromkeys((site for site in sites if site in self.weights), found)
        else:
            self._stacks[node.output[0]] = found

    def _matrices(self, node: onnx.NodeProto) -> tuple[Stacked, Stacked] | str:
        kind, least = node.op_type, LEAST[node.op_type]
        if attribute(node, "hidden_size", 0) < least:
            return f"{kind} units are too few: float is faster below {least}; stored in integers, multiplied in float"
        why = _unusual(node)
        if why is not None:
            return f"{why}; stored in integers, multiplied in float"
        inputs, recurrent = (stack(self.wiring, node.input[index], self.weights) for index in (1, 2))
        if isinstance(inputs, str) or isinstance(recurrent, str):
            lacking = inputs if isinstance(inputs, str) else recurrent
            return f"{lacking}; stored in integers, multiplied in float"
        return inputs, recurrent


def _unusual(node: onnx.NodeProto) -> str | None:
    """Return what ``node`` does that its integer form does not."""
    if attribute(node, "layout", 0):
        return f"the {node.op_type} has the batch first"
    if node.op_type == "LSTM":
        return None
    ways = 2 if attribute(node, "direction", b"forward") == b"bidirectional" else 1
    usual = [b"Sigmoid", b"Tanh"] if node.op_type == "GRU" else [b"Tanh"]
    given = [name.capitalize() for name in attribute(node, "activations", usual * ways)]
    relu = node.op_type == "RNN" and given == [b"Relu"] * ways
    if attribute(node, "clip", 0.0) or (given != usual * ways and not relu):
        return f"the {node.op_type} has a clip or other activations"
    if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
        return "the GRU resets before its matrix"
    return None


def _lstm(wiring: Wiring, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked]) -> None:
    """Write ``DynamicQuantizeLSTM``; matrices are stored turned: (directions, columns, rows)."""
    codes, scales = [], []
    for matrix in matrices:
        stem = "+".join(matrix.sites)
        turned = np.ascontiguousarray(matrix.codes.transpose(0, 2, 1))
        codes.append(wiring.constant(f"{stem}:codes", turned))
        zero = np.full(matrix.scale.shape, matrix.zero, matrix.codes.dtype)
        scales += [wiring.constant(f"{stem}:scale", matrix.scale), wiring.constant(f"{stem}:zero", zero)]
    rest = [*node.input[3:], *[""] * (8 - len(node.input))]
    parts = [node.input[0], *codes, *rest, *scales]
    wiring.append(helper.make_node("DynamicQuantizeLSTM", parts, node.output, domain=MICROSOFT, **attributes(node)))
