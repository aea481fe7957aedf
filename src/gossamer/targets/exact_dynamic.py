"""Exact 8-bit products of the operators that recurrent layers become; see ``exact.py``.

Their weights have a zero of their own and no other reader, so codes and zeros become unsigned where they are.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from gossamer.targets.wiring import all_nodes, inner_graphs

_PLACES = {
    "DynamicQuantizeLSTM": ((1, 9), (2, 11)),
    "DynamicQuantizeMatMul": ((1, 3),),
    "MatMulIntegerToFloat": ((1, 5),),
}
"""Where an operator reads codes and their zero."""
_INSIDE = {"DynamicQuantizeMatMul": ((1, 3),), "MatMulInteger": ((1, 3),)}
"""The same inside a loop."""


def needs_exact_dynamic(proto: onnx.ModelProto) -> bool:
    """Return whether products could saturate: signed weights beyond 7 bits."""
    return bool(_wide(proto))


def exact_dynamic(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` with unsigned weights in the products that could saturate; itself if there are none."""
    wide = _wide(proto)
    if not wide:
        return proto
    changed = {name for pair in wide for name in pair}
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    for tensor in new.graph.initializer:
        if tensor.name in changed:
            array = numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.uint8), tensor.name))
    return new


def beyond_7_bits(tensor: onnx.TensorProto) -> bool:
    """Return whether ``tensor`` holds signed bytes of more than 7 bits."""
    if tensor.data_type != onnx.TensorProto.INT8:
        return False
    codes = numpy_helper.to_array(tensor)
    return bool(codes.size) and (int(codes.max()) > 63 or int(codes.min()) < -64)


def _wide(proto: onnx.ModelProto) -> set[tuple[str, str]]:
    """Return the names of codes and zeros of the weights that are too wide."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    within = [step for node in proto.graph.node for inner in inner_graphs(node) for step in all_nodes(inner.node)]
    pairs = {
        (node.input[codes], node.input[zero])
        for nodes, places in ((proto.graph.node, _PLACES), (within, _INSIDE))
        for node in nodes
        for codes, zero in places.get(node.op_type, ())
        if len(node.input) > zero
    }
    return {(codes, zero) for codes, zero in pairs if codes in tensors and beyond_7_bits(tensors[codes])}
