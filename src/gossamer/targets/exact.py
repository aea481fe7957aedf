"""Exact 8-bit products on processors whose sums of them saturate: weights as unsigned codes.

The kernels of ONNX Runtime for unsigned inputs and unsigned weights add in 32 bits on every x86; those for signed
weights use ``vpmaddubsw`` where there is no VNNI. Signed codes become unsigned by adding 128 to them and to their zero.
(The runtime's own option for this, ``session.x64quantprecision``, fails with 1.32.0 on a weight that is read twice.)
"""

import numpy as np
import onnx
from onnx import numpy_helper

from gossamer.codings.nodes import Array
from gossamer.targets.exact_dynamic import beyond_7_bits, exact_dynamic, needs_exact_dynamic
from gossamer.targets.products import integer_products
from gossamer.targets.tidy import drop_unused

_MARK = "#unsigned"
_UNFOLDING = frozenset({"DequantizeLinear", "Transpose"})


def needs_exact(proto: onnx.ModelProto) -> bool:
    """Return whether products of ``proto`` could saturate: signed weights beyond 7 bits."""
    return bool(_wide(proto)) or needs_exact_dynamic(proto)


def exact_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``proto`` with unsigned weights in the products that could saturate; itself if there are none."""
    proto = exact_dynamic(proto)
    wide = _wide(proto)
    if not wide:
        return proto
    makers = _makers(proto)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    added: dict[str, Array] = {}
    made: set[str] = set()
    products = {node.output[0] for node in integer_products(proto)}
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    del new.graph.node[:]
    for node in proto.graph.node:
        if node.output[0] in products and _stored(node.input[1], makers) in wide:
            for maker in reversed(_chain(node.input[1], makers)):
                if maker.output[0] not in made:
                    made.add(maker.output[0])
                    new.graph.node.append(_unsigned(maker, 2, constants, added))
            weight = _stored(node.input[1], makers)
            added[weight + _MARK] = (constants[weight].astype(np.int16) + 128).astype(np.uint8)
            zero = 3 if node.op_type in {"ConvInteger", "MatMulInteger"} else None
            new.graph.node.append(_unsigned(node, zero, constants, added, at=1))
        else:
            new.graph.node.append(node)
    new.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in added.items())
    drop_unused(new.graph)
    return new


def _wide(proto: onnx.ModelProto) -> set[str]:
    """Return the signed weights of integer products whose codes go beyond 7 bits."""
    makers = _makers(proto)
    read = {_stored(node.input[1], makers) for node in integer_products(proto)}
    return {tensor.name for tensor in proto.graph.initializer if tensor.name in read and beyond_7_bits(tensor)}


def _makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.output[0]: node for node in proto.graph.node if node.op_type in _UNFOLDING}


def _chain(name: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes from ``name`` back to the stored weight."""
    chain = []
    while name in makers:
        chain.append(makers[name])
        name = makers[name].input[0]
    return chain


def _stored(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    chain = _chain(name, makers)
    return chain[-1].input[0] if chain else name


def _unsigned(
    node: onnx.NodeProto, zero: int | None, constants: dict[str, Array], added: dict[str, Array], at: int | None = None
) -> onnx.NodeProto:
    """Return ``node`` reading the unsigned weight: ``at`` a product's input, else as one of the nodes that lead there.

    Args:
        node: the node.
        zero: which input is the weight's zero, if the node is of a kind that has one.
        constants: constants of the graph.
        added: where the unsigned zero is put.
        at: the product's input, or None for a node on the way, whose input 0 is the weight.
    """
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[at or 0] += _MARK
    if at is None:
        changed.output[0] += _MARK
    if zero is not None and node.op_type != "Transpose":
        if len(node.input) > zero:
            name, old = node.input[zero], constants[node.input[zero]]
        else:
            name, old = "gossamer:zero", np.zeros((), np.int8)
            changed.input.append(name)
        changed.input[zero] = name + _MARK
        added[name + _MARK] = (old.astype(np.int16) + 128).astype(np.uint8)
    return changed
