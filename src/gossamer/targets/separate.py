"""A copy of a weight for each integer product that reads it.

The exact kernels of ONNX Runtime (``session.x64quantprecision``) rewrite a weight once per reader and fail on the
second ("Attempt to replace the existing tensor", seen with 1.32.0). Only the graph in memory is changed.
"""

import onnx

from gossamer.targets.products import integer_products

_UNFOLDING = frozenset({"DequantizeLinear", "Transpose"})


def separate_shared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` with no weight read by two integer products; itself if that is so already."""
    makers = {node.output[0]: node for node in proto.graph.node if node.op_type in _UNFOLDING}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    seen: set[str] = set()
    copies: dict[str, list[onnx.NodeProto]] = {}
    tensors: list[onnx.TensorProto] = []
    for number, node in enumerate(integer_products(proto)):
        chain = _chain(node.input[1], makers)
        weight = chain[-1].input[0] if chain else node.input[1]
        if weight in seen and weight in constants:
            copies[node.output[0]] = _copied(chain, node, f"#{number}")
            tensors.append(onnx.TensorProto.FromString(constants[weight].SerializeToString()))
            tensors[-1].name = f"{weight}#{number}"
        seen.add(weight)
    if not copies:
        return proto
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    del new.graph.node[:]
    for node in proto.graph.node:
        new.graph.node.extend(copies.get(node.output[0], [node]))
    new.graph.initializer.extend(tensors)
    return new


def _chain(name: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes from ``name`` back to the stored weight."""
    chain = []
    while name in makers:
        chain.append(makers[name])
        name = makers[name].input[0]
    return chain


def _copied(chain: list[onnx.NodeProto], product: onnx.NodeProto, mark: str) -> list[onnx.NodeProto]:
    """Return copies of ``chain`` and of ``product`` that pass a copy of the weight along, in order."""
    result = []
    for node in reversed(chain):
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[0] += mark
        made.output[0] += mark
        result.append(made)
    last = onnx.NodeProto()
    last.CopyFrom(product)
    last.input[1] += mark
    return [*result, last]
