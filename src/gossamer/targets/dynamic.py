"""Recurrent layers in integers: 8-bit matrices times inputs and hidden states in 8 bits.

Where these have stored grids, the layer becomes a loop; see ``static_loop.py``. Where they have none, each product puts
its own on 8 unsigned bits between its smallest and largest value (dynamic quantization: ONNX operator
``DynamicQuantizeLinear``). An LSTM then becomes ONNX Runtime's ``DynamicQuantizeLSTM``. A GRU and a plain RNN have no
such operator and become a loop; see ``dynamic_loop.py``.

An integer operator has a fixed cost in every step, which small layers do not earn back. ``LEAST`` says from which
hidden size it was faster than the floating-point operator on ONNX Runtime 1.32 at batch 1, one thread; below, weights
are stored in 8 bits and multiplied in float.
"""

from collections.abc import Container, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from gossamer.targets.dynamic_loop import lower_dynamic_loop
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.stacked import Stacked, sources, stack
from gossamer.targets.static_loop import lower_static_loop, why_no_loop, why_no_static
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute, attributes, reads

LEAST: Mapping[str, int] = MappingProxyType({"LSTM": 64, "GRU": 320, "RNN": 256})
"""The hidden size from which integers are faster where inputs are quantized as they come, by operator."""

_FLOAT = "; stored in integers, multiplied in float"


class Recurrent:
    """What becomes of the recurrent operators of a graph.

    Args:
        wiring: the graph being written.
        weights: 8-bit levels of those weights that have them.
        inputs: levels of what these weights multiply, where that is on a grid.
        otherwise: weights that multiply what is on a grid that is not of 8 bits.
        cells: levels of cell states, by the recurrent weight beside them.

    Attributes:
        cells: those that an LSTM in integers, on grids of its inputs and states, puts cell states on.
        reasons: for weights of recurrent operators that stay in floating point, why.
        sites: all weights of recurrent operators.
    """

    def __init__(
        self,
        wiring: Wiring,
        weights: Mapping[str, Weight],
        inputs: Mapping[str, Levels] = MappingProxyType({}),
        otherwise: Container[str] = frozenset(),
        cells: Mapping[str, Levels] = MappingProxyType({}),
    ) -> None:
        self.wiring = wiring
        self.weights = weights
        self.inputs = inputs
        self.otherwise = otherwise
        self.cells: dict[str, Levels] = {}
        self.reasons: dict[str, str] = {}
        self.sites: set[str] = set()
        self._stacks: dict[str, tuple[Stacked, Stacked]] = {}
        for node in wiring.old.graph.node:
            if node.op_type in LEAST:
                self._decide(node)
            if node.op_type == "LSTM" and self.takes(node):
                beside = self._stacks[node.output[0]][1].sites
                self.cells |= {site: cells[site] for site in beside if site in cells and site in inputs}

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
        sites = (*matrices[0].sites, *matrices[1].sites)
        if sites[0] in self.inputs:
            lower_static_loop(self.wiring, node, matrices, self.inputs, self.cells)
        elif node.op_type == "LSTM":
            _lstm(self.wiring, node, matrices)
        else:
            lower_dynamic_loop(self.wiring, node, matrices)
        return sites

    def _decide(self, node: onnx.NodeProto) -> None:
        sites = [name for index in (1, 2) for name in sources(self.wiring, node.input[index], self.weights) or ()]
        self.sites.update(sites)
        if not any(site in self.weights for site in sites):
            return
        found = self._grids_beside(sites) or self._matrices(node, static=sites[0] in self.inputs)
        if isinstance(found, str):
            self.reasons |= dict.fromkeys((site for site in sites if site in self.weights), found)
        else:
            self._stacks[node.output[0]] = found

    def _grids_beside(self, sites: list[str]) -> str | None:
        """Return why neither grids nor dynamic levels serve all factors of an operator, if they do not."""
        coded = [site for site in sites if site in self.weights]
        strange = [site for site in coded if site in self.otherwise]
        if strange:
            return f"what {', '.join(strange)} multiplies is on a grid that is not of 8 bits{_FLOAT}"
        lacking = [site for site in coded if site not in self.inputs]
        if not lacking or len(lacking) == len(coded):
            return None
        return f"what {', '.join(lacking)} multiplies beside it has no grid{_FLOAT}"

    def _matrices(self, node: onnx.NodeProto, *, static: bool) -> tuple[Stacked, Stacked] | str:
        hidden = attribute(node, "hidden_size", 0)
        few = why_no_static(node.op_type, hidden) if static else _why_no_dynamic(node.op_type, hidden)
        why = few or _unusual(node) or (why_no_loop(node) if static else None)
        if why is not None:
            return f"{why}{_FLOAT}"
        inputs, recurrent = (stack(self.wiring, node.input[index], self.weights) for index in (1, 2))
        if isinstance(inputs, str) or isinstance(recurrent, str):
            lacking = inputs if isinstance(inputs, str) else recurrent
            return f"{lacking}{_FLOAT}"
        return inputs, recurrent


def _why_no_dynamic(operator: str, hidden: int) -> str | None:
    least = LEAST[operator]
    return f"{operator} units are too few: float is faster below {least}" if hidden < least else None


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
