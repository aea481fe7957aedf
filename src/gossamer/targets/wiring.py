"""A graph being rewritten: who reads what, constants by name, and the new list of nodes in order."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gossamer.codings.nodes import Array

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class Wiring:
    """Reads of the old graph, and the nodes and constants of the new one.

    Args:
        proto: the graph to rewrite; its nodes are read, not changed.
        constants: arrays known for names in the graph: initializers and filled weights.
    """

    def __init__(self, proto: onnx.ModelProto, constants: Mapping[str, Array]) -> None:
        self.old = proto
        self.constants = dict(constants)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self._made: set[str] = set()
        self._origins: dict[str, tuple[str, object]] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._makers = {name: node for node in proto.graph.node for name in node.output}
        self._outputs = {value.name for value in proto.graph.output}
        for node in proto.graph.node:
            for name in reads(node):
                self._readers.setdefault(name, []).append(node)

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """Return the node that reads ``value``, if it is the only one and no output of the graph."""
        readers = self._readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self._outputs else None

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """Return the nodes of the old graph that read ``value``."""
        return self._readers.get(value, [])

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node of the old graph that makes ``value``, if one does."""
        return self._makers.get(value)

    def is_output(self, value: str) -> bool:
        """Return whether the graph returns ``value``."""
        return value in self._outputs

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        self.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def append(self, node: onnx.NodeProto) -> None:
        """Append a node."""
        self.nodes.append(node)
        self._made.update(node.output)

    def made(self, value: str) -> bool:
        """Return whether a new node makes ``value``."""
        return value in self._made

    def alias(self, value: str, origin: str, levels: object) -> None:
        """Note that ``value`` is ``origin`` on ``levels``, so that both have the same codes on these."""
        self._origins[value] = (self.origin(origin, levels), levels)

    def origin(self, value: str, levels: object) -> str:
        """Return the first value that has the same codes as ``value`` on ``levels``."""
        found, on = self._origins.get(value, (value, levels))
        return found if on == levels else value

    def fresh(self, stem: str) -> str:
        """Return ``stem``, or ``stem`` with a number where new nodes or constants have that name already."""
        name, count = stem, 1
        while name in self._made or f"{name}:codes" in self.initializers:
            count += 1
            name = f"{stem}{count}"
        return name

    def constant(self, name: str, array: Array) -> str:
        """Add an initializer and return its name."""
        self.initializers[name] = array
        return name

    def finish(self) -> onnx.ModelProto:
        """Return the new graph: its nodes, and of the constants those that are read."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.old)
        del proto.graph.node[:], proto.graph.initializer[:]
        proto.graph.node.extend(self.nodes)
        if any(node.domain == MICROSOFT for node in all_nodes(self.nodes)):
            kept = [entry for entry in proto.opset_import if entry.domain != MICROSOFT]
            del proto.opset_import[:]
            proto.opset_import.extend([*kept, helper.make_opsetid(MICROSOFT, 1)])
        read = {name for node in self.nodes for name in reads(node)} | set(self._outputs)
        arrays = {**self.constants, **self.initializers}
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items() if name in read
        )
        return proto


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside ``node``: bodies of loops and branches."""
    return [inner for entry in node.attribute for inner in (*([entry.g] if entry.HasField("g") else []), *entry.graphs)]


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield ``nodes`` and those inside them."""
    for node in nodes:
        yield node
        for inner in inner_graphs(node):
            yield from all_nodes(inner.node)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names that ``node`` reads, its inner graphs included."""
    names = list(node.input)
    for inner in inner_graphs(node):
        names += [name for part in inner.node for name in reads(part)]
        names += [value.name for value in inner.output]
    return names


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value, or ``default`` where the node does not give it."""
    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return all attributes of ``node``."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
