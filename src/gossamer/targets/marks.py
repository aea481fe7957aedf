"""Marks: nodes of a stored graph that say which value is the output of a module.

Weights and inputs of layers are found in a graph by the names of weights. The output of a module has no such name, so
where it has a grid the exported graph carries a node of our own there, which lowering puts levels in the place of.
"""

from collections.abc import Container
from typing import Final

import onnx

DOMAIN: Final = "gossamer"
MARK: Final = "Output"
"""The operator: one input, one output of the same value, and the attribute ``module``."""


def is_mark(node: onnx.NodeProto) -> bool:
    """Return whether ``node`` is a mark."""
    return bool(node.domain == DOMAIN and node.op_type == MARK)


def module_of_mark(node: onnx.NodeProto) -> str:
    """Return the path of the module whose output ``node`` marks."""
    return next((entry.s.decode() for entry in node.attribute if entry.name == "module"), "")


def why_not_marked(proto: onnx.ModelProto) -> str | None:
    """Return what is wrong with a mark of ``proto``, or None."""
    for node in proto.graph.node:
        if is_mark(node):
            if len(node.input) != 1 or len(node.output) != 1:
                return f"a mark has {len(node.input)} inputs and {len(node.output)} outputs, wanted one of each"
            try:
                module_of_mark(node)
            except UnicodeDecodeError:
                return "a mark names a module that is no text"
    return None


def without_marks(proto: onnx.ModelProto, kept: Container[str]) -> onnx.ModelProto:
    """Return ``proto`` without its marks but those of the modules ``kept``; the others pass their value on."""
    if not any(is_mark(node) for node in proto.graph.node):
        return proto
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    del found.graph.node[:]
    for node in proto.graph.node:
        gone = is_mark(node) and module_of_mark(node) not in kept
        found.graph.node.append(onnx.helper.make_node("Identity", node.input, node.output) if gone else node)
    others = [entry for entry in found.opset_import if entry.domain != DOMAIN]
    del found.opset_import[:]
    found.opset_import.extend(others)
    return found
