"""Recurrent layers as one operator in a traced graph.

``torch.export`` unrolls ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` over the time steps of the example. On a throwaway copy
their forward is replaced by one operator that has shapes but no values; a packed sequence is traced as its padded
batch, so it is counted at its padded length.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

packing: Any = sys.modules["torch.nn.utils.rnn"]

torch.library.define(
    "gossamer::recurrent",
    "(Tensor input, Tensor[] states, Tensor[] weights, int batch, int layers, int ways, int hidden, int out)"
    " -> Tensor[]",
)


def _shapes(given: Tensor, *rest: Any) -> list[Tensor]:
    """Return outputs, last states and last cells; ``batch`` is the size of the batch, 0 for one plain sequence."""
    batch, layers, ways, hidden, out = rest[2:]
    lead = (layers * ways, batch) if batch else (layers * ways,)
    return [
        given.new_empty(*given.shape[:-1], ways * out),
        given.new_empty(*lead, out),
        given.new_empty(*lead, hidden),
    ]


torch.library.register_fake("gossamer::recurrent", _shapes)


_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)


def make_opaque(model: nn.Module) -> None:
    """Let every recurrent layer of ``model``, a throwaway copy, be traced as one operator.

    A subclass with a forward of its own is left as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and type(module).forward in _FORWARDS:
            module.forward = partial(_forward, module)


@contextmanager
def padded_sequences() -> Iterator[None]:
    """Let torch's packing functions keep the padded batch while a model is traced."""
    kernels = packing._VF  # noqa: SLF001  # the only place that every packing function passes
    packing._VF = _Padded()  # noqa: SLF001
    try:
        yield
    finally:
        packing._VF = kernels  # noqa: SLF001


class _Padded:
    """Stands in for torch's packing kernels: the packed data is the padded, time-first batch itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch._VF, name)  # noqa: SLF001  # what the replaced name stands for

    @staticmethod
    def _pack_padded_sequence(batch: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:  # noqa: FBT001
        return (batch.transpose(0, 1) if batch_first else batch), lengths

    @staticmethod
    def _pad_packed_sequence(data: Tensor, lengths: Tensor, batch_first: bool, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: FBT001
        return (data.transpose(0, 1) if batch_first else data), lengths


def _forward(module: nn.RNNBase, /, input: Tensor | PackedSequence, hx: Any = None) -> Any:  # noqa: A002  # torch's names
    given, state = input, hx
    data = given.data if isinstance(given, PackedSequence) else given
    first = module.batch_first and not isinstance(given, PackedSequence)
    batch = data.shape[0 if first else 1] if data.ndim == 3 else 0
    states = list(state) if isinstance(state, tuple) else [] if state is None else [state]
    outputs, last, cells = torch.ops.gossamer.recurrent(
        data,
        states,
        [getattr(module, name) for name in module._flat_weights_names],  # noqa: SLF001  # in the order of cells
        batch,
        module.num_layers,
        2 if module.bidirectional else 1,
        module.hidden_size,
        module.proj_size or module.hidden_size,
    )
    if isinstance(given, PackedSequence):
        outputs = PackedSequence(outputs, given.batch_sizes, given.sorted_indices, given.unsorted_indices)
    return outputs, (last, cells) if isinstance(module, nn.LSTM) else last
