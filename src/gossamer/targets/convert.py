"""From a module or a frozen model to the ONNX file a user takes away, and the check that it computes the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer.artifact.activations import module_of
from gossamer.codings.nodes import Array
from gossamer.model import Frozen
from gossamer.model.run import evaluation
from gossamer.targets.calls import arrays_of, outputs_of
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
    return lower_frozen(model, graph_of(model, args, kwargs, axes=axes), quantized=quantized).proto


def graph_of(
    frozen: Frozen, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, axes: Axes = "auto"
) -> onnx.ModelProto:
    """Return the float graph of ``frozen`` for :func:`lower_frozen`, with marks where outputs have grids.

    Args:
        frozen: what ``freeze`` returned.
        args: example inputs.
        kwargs: example keyword inputs.
        axes: ``auto`` leaves batch and time free where the model does; ``none`` fixes every axis.

    Raises:
        TargetError: the model cannot be exported, or the inputs do not fit it.
    """
    marks = (path for path in map(module_of, frozen.activations) if path is not None)
    return export(frozen.model, args, kwargs, axes=axes, marks=marks)


def lower_frozen(frozen: Frozen, graph: onnx.ModelProto, *, quantized: bool = True) -> Lowered:
    """Return the float ``graph`` of a frozen model (`graph_of`) with its codes; see :func:`gossamer.targets.fill`."""
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
    return graph_bytes(graph_of(frozen, args, kwargs), {*frozen.tensors, *frozen.aliases})


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
    with evaluation(model), torch.no_grad():
        outputs = model(*args, **(kwargs or {}))
    wanted = [leaf.cpu() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    got = run_session(open_session(proto), arrays_of(proto, args, kwargs)).values()
    return max(
        (_difference(left, right) for left, right in zip(wanted, got, strict=True)),
        default=0.0,
    )


class Runner:
    """A graph in ONNX Runtime that is called with torch tensors, as the model was; ``task.evaluate`` takes it.

    Args:
        proto: a complete graph.
        threads: threads of one operator.
    """

    def __init__(self, proto: onnx.ModelProto, *, threads: int = 1) -> None:
        self.proto = proto
        self.session = open_session(proto, threads=threads)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs as the model does; a graph of an older file gives several as a flat tuple.

        Raises:
            TargetError: the inputs do not fit the graph, or the runtime fails.
        """
        return outputs_of(self.proto, run_session(self.session, arrays_of(self.proto, args, kwargs)))


def _difference(left: Tensor, right: Array) -> float:
    if tuple(left.shape) != right.shape:
        return float("inf")
    gap = np.abs(left.detach().double().numpy() - right.astype(np.float64))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
