"""Unfolding: weights that are stored in 8 bits but multiplied in floating point become floats before a session opens.

Left to itself the runtime would dequantise them in every run, and could not prepare them once for its kernels.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from gossamer.codings.nodes import Array
from gossamer.targets.levels import Weight
from gossamer.targets.products import integer_products
from gossamer.targets.tidy import drop_unused
from gossamer.targets.wiring import attribute


def unfold_stored(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` with every constant that no integer product reads dequantised; itself if there is none."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    kept = {name for node in integer_products(proto) for name in node.input}
    unfolded = {}
    for node in proto.graph.node:
        constant = node.op_type == "DequantizeLinear" and all(name in constants for name in node.input)
        if constant and node.output[0] not in kept:
            parts = [numpy_helper.to_array(constants[name]) for name in node.input]
            unfolded[node.output[0]] = _dequantized(parts, attribute(node, "axis", 1))
    if not unfolded:
        return proto
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    del new.graph.node[:]
    new.graph.node.extend(node for node in proto.graph.node if node.output[0] not in unfolded)
    new.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in unfolded.items())
    drop_unused(new.graph)
    return new


def _dequantized(parts: list[Array], axis: int) -> Array:
    codes, scale = parts[:2]
    zero = parts[2] if len(parts) > 2 else np.zeros_like(scale)
    along = None if scale.size == 1 else axis % codes.ndim  # of one scale the axis says nothing
    return Weight(codes, scale, zero, along).values
