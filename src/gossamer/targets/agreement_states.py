"""The codes of inputs and hidden states on grids, as the simulation multiplies them and as a lowered loop does.

A loop keeps the codes of its states inside. What it reads in each step is the first state or what the step before made,
so the codes are computed anew from these; a loop can also be led: made to read the codes of the simulation.
"""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gossamer.artifact.activations import beside_cell
from gossamer.codings.nodes import Array
from gossamer.model import Grid
from gossamer.model.hooks import hook_of
from gossamer.model.state_grid import StateGrids
from gossamer.targets.wiring import attribute, inner_graphs

Seen = dict[str, list[Array]]
"""Codes by site, one array for each time it is multiplied."""

_GIVEN = ":given"


@contextmanager
def noting_states(model: nn.Module, seen: Seen) -> Iterator[None]:
    """Take down in ``seen`` the codes of recurrent layers on grids, (time, batch, features), unless they are packed."""
    handles, found = [], []
    for module in model.modules():
        hook = hook_of(module, StateGrids)
        if hook is not None:
            found.append(hook)
            steps: dict[str, list[Tensor]] = {}
            hook.note = partial(_note, steps)
            handles.append(module.register_forward_hook(partial(_gather, hook, steps, seen), with_kwargs=True))
    try:
        yield
    finally:
        for hook in found:
            hook.note = None
        for handle in handles:
            handle.remove()


def _note(steps: dict[str, list[Tensor]], matrix: str, value: Tensor) -> None:
    steps.setdefault(matrix, []).append(value)


def _gather(
    hook: StateGrids,
    steps: dict[str, list[Tensor]],
    seen: Seen,
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    _result: Any,
) -> None:
    packed = isinstance(args[0] if args else kwargs["input"], PackedSequence)
    for matrix, (site, grid) in hook.grids.items():
        values = steps.pop(matrix, [])
        if packed or not values:
            continue
        if beside_cell(site) is not None:
            values = values[1:]  # the first was there before the layer ran
        if matrix.startswith("weight_ih"):
            value = values[0]
        else:
            value = torch.stack(values[::-1] if matrix.endswith("_reverse") else values)
        seen.setdefault(site, []).append(codes_on(value, grid))


def codes_on(value: Tensor, grid: Grid) -> Array:
    """Return the codes of values on ``grid``, counted from the lowest: the target's are unsigned."""
    zero = grid.zero.double() - grid.codes_range[0]
    return (torch.round(value.detach().cpu().double() / grid.scale.double()) + zero).numpy()


def with_read_states(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str]], list[tuple[str, str]]]:
    """Return a copy of a graph with the codes of the states that its loops read, and each matrix with their name.

    And likewise with the codes of the cell states that they make, where these are rounded. A loop is one whose states
    are on stored grids.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    ends = {"gossamer:begin": [0], "gossamer:one": [1], "gossamer:before_last": [-1], "gossamer:end": [2**62]}
    names: list[tuple[str, str]] = []
    cells: list[tuple[str, str]] = []
    for node in shown.graph.node:
        inner, rounded = _quantized_inside(node), _rounded_inside(node)
        if inner is not None and rounded is not None:
            cells.append((inner[1].input[1], _with_cells(node, rounded)))
    for node in proto.graph.node:
        inner = _quantized_inside(node)
        if inner is not None:
            rounding, product = inner
            read = f"{node.output[-1]}:read"
            names.append((product.input[1], read))
            shown.graph.node.extend(_read(node, rounding, read))
    have = {tensor.name for tensor in shown.graph.initializer}
    shown.graph.initializer.extend(
        numpy_helper.from_array(np.array(end, np.int64), name) for name, end in ends.items() if name not in have
    )
    return shown, names, cells


def _rounded_inside(node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return what clips the codes of the cell state inside a loop, less their zero."""
    return next((step for inner in inner_graphs(node) for step in inner.node if step.op_type == "Clip"), None)


def _with_cells(node: onnx.NodeProto, clip: onnx.NodeProto) -> str:
    """Let the loop ``node`` return the codes of its cell states too, counted from the lowest, before y."""
    read = f"{node.output[-1]}:cells"
    body = next(entry.g for entry in node.attribute if entry.name == "body")
    body.node.append(helper.make_node("Sub", [clip.output[0], clip.input[1]], [f"{read}:step"]))
    *states, y = body.output
    kept = [*states, helper.make_tensor_value_info(f"{read}:step", TensorProto.FLOAT, None), y]
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del body.output[:]
    body.output.extend(outputs)
    node.output.insert(len(node.output) - 1, read)
    for entry in node.attribute:
        if entry.name == "scan_output_directions":
            entry.ints.append(entry.ints[0])
    return read


def _quantized_inside(node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Return what puts the state on codes inside a loop, and the product of these."""
    steps = {step.op_type: step for inner in inner_graphs(node) for step in inner.node}
    found = steps.get("QuantizeLinear"), steps.get("MatMulInteger")
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _read(node: onnx.NodeProto, rounding: onnx.NodeProto, read: str) -> list[onnx.NodeProto]:
    """Return nodes that make the codes of the states that a loop reads, in the order of time."""
    y, backward = node.output[-1], any(attribute(node, "scan_output_directions", []))
    ends = ["gossamer:one", "gossamer:end"] if backward else ["gossamer:begin", "gossamer:before_last"]
    parts = [f"{read}:first", f"{read}:others"]
    return [
        helper.make_node("Unsqueeze", [node.input[0], "gossamer:begin"], [parts[0]]),
        helper.make_node("Slice", [y, *ends, "gossamer:begin"], [parts[1]]),
        helper.make_node("Concat", parts[::-1] if backward else parts, [f"{read}:values"], axis=0),
        helper.make_node("QuantizeLinear", [f"{read}:values", *rounding.input[1:]], [read]),
    ]


def lead_loop(node: onnx.NodeProto, given: Container[str]) -> None:
    """Let the loop ``node`` read codes of its states, if a graph input with them is among ``given``."""
    inner = _quantized_inside(node)
    codes = f"{node.output[-1]}:read{_GIVEN}"
    if inner is None or codes not in given:
        return
    rounded = inner[0].output[0]
    body = next(entry.g for entry in node.attribute if entry.name == "body")
    kept = [step for step in body.node if step.output[0] != rounded]
    del body.node[:]
    body.node.extend(kept)
    body.input.append(helper.make_tensor_value_info(rounded, TensorProto.UINT8, None))
    node.input.append(codes)
    for entry in node.attribute:
        if entry.name == "num_scan_inputs":
            entry.i += 1
        elif entry.name == "scan_input_directions":
            entry.ints.append(entry.ints[0])
