"""Weights on the way to a recurrent operator: gates put in order, directions put side by side, codes kept.

The graph reorders and joins ``state_dict`` tensors by nodes that only move values (see ``recurrent.py``). The same
moves are made here on codes, scales and zeros, so that what the operator reads is as exact as what is stored.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gossamer.codings.nodes import Array
from gossamer.targets.levels import Weight
from gossamer.targets.wiring import Wiring

_MOVES = frozenset({"Reshape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Identity"})


@dataclass(frozen=True, eq=False)
class Stacked:
    """A recurrent matrix as the operator wants it: ``codes`` are the weight divided by ``scale``, less ``zero``.

    Attributes:
        sites: the weights it is made of, one for each direction.
        codes: int8 or uint8 (directions, rows, columns); a row gives one value of one gate.
        scale: float32 (directions, rows).
        zero: the one zero of all codes.
    """

    sites: tuple[str, ...]
    codes: Array
    scale: Array
    zero: int


def sources(wiring: Wiring, value: str, weights: Container[str]) -> tuple[str, ...] | None:
    """Return the constants and ``weights`` that ``value`` is moved together from; None if anything else enters it."""
    found: dict[str, None] = {}
    waiting = [value]
    while waiting:
        name = waiting.pop()
        maker = wiring.maker(name)
        if maker is None and (name in wiring.constants or name in weights):
            found[name] = None
        elif maker is not None and maker.op_type in _MOVES:
            moved = maker.input if maker.op_type == "Concat" else maker.input[:1]
            waiting += reversed(moved)
        else:
            return None
    return tuple(found)


def stack(wiring: Wiring, value: str, weights: Mapping[str, Weight]) -> Stacked | str:
    """Return the integer form of the recurrent matrix ``value`` of three dimensions, or why it has none."""
    sites = sources(wiring, value, weights)
    if sites is None:
        return "its matrix is computed from others"
    lacking = [site for site in sites if site not in weights]
    if lacking:
        return f"{', '.join(lacking)} beside it is not on a grid of 8 bits"
    parts = {site: weights[site].about_zero for site in sites}
    kinds = {weight.codes.dtype for weight in parts.values()}
    zeros = {int(zero) for weight in parts.values() for zero in weight.zero.reshape(-1)}
    if len(kinds) > 1 or len(zeros) > 1:
        return "its zero is not the same everywhere"
    codes = move(wiring, value, {site: weight.codes for site, weight in parts.items()})
    scales = move(wiring, value, {site: _spread(weight) for site, weight in parts.items()})
    if codes.ndim != 3:
        return f"it has {codes.ndim} dimensions, wanted 3"
    if (scales != scales[:, :, :1]).any():
        return "its scales vary along the inputs that are summed over"
    return Stacked(sites, codes, np.ascontiguousarray(scales[:, :, 0]), zeros.pop())


def move(wiring: Wiring, value: str, arrays: Mapping[str, Array]) -> Array:
    """Return what becomes of ``arrays``, by the constants' names, on their way to ``value``."""
    nodes = _leading_to(wiring, value)
    if not nodes:
        return arrays[value]
    read = {name for node in nodes for name in node.input if name} - {node.output[0] for node in nodes}
    feeds = {name: arrays[name] if name in arrays else wiring.constants[name] for name in read}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(nodes, "moves", inputs, [helper.make_empty_tensor_value_info(value)])
    model = helper.make_model(graph, opset_imports=wiring.old.opset_import)
    return np.asarray(next(iter(ReferenceEvaluator(model).run(None, feeds))))


def _leading_to(wiring: Wiring, value: str) -> list[onnx.NodeProto]:
    """Return the nodes that make ``value`` from constants, in the order of the graph."""
    needed, nodes = {value}, []
    for node in reversed(wiring.old.graph.node):
        if node.output[0] in needed:
            nodes.append(node)
            needed.update(node.input)
    return nodes[::-1]


def _spread(weight: Weight) -> Array:
    """Return the scale of every code."""
    shape = [1] * weight.codes.ndim
    if weight.axis is not None:
        shape[weight.axis] = -1
    return np.ascontiguousarray(np.broadcast_to(weight.scale.reshape(shape), weight.codes.shape), np.float32)
