"""How far a lowered model is from the simulated one, site by site, in quantization steps.

At a site with an input grid the codes that the runtime's integer kernels read are compared with the codes that the
grid gives in the live model: 0 where both round the same way, 1 where a value fell on the other side of a rounding
border. So are those of the hidden states of recurrent layers on grids, step by step. A recurrent layer without grids
and a linear one in blocks quantize as they come; there the outputs are compared (before the bias of a linear layer),
and so are the outputs of the graph, in steps of 8 bits over their range.

A value on the other side of a border moves all that is computed from it by a fraction of a step, so that in a deep
network more and more values differ. What a layer itself adds is therefore measured apart: the graph is run a second
time, in which every product reads the codes of the simulation.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.artifact.activations import beside_cell, cell_of, module_of, output_of
from gossamer.codings.nodes import Array
from gossamer.errors import TargetError
from gossamer.model import Subject
from gossamer.model.hooks import hook_of
from gossamer.model.input_grid import InputGrid
from gossamer.model.output_grid import OutputGrid
from gossamer.model.run import evaluation
from gossamer.model.state_grid import StateGrids
from gossamer.targets.agreement_states import codes_on, lead_loop, noting_states, with_read_states
from gossamer.targets.calls import arrays_of
from gossamer.targets.lower import Lowered
from gossamer.targets.optimized import sites_of
from gossamer.targets.products import integer_products
from gossamer.targets.session import open_session, run_session
from gossamer.targets.wiring import all_nodes

OUTPUTS = "outputs"
"""What stands for the outputs of the graph among the sites."""

_BY_OUTPUT = {"DynamicQuantizeLSTM": 2, "MatMulNBits": 1}
"""Operators that are compared by their output, and which input has the weight's name."""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The lowered model beside the simulated one at one place.

    Attributes:
        site: name of the weight, ``MODULE:output`` for an output on a grid, or ``outputs`` for those of the graph.
        compared: ``input`` or ``grid``, the input of a site or the output of a module, in steps of its grid; or
            ``output``, in steps of 8 bits over the range of it.
        steps: the largest difference where the layers before read what they read in the simulation.
        differing: share of values that are then half a step or more apart.
        carried: the largest difference where the graph runs by itself, and differences add up from layer to layer.
    """

    site: str
    compared: str
    steps: float
    differing: float
    carried: float


def agreements(
    subject: Subject, lowered: Lowered, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> tuple[Agreement, ...]:
    """Return how far ``lowered`` is from ``subject`` at the sites that it multiplies in integers, and at the outputs.

    Recurrent layers that are given packed sequences are compared at the outputs of the graph only, and so are layers
    that pad their input with other values than zero.

    Args:
        subject: the live model that was frozen and lowered.
        lowered: what it became.
        args: inputs.
        kwargs: keyword inputs.

    Raises:
        TargetError: the inputs do not fit, or a site is read another number of times than in the live model.
    """
    simulated, outputs = _simulated(subject, args, dict(kwargs or {}))
    proto, read, cells = with_read_states(lowered.proto)
    places = _places(lowered, read, cells)
    simulated = {site: wanted for site, wanted in simulated.items() if site in places}
    for site, wanted in simulated.items():
        if len(places[site]) != len(wanted):
            raise TargetError(f"{site}: read {len(wanted)} times by the model and {len(places[site])} by its graph")
    inner = [name for values in places.values() for name in values]
    alone = _run(proto, inner, arrays_of(lowered.proto, args, kwargs))
    simulated = {site: wanted for site, wanted in simulated.items() if _alike(wanted, [alone[n] for n in places[site]])}
    codes = {
        name: value.reshape(alone[name].shape).astype(alone[name].dtype)
        for site in simulated.keys() & subject.activations.keys()
        if beside_cell(site) is None
        for name, value in zip(places[site], simulated[site], strict=True)
    }
    led = _run(proto, inner, arrays_of(lowered.proto, args, kwargs), codes)
    listed = [
        _compare(site, _compared(subject, site), places[site], wanted, (led, alone))
        for site, wanted in simulated.items()
    ]
    ends = [value.name for value in lowered.proto.graph.output]
    return (*listed, _compare(OUTPUTS, "output", ends, outputs, (led, alone)))


def _alike(wanted: list[Array], found: list[Array]) -> bool:
    """Return whether the graph has as many values as the model; a layer that pads its input itself reads more."""
    return all(one.size == other.size for one, other in zip(wanted, found, strict=True))


def _compared(subject: Subject, name: str) -> str:
    if name not in subject.activations:
        return "output"
    return "input" if module_of(name) is beside_cell(name) is None else "grid"


def _simulated(
    subject: Subject, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, list[Array]], list[Array]]:
    """Return codes of inputs or outputs by site, those of recurrent layers by their last matrix, and of the model."""
    model, seen = subject.model, dict[str, list[Array]]()
    names = {owner.name: site.name for site in subject.sites.values() for owner in site.owners}
    handles = []
    for path, module in model.named_modules():
        snaps = hook_of(module, InputGrid) is not None
        if snaps:
            handles.append(module.register_forward_pre_hook(partial(_note_codes, seen), with_kwargs=True))
        if hook_of(module, OutputGrid) is not None:
            handles.append(module.register_forward_hook(partial(_note_made, seen, path)))
        if isinstance(module, nn.RNNBase) and hook_of(module, StateGrids) is None:
            handles.append(module.register_forward_hook(partial(_note_output, seen, path)))
        elif isinstance(module, nn.Linear) and not snaps:
            site = names.get(f"{path}.weight".lstrip("."), "")
            handles.append(module.register_forward_hook(partial(_note_product, seen, site)))
    try:
        with evaluation(model), torch.no_grad(), noting_states(model, seen):
            outputs = model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen, [leaf.double().cpu().numpy() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _note_codes(seen: dict[str, list[Array]], module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Take down the codes of an input that its grid has just snapped."""
    hook = hook_of(module, InputGrid)
    if hook is not None:
        seen.setdefault(hook.site, []).append(codes_on(given[0] if given else named["input"], hook.grid))


