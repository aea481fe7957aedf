"""Which nodes of a lowered graph multiply integers, and keeping the others from it."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

_FUSED = frozenset({"Conv", "Gemm", "MatMul"})
_PLAIN = frozenset({"ConvInteger", "MatMulInteger"})
_ROUNDED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_TAKEN_IN = frozenset({"BatchNormalization", "Relu", "Clip", "Identity"})


def integer_products(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the products whose first input is a value in 8 bits: those a runtime does, or fuses to do, in integers."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    quantized = {
        node.output[0]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants
    }
    for node in proto.graph.node:
        if node.op_type in _PLAIN or (node.op_type in _FUSED and node.input[0] in quantized):
            yield node


def keep_floats(proto: onnx.ModelProto) -> None:
    """Put a clip that changes nothing between codes and products with float weights, in ``proto`` itself.

    Where its inputs and what it makes are codes, ONNX Runtime would round such a product's weights to 8 bits, one scale
    for all of them (its graph transformer ``WeightBiasQuantization``).
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        rounded = node.op_type in _ROUNDED and not _is_dequantized(node.input[1], makers)
        if rounded and _becomes_codes(node.output[0], readers):
            back = makers.get(node.input[0])
            while back is not None and back.op_type == "Identity":
                back = makers.get(back.input[0])
            known = back is not None and back.op_type == "DequantizeLinear" and len(back.input) > 2
            if back is not None and known and all(_is_number(constants.get(name)) for name in back.input[1:]):
                node.input[0] = _clipped(node.input[0], back, constants, nodes)
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    known = {tensor.name for tensor in proto.graph.initializer}
    proto.graph.initializer.extend(tensor for name, tensor in constants.items() if name not in known)


def _is_number(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and not tensor.dims


def _becomes_codes(value: str, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Return whether ``value`` is put on a grid, after what the runtime lets the product do."""
    return any(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in _TAKEN_IN and _becomes_codes(reader.output[0], readers))
        for reader in readers.get(value, [])
    )


def _is_dequantized(weight: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    node = makers.get(weight)
    return node is not None and node.op_type == "DequantizeLinear"


def _clipped(
    value: str, back: onnx.NodeProto, constants: dict[str, onnx.TensorProto], nodes: list[onnx.NodeProto]
) -> str:
    """Return the value clipped to what its codes can be; the node and its bounds are added, once for each value."""
    name = f"{value}:floats"
    if f"{name}:low" not in constants:
        scale, zero = (numpy_helper.to_array(constants[part]) for part in back.input[1:3])
        codes = np.iinfo(zero.dtype)
        for end, code in (("low", codes.min), ("high", codes.max)):
            bound = np.asarray((code - zero.astype(np.float32)) * scale, np.float32)
            constants[f"{name}:{end}"] = numpy_helper.from_array(bound, f"{name}:{end}")
        nodes.append(onnx.helper.make_node("Clip", [value, f"{name}:low", f"{name}:high"], [name]))
    return name
