"""Float weights between codes: kept from a runtime that would round them.

Where what a product reads and what it makes are codes, ONNX Runtime puts the weights on 8 bits itself, one scale for
all of them (its graph transformer ``WeightBiasQuantization``). A clip between the codes and the product, which changes
nothing, keeps it from that.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_TAKEN_IN = frozenset({"BatchNormalization", "Relu", "Clip", "Identity"})
"""Operators that the runtime lets the product before them do."""

Makers = Mapping[str, onnx.NodeProto]


def keep_floats(proto: onnx.ModelProto) -> None:
    """Put a clip between codes and each product with float weights that makes codes, in ``proto`` itself."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    there = set(constants)
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type in _PRODUCTS and _becomes_codes(node.output[0], readers):
            back = _dequantized(node.input[0], makers)
            floats = _dequantized(node.input[1], makers) is None
            if floats and back is not None and _is_known(back, constants):
                node.input[0] = _clipped(node.input[0], back, constants, nodes)
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(tensor for name, tensor in constants.items() if name not in there)


def _dequantized(value: str, makers: Makers) -> onnx.NodeProto | None:
    """Return the node that makes ``value`` of codes, or None if it is not made of such."""
    node = makers.get(value)
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _is_known(back: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Return whether scale and zero are one constant number each."""
    parts = [constants.get(name) for name in back.input[1:]]
    return len(parts) == 2 and all(part is not None and not part.dims for part in parts)


def _becomes_codes(value: str, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Return whether ``value`` is put on a grid, after what the runtime lets the product do."""
    return any(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in _TAKEN_IN and _becomes_codes(reader.output[0], readers))
        for reader in readers.get(value, [])
    )


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
