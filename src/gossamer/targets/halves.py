"""Half precision in the ONNX file: constants whose values float16 or bfloat16 hold exactly are stored so, with a Cast.

The processor computes in float32, so a ``Cast`` (ONNX operator specification) leads to what the nodes read. ONNX
Runtime does it once, when it loads the graph, and drops it: what runs is the graph with float32 constants, bit for bit.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gossamer.codings.nodes import Array

LEAST = 256
"""Smaller constants save less than the Cast takes."""


def halve(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` with 16 bits for each value of its large constants where that is exact; itself if nowhere."""
    stored = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= LEAST:
            half = _half(f"{tensor.name}:half", numpy_helper.to_array(tensor))
            if half is not None:
                stored[tensor.name] = half
    if not stored:
        return proto
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    kept = [stored.get(tensor.name, tensor) for tensor in proto.graph.initializer]
    del new.graph.initializer[:], new.graph.node[:]
    new.graph.initializer.extend(kept)
    new.graph.node.extend(
        helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT) for name, half in stored.items()
    )
    new.graph.node.extend(proto.graph.node)
    return new


def _half(name: str, array: Array) -> TensorProto | None:
    """Return ``array`` in 16 bits, or None if that would change a bit of it."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    with np.errstate(over="ignore", under="ignore"):
        half = array.astype("<f2")
    if np.array_equal(half.astype("<f4").view("<u4"), bits):
        return _raw(name, TensorProto.FLOAT16, array.shape, half)
    if not (bits & 0xFFFF).any():
        return _raw(name, TensorProto.BFLOAT16, array.shape, (bits >> 16).astype("<u2"))
    return None


def _raw(name: str, kind: int, dims: tuple[int, ...], values: Array) -> TensorProto:
    return helper.make_tensor(name, kind, dims, values.tobytes(), raw=True)
