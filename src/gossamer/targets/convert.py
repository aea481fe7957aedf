"""From a module or a frozen model to the ONNX file a user takes away, and the check that it computes the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.codings.nodes import Array
from gossamer.model import Frozen
from gossamer.targets.export import export
from gossamer.targets.graph import fill, graph_bytes
from gossamer.targets.lower import Lowered
from gossamer.targets.session import open_session, run_session
from gossamer.targets.shapes import Axes


def to_onnx(
    model: nn.Module | Frozen,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    quantized: bool = True,
    axes: Axes = "auto",
) -> onnx.ModelProto:
    """Return ``model`` as ONNX: floats for a plain module, 8-bit integers where a frozen model has grids.

    Args:
        model: a plain module (or a live one of a subject: freeze that first), or what ``freeze`` returned.
        args: example inputs.
        kwargs: example keyword inputs.
        quantized: for a frozen model, whether to keep 8-bit weights in 8 bits and use integer operators.
        axes: ``auto`` leaves batch and time free where the model does; ``none`` fixes every axis.

    Raises:
        TargetError: the model cannot be exported, or the inputs do not fit it.
    """
    if not isinstance(model, Frozen):
        return export(model, args, kwargs, axes=axes)
    return lower_frozen(model, export(model.model, args, kwargs, axes=axes), quantized=quantized).proto


def lower_frozen(frozen: Frozen, graph: onnx.ModelProto, *, quantized: bool = True) -> Lowered:
    """Return the float ``graph`` of a frozen model with its coded weights; see :func:`gossamer.targets.fill`."""
    tensors = {**frozen.tensors, **{name: frozen.tensors[kept] for name, kept in frozen.aliases.items()}}
    activations = {
        site: {"scale": grid.scale.numpy(), "zero": grid.zero.numpy(), "bits": grid.bits, "signed": grid.signed}
        for site, grid in frozen.activations.items()
    }
    return fill(graph, tensors, activations, quantized=quantized)


def frozen_graph(frozen: Frozen, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> bytes:
    """Return the graph that makes the artifact of ``frozen`` self-contained: ``to_artifact(frozen, graph=...)``.

    Raises:
        TargetError: the model cannot be exported, or the inputs do not fit it.
    """
    return graph_bytes(export(frozen.model, args, kwargs), {*frozen.tensors, *frozen.aliases})


def compare(
    model: nn.Module, proto: onnx.ModelProto, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> float:
    """Return the largest absolute difference between the outputs of ``model`` in torch and ``proto`` in ONNX Runtime.

    Args:
        model: a module; run in evaluation mode, its mode restored.
        proto: its graph.
        args: inputs, of any batch size.
        kwargs: keyword inputs.

    Raises:
        TargetError: the inputs do not fit the graph, or the runtime fails.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            outputs = model.eval()(*args, **(kwargs or {}))
    finally:
        for module, mode in modes.items():
            module.training = mode
    wanted = [leaf.cpu() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    got = run_session(open_session(proto), arrays_of(proto, args, kwargs)).values()
    return max(
        (_difference(left, right) for left, right in zip(wanted, got, strict=True)),
        default=0.0,
    )


def arrays_of(
    proto: onnx.ModelProto, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> dict[str, Array]:
    """Return torch inputs as arrays under the names of the graph's inputs; half precision as float32.

    Inputs that the model does not use are not in the graph and are left out.
    """
    named = {f"{name}": value for name, value in (kwargs or {}).items() if isinstance(value, Tensor)}
    names = [value.name for value in proto.graph.input]
    flat = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs or {}))) if isinstance(leaf, Tensor)]
    if len(flat) != len(names) and set(names) <= set(named):
        flat = [named[name] for name in names]
    return {name: _array(leaf) for name, leaf in zip(names, flat, strict=False)}


class Runner:
    """A graph in ONNX Runtime that is called with torch tensors, as the model was; ``task.evaluate`` takes it.

    Args:
        proto: a complete graph.
        threads: threads of one operator.
    """

    def __init__(self, proto: onnx.ModelProto, *, threads: int = 1) -> None:
        self.proto = proto
        self.session = open_session(proto, threads=threads)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """Return the output, or the outputs as a flat tuple if there are several.

        Raises:
            TargetError: the inputs do not fit the graph, or the runtime fails.
        """
        outputs = run_session(self.session, arrays_of(self.proto, args, kwargs)).values()
        tensors = tuple(torch.from_numpy(array) for array in outputs)
        return tensors[0] if len(tensors) == 1 else tensors


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype in (torch.float16, torch.bfloat16) else plain).numpy()


def _difference(left: Tensor, right: Array) -> float:
    if tuple(left.shape) != right.shape:
        return float("inf")
    gap = np.abs(left.detach().double().numpy() - right.astype(np.float64))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
