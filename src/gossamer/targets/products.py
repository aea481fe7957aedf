"""Which nodes of a lowered graph multiply integers."""

from collections.abc import Iterator

import onnx

_FUSED = frozenset({"Conv", "Gemm", "MatMul"})
_PLAIN = frozenset({"ConvInteger", "MatMulInteger"})


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
