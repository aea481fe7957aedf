"""The graph of a self-contained artifact: ONNX without weights, filled from the artifact's tensors when it is run.

A weight is not in the graph's initializers; its name refers to the artifact's tensor (or alias) of that name. Needs no
torch: assembling is reading codings and writing initializers.
"""

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from gossamer.artifact import Artifact
from gossamer.artifact.activations import beside_cell, module_of
from gossamer.artifact.records import check_records
from gossamer.codings import Coding, decode, dtype
from gossamer.codings.nodes import Array
from gossamer.errors import CodingError, TargetError
from gossamer.targets.grouped import weight_groups
from gossamer.targets.halves import halve
from gossamer.targets.levels import Levels, input_levels, on_grid, weight_levels
from gossamer.targets.lower import Lowered, float_name, lower
from gossamer.targets.marks import is_mark, module_of_mark, why_not_marked
from gossamer.targets.reason import Reason
from gossamer.targets.stored import Form, form_of, store_integers
from gossamer.targets.wiring import reads


def graph_bytes(proto: onnx.ModelProto, stored: Container[str]) -> bytes:
    """Return ``proto`` without the initializers whose names are in ``stored``, as bytes for ``Artifact.graph``."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    kept = [tensor for tensor in bare.graph.initializer if tensor.name not in stored]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(kept)
    return bytes(bare.SerializeToString(deterministic=True))


def parse_graph(artifact: Artifact) -> onnx.ModelProto:
    """Return the artifact's graph, weights missing.

    Raises:
        TargetError: the artifact has no graph, or one that is no ONNX graph, or names tensors it does not have.
    """
    if artifact.graph is None:
        raise TargetError(
            "the file holds weights only, no graph to run",
            hint="write it with the graph (self-contained), or load it into an instance of its class",
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(artifact.graph)
    except DecodeError:
        raise TargetError("the file's graph is not an ONNX graph") from None
    known = {*artifact.tensors, *artifact.aliases}
    lacking = sorted(missing_names(proto) - known)
    if lacking:
        raise TargetError(f"the file's graph reads {', '.join(lacking)}, which the file does not hold")
    wrong = why_not_marked(proto)
    if wrong is not None:
        raise TargetError(f"the file's graph is damaged: {wrong}")
    return proto


def missing_names(proto: onnx.ModelProto) -> set[str]:
    """Return the names that the graph reads and nothing in it provides."""
    graph = proto.graph
    provided = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    provided.update(name for node in graph.node for name in node.output)
    needed = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    inner = {
        name
        for node in graph.node
        for entry in node.attribute
        for sub in (*([entry.g] if entry.HasField("g") else []), *entry.graphs)
        for name in _made_inside(sub)
    }
    return needed - provided - inner


def lower_artifact(artifact: Artifact, *, quantized: bool = True) -> Lowered:
    """Return what ONNX Runtime runs for ``artifact``, with the reasons for what stays in floating point.

    Args:
        artifact: a self-contained artifact.
        quantized: keep 8-bit weights in 8 bits; otherwise every weight is filled in as floats.

    Raises:
        TargetError: there is no graph, or it does not fit the tensors.
        ArtifactError: an input grid is of the wrong form.
    """
    tensors = {**artifact.tensors, **{name: artifact.tensors[kept] for name, kept in artifact.aliases.items()}}
    check_records(artifact.edits, artifact.activations, artifact.meta, artifact.aliases)
    return fill(parse_graph(artifact), tensors, artifact.activations, quantized=quantized)


def assemble(artifact: Artifact, *, quantized: bool = True) -> onnx.ModelProto:
    """Return the ONNX model of a self-contained ``artifact``, weights filled in; see :func:`lower_artifact`."""
    return lower_artifact(artifact, quantized=quantized).proto


def fill(
    proto: onnx.ModelProto,
    tensors: Mapping[str, Coding],
    activations: Mapping[str, Mapping[str, Any]],
    *,
    quantized: bool,
) -> Lowered:
    """Return ``proto`` with the weights it reads taken from ``tensors``, in 8 bits where they and ``quantized`` allow.

    Other weights are float32, stored as integers or in 16 bits where that and ``quantized`` allow (``stored.py``,
    ``halves.py``).

    Args:
        proto: a float graph, with or without weights.
        tensors: coding of each weight by the name the graph reads it under.
        activations: grids of inputs by site and of outputs of modules, as plain data.
        quantized: whether to use 8-bit weights and integer operators.
    """
    own = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    names = sorted((missing_names(proto) | set(own)) & set(tensors))
    inner = {name for node in proto.graph.node for name in set(reads(node)) - set(node.input)}
    shown = inner | {value.name for value in proto.graph.output}  # what loops and branches read, or is an output
    weights, groups, reasons = {}, {}, []
    if quantized:
        for name in names:
            found = weight_levels(tensors[name])
            grouped = weight_groups(tensors[name]) if name not in activations else None
            if name in shown:
                continue
            if not isinstance(found, str):
                weights[name] = found.about_zero if name in activations else found
            elif grouped is not None:
                groups[name] = grouped
            elif name in activations or on_grid(tensors[name]):
                reasons.append(Reason(name, found))
    inputs, outputs, cells, untaken = _activation_levels(proto, activations if quantized else {}, names)
    reasons += untaken
    constants = {**own, **{name: _floats(name, tensors[name]) for name in names if name not in weights}}
    otherwise = set(activations) - set(inputs)
    lowered = lower(proto, constants, weights, inputs, outputs, groups=groups, cells=cells, otherwise=otherwise)
    known = {reason.what for reason in reasons}
    further = (reason for reason in lowered.reasons if reason.what not in known)
    integer = tuple(site for site in lowered.integer if site not in known)
    stored = halve(store_integers(lowered.proto, _forms(lowered.proto, tensors))) if quantized else lowered.proto
    return Lowered(stored, integer, (*reasons, *further))


def _forms(proto: onnx.ModelProto, tensors: Mapping[str, Coding]) -> dict[str, tuple[str, Form]]:
    """Return the weights and integer forms of the float constants of ``proto`` by their names."""
    floats = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    forms: dict[str, tuple[str, Form]] = {}
    for site, coding in tensors.items():
        turned = {site: False, float_name(site): False, float_name(site, turned=True): True}
        names = floats & turned.keys()
        form = form_of(coding) if names else None
        if form is not None:
            forms |= {name: (site, replace(form, turned=turned[name])) for name in names}
    return forms


def _activation_levels(
    proto: onnx.ModelProto, activations: Mapping[str, Mapping[str, Any]], sites: Container[str]
) -> tuple[dict[str, Levels], dict[str, Levels], dict[str, Levels], list[Reason]]:
    """Return the levels of inputs by site, of outputs by module and of cell states by the recurrent site beside them.

    And why others are not taken, or in floats.
    """
    marked = {module_of_mark(node) for node in proto.graph.node if is_mark(node)}
    inputs, outputs, cells, untaken = {}, {}, {}, []
    for name, grid in activations.items():
        levels, path, beside = input_levels(grid), module_of(name), beside_cell(name)
        if path is None and (beside or name) not in sites:
            continue
        if isinstance(levels, str):
            untaken.append(Reason(name, levels if path is beside is None else levels.replace("of its input ", "")))
        elif beside is not None:
            cells[beside] = levels
        elif path is None:
            inputs[name] = levels
            if not levels.bytes_do:
                untaken.append(Reason(name, f"its input is on {grid['bits']} bits, and rounded to these in float"))
        elif path in marked and levels.every_byte:
            outputs[path] = levels
        else:
            known = path in marked
            why = f"its grid has {grid['bits']} bits, wanted 8" if known else "the graph does not say where that is"
            untaken.append(Reason(name, why))
    return inputs, outputs, cells, untaken


def _floats(name: str, coding: Coding) -> Array:
    """Return the decoded tensor; half precision as float32, which the CPU computes in."""
    try:
        array = decode(coding)
    except CodingError as error:
        raise TargetError(f"tensor {name}: {error.message}") from None
    kind = dtype(coding)
    if kind == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if kind.startswith("float8"):
        raise TargetError(f"tensor {name}: no kernels for {kind}")
    return array.astype(np.float32) if kind == "float16" else array


def _made_inside(graph: onnx.GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for entry in node.attribute:
            for sub in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
                made |= _made_inside(sub)
    return made