def _note_made(seen: dict[str, list[Array]], path: str, module: nn.Module, _given: Any, result: Tensor) -> None:
    """Take down the codes of an output that its grid has just snapped."""
    hook = hook_of(module, OutputGrid)
    if hook is not None:
        seen.setdefault(output_of(path), []).append(codes_on(result, hook.grid))


def _note_output(seen: dict[str, list[Array]], path: str, module: nn.RNNBase, _given: Any, result: Any) -> None:
    y = result[0]
    if isinstance(y, Tensor) and y.ndim == 3:
        site = f"{path}.weight_hh_l{module.num_layers - 1}".lstrip(".")
        value = y.transpose(0, 1) if module.batch_first else y
        seen.setdefault(site, []).append(value.detach().cpu().double().numpy())


def _note_product(seen: dict[str, list[Array]], site: str, module: nn.Linear, _given: Any, result: Tensor) -> None:
    product = result if module.bias is None else result - module.bias
    seen.setdefault(site, []).append(product.detach().cpu().double().numpy())


def _places(
    lowered: Lowered, read: Iterable[tuple[str, str]], cells: Iterable[tuple[str, str]]
) -> dict[str, list[str]]:
    """Return, for each site in integers, the values of the graph that hold its input's codes or its output.

    Args:
        lowered: the lowered graph.
        read: matrices that multiply states, and where the codes of these are.
        cells: likewise of the cell states beside them.
    """
    found: dict[str, list[str]] = {}
    for matrix, value in (*_multiplied(lowered.proto), *read, *_made(lowered.proto)):
        for site in sites_of(matrix, lowered.integer):
            found.setdefault(site, []).append(value)
    for matrix, value in cells:
        for site in sites_of(matrix, lowered.integer):
            found.setdefault(cell_of(site), []).append(value)
    for name, codes in _marked(lowered.proto):
        found.setdefault(name, []).append(codes)
    return found


def _makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def _multiplied(proto: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yield the matrices that multiply codes and the values that hold these, outside of loops."""
    makers = _makers(proto)
    for node in integer_products(proto):
        value, weight = node.input[0], node.input[1]
        while weight in makers:
            weight = makers[weight].input[0]
        maker = makers.get(value)
        yield weight, maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else value
    for node in proto.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            yield node.input[1], node.input[0]


def _made(proto: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yield the matrices that quantize what they multiply as it comes, and the values that they make."""
    for node in proto.graph.node:
        if node.op_type in _BY_OUTPUT:
            yield node.input[_BY_OUTPUT[node.op_type]], node.output[0]
        elif node.op_type == "Scan":
            inner = [step for step in all_nodes([node]) if step.op_type == "DynamicQuantizeMatMul"]
            if inner:
                yield inner[0].input[1], _end_of_loop(proto.graph, node.output[1])


def _marked(proto: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yield the names of outputs on grids, and the values that hold their codes."""
    yield from ((node.name, node.output[0]) for node in proto.graph.node if module_of(node.name) is not None)


def _end_of_loop(graph: onnx.GraphProto, y: str) -> str:
    """Return the value (time, directions, batch, hidden) that the outputs ``y`` of one direction end in."""
    for node in graph.node:
        if y in node.input and node.op_type in {"ReverseSequence", "Unsqueeze", "Concat"}:
            y = node.output[0]
    return y


def _run(
    proto: onnx.ModelProto, names: list[str], inputs: dict[str, Array], codes: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return the outputs of ``proto`` and the values ``names`` inside it; exposing codes keeps products fused.

    Args:
        proto: a lowered graph.
        names: values inside it.
        inputs: by name.
        codes: what nodes read in place of values inside.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    have = {value.name for value in proto.graph.output}
    exposed.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names) if name not in have
    )
    given = {f"{name}:given": array for name, array in (codes or {}).items()}
    for name, array in given.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        exposed.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    for node in exposed.graph.node:
        lead_loop(node, given)
        for index, name in enumerate(node.input):
            if f"{name}:given" in given:
                node.input[index] = f"{name}:given"
    return run_session(open_session(exposed), {**inputs, **given})


def _like(found: Array, wanted: Array) -> Array:
    """Return ``found`` in the form of ``wanted``: y of a recurrent operator has an axis of directions."""
    if found.ndim == wanted.ndim + 1 == 4:
        found = found.transpose(0, 2, 1, 3)
    return found.reshape(wanted.shape)


def _compare(
    site: str, compared: str, names: list[str], wanted: list[Array], runs: tuple[dict[str, Array], dict[str, Array]]
) -> Agreement:
    (steps, differing), (carried, _) = (
        _difference([_like(run[name], right) for name, right in zip(names, wanted, strict=True)], wanted, compared)
        for run in runs
    )
    return Agreement(site=site, compared=compared, steps=steps, differing=differing, carried=carried)


def _difference(found: list[Array], wanted: list[Array], compared: str) -> tuple[float, float]:
    """Return the largest difference in steps, and the share of values that are half a step or more apart."""
    steps, differing, count = 0.0, 0, 0
    for left, right in zip(found, wanted, strict=True):
        span = 1.0 if compared != "output" else (float(np.ptp(right)) if right.size else 0.0) / 255 or 1.0
        gaps = np.abs(left.astype(np.float64) - right) / span
        steps = max(steps, float(gaps.max(initial=0.0)))
        differing += int((gaps >= 0.5).sum())
        count += gaps.size
    return steps, differing / max(count, 1)
