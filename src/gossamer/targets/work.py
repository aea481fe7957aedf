"""Work of one run of an ONNX graph: multiply-accumulates and bytes, node by node, from the shapes of a real run.

Every value is made an output and the graph is run once without optimisation, so the shapes are exact. A node that
multiplies without a rule here is listed, not guessed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from gossamer.codings.nodes import Array
from gossamer.targets.session import Inputs, feed
from gossamer.targets.wiring import all_nodes, attribute, reads

_MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Constant", "Shape"})
_GATES = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_OWN_BYTES = frozenset({"DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulNBits"})
_LOOPED = frozenset({"DynamicQuantizeMatMul", "MatMulInteger"})
_UNRULED = frozenset({"Einsum", "Attention", "DeformConv", "QLinearConv", "QLinearMatMul"})


@dataclass(frozen=True)
class Work:
    """What one node does in one run.

    Attributes:
        node: name of its first output.
        op: its operator.
        macs: multiply-accumulates; None where there is no rule.
        bits: width of what it multiplies: 8, 16, 32 or 64.
        weight_bytes: bytes of the constants it reads, as they lie in the graph.
        activation_bytes: bytes of the values it reads and writes; none for operators that move nothing.
    """

    node: str
    op: str
    macs: int | None
    bits: int
    weight_bytes: int
    activation_bytes: int


def count_work(proto: onnx.ModelProto, inputs: Inputs) -> tuple[Work, ...]:
    """Return the work of every node of ``proto`` for ``inputs``; what is done to constants is done once, and left out.

    Raises:
        TargetError: the inputs do not fit the graph.
    """
    arrays = _values(proto, inputs)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    origin: dict[str, str] = {}
    works = []
    for node in proto.graph.node:
        sources = [origin.get(name, name) for name in node.input if name]
        if sources and all(name in constants for name in sources):
            origin[node.output[0]] = max(sources, key=lambda name: constants[name].size)
        elif node.op_type == "DequantizeLinear":
            origin[node.output[0]] = node.input[0]
        else:
            works.append(_work(node, arrays, constants, origin))
    return tuple(works)


def total_macs(works: tuple[Work, ...]) -> int:
    """Return the sum of multiply-accumulates that are known."""
    return sum(work.macs or 0 for work in works)


def _work(
    node: onnx.NodeProto,
    arrays: dict[str, tuple[tuple[int, ...], Any]],
    constants: dict[str, Array],
    origin: dict[str, str],
) -> Work:
    read = [origin.get(name, name) for name in reads(node) if name]
    weights = sum(constants[name].nbytes for name in read if name in constants)
    moved = 0
    if node.op_type not in _MOVES:
        moved = sum(_bytes(arrays[name]) for name in (*read, *node.output) if name in arrays and name not in constants)
    widths = [arrays[name][1].itemsize * 8 for name in read[:2] if name in arrays]
    bits = 8 if any(step.op_type in _OWN_BYTES for step in all_nodes([node])) else max(widths, default=32)
    return Work(node.output[0], node.op_type, _macs(node, arrays), bits, weights, moved)


def _macs(  # noqa: PLR0911  # one per operator
    node: onnx.NodeProto, arrays: dict[str, tuple[tuple[int, ...], Any]]
) -> int | None:
    def shape(name: str) -> tuple[int, ...]:
        return arrays[name][0]

    if node.op_type in {"Conv", "ConvInteger"}:
        return math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
    if node.op_type == "Gemm":
        inner = shape(node.input[0])[0 if attribute(node, "transA", 0) else 1]
        return math.prod(shape(node.output[0])) * inner
    if node.op_type in {"MatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}:
        return math.prod(shape(node.output[0])) * shape(node.input[0])[-1]
    if node.op_type in _GATES:
        steps, batch, _ = shape(node.input[0])
        per_step = math.prod(shape(node.input[1])) + math.prod(shape(node.input[2]))
        return steps * batch * per_step
    if node.op_type in {"MatMulNBits", "Scan"}:
        return _lowered_macs(node, arrays)
    return None if node.op_type in _UNRULED else 0


def _lowered_macs(node: onnx.NodeProto, arrays: dict[str, tuple[tuple[int, ...], Any]]) -> int | None:
    """Return the work of blocks of 4 bits, or of a recurrent loop; None for any other loop."""
    if node.op_type == "MatMulNBits":
        return math.prod(arrays[node.output[0]][0]) * int(attribute(node, "K", 0))
    matrices = [step.input[1] for step in all_nodes([node]) if step.op_type in _LOOPED]
    if not matrices:
        return None
    steps, batch, _ = arrays[node.output[-1]][0]
    return steps * batch * sum(math.prod(arrays[name][0]) for name in matrices)


def _values(proto: onnx.ModelProto, inputs: Inputs) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and dtype of every value of the graph, by running it once."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    have = {value.name for value in exposed.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in have]
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = feed(session, inputs)
    outputs = [entry.name for entry in session.get_outputs()]
    found = {**fed, **dict(zip(outputs, session.run(outputs, fed), strict=True))}
    found |= {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return {name: (value.shape, value.dtype) for name, value in found.items() if isinstance(value, np.ndarray)}


def _bytes(value: tuple[tuple[int, ...], Any]) -> int:
    return math.prod(value[0]) * int(value[1].itemsize)
