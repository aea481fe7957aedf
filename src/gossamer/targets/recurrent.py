"""Recurrent layers as single ONNX nodes.

``torch.export`` unrolls ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` over a fixed number of steps. On a throwaway copy of the
model their ``forward`` is replaced by one that emits ONNX's own ``RNN``, ``LSTM`` and ``GRU`` operators (ONNX operator
specification), with free batch and time axes. The weights stay the original ``state_dict`` tensors: ONNX orders gates
differently (LSTM i, o, f, c against torch's i, f, g, o; GRU z, r, h against r, z, n), and the reordering is done by
nodes on the weights, which a runtime evaluates once when it loads the graph.

A packed sequence becomes its padded batch and the lengths, which ONNX takes as ``sequence_lens``. A projection (Sak,
Senior and Beaufays 2014, arXiv 1402.1128) has no ONNX form; with a zero initial state it is the same as a plain LSTM
whose recurrent matrix is ``W_hh @ W_hr`` and whose outputs are multiplied by ``W_hr``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn as packing
from torch.nn.utils.rnn import PackedSequence

from gossamer.errors import TargetError

State = Tensor | tuple[Tensor, Tensor] | None

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def use_native_operators(model: nn.Module) -> None:
    """Let the recurrent layers of ``model``, a throwaway copy, emit ONNX's recurrent operators when traced."""
    for path, module in model.named_modules():
        if type(module) in (nn.LSTM, nn.GRU, nn.RNN):
            module.forward = partial(_forward, module, path)


@contextmanager
def padded_sequences() -> Iterator[None]:
    """Let torch's packing functions keep the padded batch, so that they can be traced with lengths as an input."""
    kernels = vars(packing)["_VF"]  # the one name through which every packing function calls its kernel
    vars(packing)["_VF"] = _Padded()
    try:
        yield
    finally:
        vars(packing)["_VF"] = kernels


