"""One call of an operator as the index rules see it, and what several rules need."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gossamer.model.coupling.labels import Block, Labels, Space, Tagged


@dataclass(frozen=True)
class Number:
    """A size that an operator was called with; if code holds it as a constant, a cut must change that constant.

    Attributes:
        module: path of the module that called the operator.
        source: line of the user's code.
        value: the size.
        labels: (value, any): the positions that it counts.
    """

    module: str
    source: str
    value: int
    labels: Labels


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        space: all labels.
        args: its arguments by the names of its schema; tensors are :class:`Tagged`.
        shapes: shapes of its outputs.
        module: path of the calling module.
        source: line of the user's code, or the operator's name.
        numbers: sizes met so far.
        kernels: labels of the input channels of each grouped convolution's weight, by the weight's first label.
    """

    space: Space
    args: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    module: str
    source: str
    numbers: list[Number] = field(default_factory=list)
    kernels: dict[int, Labels] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0] if self.shapes else ()

    def get(self, name: str, default: Any = None) -> Any:
        """Return the argument called ``name``."""
        return self.args.get(name, default)

    def tensor(self, *names: str) -> Tagged:
        """Return the first argument of these names that there is."""
        found: Tagged = next(self.args[name] for name in names if name in self.args)
        return found

    def tensors(self) -> list[Tagged]:
        """Return all tensors among the arguments, those in lists too."""
        found: list[Tagged] = []
        for value in self.args.values():
            found += [part for part in (value if isinstance(value, list | tuple) else [value]) if _is_tensor(part)]
        return found

    def number(self, value: int, labels: Labels) -> None:
        """Note that the operator was given ``value``, which counts the first axis of ``labels``."""
        self.numbers.append(Number(self.module, self.source, value, labels.reshape(labels.shape[0], -1)))

    def sizes(self, tensor: Tagged) -> None:
        """Note all sizes of labelled dimensions of ``tensor``."""
        for block in tensor.blocks:
            for axis, dim in enumerate(block.dims):
                self.number(tensor.shape[dim], np.moveaxis(block.labels, axis, 0))

    def meet(self, left: Labels | None, right: Labels | None) -> None:
        """Let two dimensions be one."""
        self.space.meet(left, right, f"it meets a dimension of fixed size at {self.source}")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tagged)


def tagged(shape: tuple[int, ...], dim: int, labels: Labels | None, *, rest: Tagged | None = None) -> Tagged:
    """Return a tensor whose ``dim`` has ``labels``; other dimensions as in ``rest``."""
    dim %= len(shape)
    blocks = tuple(block for block in (rest.blocks if rest else ()) if dim not in block.dims)
    return Tagged(shape, blocks if labels is None else (*blocks, Block((dim,), labels)))


def labels_of(tensor: Tagged | None, dim: int) -> Labels | None:
    """Return the labels of one dimension, None where it is of fixed size."""
    block = None if tensor is None else tensor.block(dim)
    return None if block is None else block.labels


def drop_from(call: Call, tensor: Tagged, first: int) -> Tagged:
    """Return ``tensor`` with the dimensions from ``first`` on of fixed size: space, whose positions are no units."""
    for dim in range(first, len(tensor.shape)):
        block = tensor.block(dim)
        if block is not None and len(block.dims) == 1:
            call.space.stick(block.labels, f"it is used as space at {call.source}")
        tensor = call.space.drop(tensor, dim)
    return tensor


def leading(tensor: Tagged, count: int) -> Tagged:
    """Return the tensor."""
    blocks = tuple(block for block in tensor.blocks if max(block.dims) < count)
    return Tagged(tensor.shape[:count], blocks, tensor.weight)


def without(tensor: Tagged, dim: int) -> Tagged:
    """Return the tensor."""
    return Tagged(tensor.shape, tuple(block for block in tensor.blocks if dim not in block.dims), tensor.weight)
