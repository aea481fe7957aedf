"""A light clean-up of an exported graph: canonical weight names, short inner names, nothing that no node needs."""

from collections.abc import Mapping

import onnx

from gossamer.targets.wiring import reads

PRODUCER = "gossamer"


def tidy(proto: onnx.ModelProto, weights: Mapping[str, str]) -> onnx.ModelProto:
    """Rename weights to their first owner's name, drop annotations and shorten the names of inner values.

    Args:
        proto: an exported graph; changed and returned.
        weights: name of a weight in the graph to the name it is stored under.
    """
    _name_weights(proto.graph, weights)
    _drop_annotations(proto)
    drop_unused(proto.graph)
    _name_axes(proto.graph)
    _shorten(proto.graph)
    proto.producer_name = PRODUCER
    proto.producer_version = ""
    return proto


def _name_weights(graph: onnx.GraphProto, weights: Mapping[str, str]) -> None:
    """Let every name of a tied weight be its first."""
    kept = {}
    for tensor in graph.initializer:
        tensor.name = weights.get(tensor.name, tensor.name)
        kept[tensor.name] = tensor
    tensors = list(kept.values())
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = weights.get(name, name)


def own_outputs(graph: onnx.GraphProto) -> None:
    """Give every output a value of its own: an input or a weight that is returned, or one that is returned twice."""
    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for number, value in enumerate(graph.output):
        if value.name in taken:
            own = f"{value.name}:returned{number}"
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [own]))
            value.name = own
        taken.add(value.name)


def _drop_annotations(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = ""
        _drop_defaults(node)
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Drop attributes that say what the operator's schema says anyway."""
    if node.domain not in {"", "ai.onnx"}:
        return
    defaults = onnx.defs.get_schema(node.op_type).attributes
    kept = [
        attribute
        for attribute in node.attribute
        if attribute.name not in defaults
        or not defaults[attribute.name].default_value.name
        or onnx.helper.get_attribute_value(defaults[attribute.name].default_value)
        != onnx.helper.get_attribute_value(attribute)
    ]
    del node.attribute[:]
    node.attribute.extend(kept)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers that no output depends on."""
    needed = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            nodes.append(node)
            needed.update(reads(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _name_axes(graph: onnx.GraphProto) -> None:
    """Call the free axes ``batch``, ``time`` and so on, by the first place each appears at."""
    names: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                wanted = ("batch", "time")[axis] if axis < 2 else "axis"
                taken = sum(name.startswith(wanted) for name in names.values())
                name = wanted if not taken else f"{wanted}{taken + 1}"
                dimension.dim_param = names.setdefault(dimension.dim_param, name)


def _shorten(graph: onnx.GraphProto) -> None:
    """Give every value between nodes a short name; inputs, outputs and weights keep theirs."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    names: dict[str, str] = {"": ""}
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name not in fixed and name not in names:
                names[name] = f"%{len(names)}"
            node.output[index] = names.get(name, name)
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