class _Padded:
    """Stands in for torch's packing kernels: the 'packed data' is the padded, time-first batch itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch._VF, name)  # noqa: SLF001  # what the replaced name stands for

    @staticmethod
    def _pack_padded_sequence(batch: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:  # noqa: FBT001
        return (batch.transpose(0, 1) if batch_first else batch), lengths

    @staticmethod
    def _pad_packed_sequence(
        data: Tensor,
        lengths: Tensor,
        batch_first: bool,  # noqa: FBT001
        padding: float,
        total: int,  # noqa: ARG004  # the exported sequence keeps the length of the input
    ) -> tuple[Tensor, Tensor]:
        if padding:
            raise TargetError("pad_packed_sequence: only padding with zeros can be exported", hint="mask it afterwards")
        return (data.transpose(0, 1) if batch_first else data), lengths


def _forward(module: nn.RNNBase, path: str, /, input: Tensor | PackedSequence, hx: State = None) -> Any:  # noqa: A002  # torch's names, for whoever calls by them
    """Do what ``module`` does, by ONNX operators."""
    given, state = input, hx
    if isinstance(given, PackedSequence):
        x, lengths = given.data, given.batch_sizes
        if given.sorted_indices is not None and state is not None:
            state = _reorder(state, given.sorted_indices)
        y, after = _layers(module, path, x, state, lengths)
        if given.unsorted_indices is not None:
            after = _reorder(after, given.unsorted_indices)
        return PackedSequence(y, lengths, given.sorted_indices, given.unsorted_indices), after
    batched = given.dim() == 3
    x = given if batched else given.unsqueeze(0 if module.batch_first else 1)
    x = x.transpose(0, 1) if module.batch_first else x
    if state is not None and not batched:
        state = _each(state, lambda part: part.unsqueeze(1))
    y, after = _layers(module, path, x, state, None)
    y = y.transpose(0, 1) if module.batch_first else y
    if not batched:
        return y.squeeze(0 if module.batch_first else 1), _each(after, lambda part: part.squeeze(1))
    return y, after


def _layers(
    module: nn.RNNBase, path: str, x: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    """Run the stacked layers over ``x`` of shape (time, batch, inputs)."""
    kind = type(module).__name__
    ways = 2 if module.bidirectional else 1
    parts = () if state is None else state if isinstance(state, tuple) else (state,)
    if module.proj_size and parts:
        raise TargetError(
            f"{path or kind}: an LSTM with a projection and an initial state has no ONNX form",
            hint="leave the initial state out (zeros), or use an LSTM without proj_size",
        )
    afters: list[tuple[Tensor, ...]] = []
    for layer in range(module.num_layers):
        firsts = [part[layer * ways : (layer + 1) * ways] for part in parts]
        y, *after = _layer(module, layer, x, firsts, lengths)
        y, last = _project(module, layer, y, after[0])
        x = y.transpose(1, 2).flatten(2)
        afters.append((last, *after[1:]))
    merged = tuple(torch.cat(of_layers, 0) for of_layers in zip(*afters, strict=True))
    return x, (merged[0], merged[1]) if kind == "LSTM" else merged[0]


def _layer(
    module: nn.RNNBase, layer: int, x: Tensor, firsts: list[Tensor], lengths: Tensor | None
) -> tuple[Tensor, ...]:
    """Emit one node; returns y (time, ways, batch, hidden), h (ways, batch, hidden) and, for an LSTM, c."""
    kind = type(module).__name__
    ways = 2 if module.bidirectional else 1
    hidden = module.hidden_size
    inputs = torch.cat([_gates(kind, _weight(module, "weight_ih", layer, way)) for way in range(ways)])
    recurrent = torch.cat([_gates(kind, _recurrent(module, layer, way)) for way in range(ways)])
    bias = None
    if module.bias:
        names = ("bias_ih", "bias_hh")
        rows = [
            torch.cat([_gates(kind, _weight(module, name, layer, way)) for name in names], 1) for way in range(ways)
        ]
        bias = torch.cat(rows)
    steps, batch = x.shape[0], x.shape[1]
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if ways == 2 else "forward"}
    if isinstance(module, nn.GRU):
        attributes["linear_before_reset"] = 1
    elif isinstance(module, nn.RNN):
        attributes["activations"] = ["Relu" if module.nonlinearity == "relu" else "Tanh"] * ways
    shapes = [[steps, ways, batch, hidden], [ways, batch, hidden], [ways, batch, hidden]]
    outputs = 3 if kind == "LSTM" else 2
    found = torch.onnx.ops.symbolic_multi_out(
        kind,
        (x, inputs, recurrent, bias, None if lengths is None else lengths.to(torch.int32), *firsts),
        attributes,
        dtypes=[x.dtype] * outputs,
        shapes=shapes[:outputs],
    )
    return tuple(found)


def _weight(module: nn.RNNBase, name: str, layer: int, way: int) -> Tensor:
    return getattr(module, f"{name}_l{layer}{'_reverse' if way else ''}")  # type: ignore[no-any-return]


def _recurrent(module: nn.RNNBase, layer: int, way: int) -> Tensor:
    matrix = _weight(module, "weight_hh", layer, way)
    return matrix @ _weight(module, "weight_hr", layer, way) if module.proj_size else matrix


def _project(module: nn.RNNBase, layer: int, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    if not module.proj_size:
        return y, h
    ways = range(y.shape[1])
    maps = torch.stack([_weight(module, "weight_hr", layer, way).T for way in ways])  # (ways, hidden, projected)
    return y @ maps, h @ maps


def _gates(kind: str, stacked: Tensor) -> Tensor:
    """Return ``stacked`` (gates * hidden, ...) in ONNX's order of gates, with a leading axis of one direction."""
    order = _GATES[kind]
    if len(order) == 1:
        return stacked.unsqueeze(0)
    apart = stacked.reshape(len(order), -1, *stacked.shape[1:])
    return apart.index_select(0, torch.tensor(order)).reshape(1, *stacked.shape)


def _reorder(state: Tensor | tuple[Tensor, Tensor], order: Tensor) -> Any:
    return _each(state, lambda part: part.index_select(1, order))


def _each(state: Any, change: Any) -> Any:
    return tuple(change(part) for part in state) if isinstance(state, tuple) else change(state)
