"""Labels: where the positions of a dimension come from.

Each position of each dimension of a parameter has a label, a number. Operators carry labels from tensor to tensor;
where two positions must be cut together, their labels are made the same. A tensor's dimensions are labelled in blocks:
most blocks are one dimension, but after a reshape the labels of several dimensions may only make sense together
(channels seen as heads times widths), and a block then holds a whole grid of labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Labels of one or more dimensions.

    Attributes:
        dims: the dimensions, rising.
        labels: one label per position, an array with the sizes of ``dims``.
    """

    dims: tuple[int, ...]
    labels: Labels


@dataclass(frozen=True)
class Tagged:
    """A tensor as the analysis sees it: its shape, and the labels of those dimensions that may be cut.

    Attributes:
        shape: sizes.
        blocks: labelled dimensions; a dimension is in one block at most, and those in none are of fixed size.
        weight: whether it is made of parameters and buffers alone.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    weight: bool = False

    def block(self, dim: int) -> Block | None:
        """Return the block that ``dim`` is in."""
        dim %= max(len(self.shape), 1)
        return next((block for block in self.blocks if dim in block.dims), None)

    def moved(self, order: Sequence[int], shape: tuple[int, ...]) -> "Tagged":
        """Return the tensor with dimension ``d`` at place ``order[d]`` of ``shape``; -1 takes a dimension away."""
        blocks = []
        for block in self.blocks:
            places = [order[dim] for dim in block.dims]
            if -1 not in places:
                turned = np.argsort(places)
                blocks.append(Block(tuple(sorted(places)), block.labels.transpose(turned)))
        return Tagged(shape, tuple(blocks), self.weight)


@dataclass
class Space:
    """All labels of a model and what is known of them.

    Attributes:
        count: how many labels there are.
        stuck: labels that cannot be cut, with the reason.
        grids: grids of labels that a program sees as a rectangle: it must stay one.
        lanes: rows of labels that must lose equally many.
        mixed: labels whose positions a normalisation, a sum or a product of activations mixes with others.
        reads: labels of weights' positions that multiply an input.
        makes: labels of weights' positions that make an output.
    """

    count: int = 0
    stuck: list[tuple[Labels, str]] = field(default_factory=list)
    grids: list[Labels] = field(default_factory=list)
    lanes: list[Labels] = field(default_factory=list)
    mixed: list[Labels] = field(default_factory=list)
    reads: list[Labels] = field(default_factory=list)
    makes: list[Labels] = field(default_factory=list)
    _pairs: list[tuple[Labels, Labels]] = field(default_factory=list)

    def fresh(self, *shape: int) -> Labels:
        """Return new labels in an array of ``shape``."""
        size = int(np.prod(shape, dtype=np.int64))
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64).reshape(shape)

    def same(self, left: Labels, right: Labels) -> None:
        """Let each label of ``left`` be cut together with the one of ``right`` at its place."""
        left, right = np.broadcast_arrays(left, right)
        self._pairs.append((left.ravel(), right.ravel()))

    def stick(self, labels: Labels, reason: str) -> None:
        """Say that ``labels`` cannot be cut."""
        self.stuck.append((labels.ravel(), reason))

    def stick_all(self, tensors: Sequence[Tagged], reason: str) -> None:
        """Say that nothing in ``tensors`` can be cut."""
        for tensor in tensors:
            for block in tensor.blocks:
                self.stick(block.labels, reason)

    def roots(self) -> Labels:
        """Return for each label the smallest of those that are cut together with it."""
        return components(self.count, self._pairs)

    def drop(self, tensor: Tagged, dim: int) -> Tagged:
        """Return ``tensor`` with ``dim`` of fixed size: in a grid, all positions along it are cut together."""
        dim %= max(len(tensor.shape), 1)
        block = tensor.block(dim)
        if block is None:
            return tensor
        others = [other for other in tensor.blocks if other is not block]
        axis = block.dims.index(dim)
        if len(block.dims) > 1:
            first = block.labels.take([0], axis)
            self.same(first, block.labels)
            others.append(Block(tuple(d for d in block.dims if d != dim), first.squeeze(axis)))
        return Tagged(tensor.shape, tuple(others), tensor.weight)

    def alone(self, tensor: Tagged, dim: int) -> tuple[Tagged, Labels | None]:
        """Return ``tensor`` with ``dim`` in a block of its own, and the labels of that block."""
        dim %= max(len(tensor.shape), 1)
        block = tensor.block(dim)
        for other in () if block is None else block.dims:
            if other != dim:
                tensor = self.drop(tensor, other)
        block = tensor.block(dim)
        return tensor, None if block is None else block.labels

    def meet(self, left: Labels | None, right: Labels | None, reason: str) -> None:
        """Let two dimensions be one: cut together, or not at all where one of them is of fixed size."""
        if left is not None and right is not None:
            self.same(left, right)
        elif left is not None:
            self.stick(left, reason)
        elif right is not None:
            self.stick(right, reason)


def components(count: int, pairs: Sequence[tuple[Labels, Labels]]) -> Labels:
    """Return for each of ``count`` labels the smallest label it is joined to by ``pairs``, through any chain."""
    roots = np.arange(count, dtype=np.int64)
    if not pairs:
        return roots
    left = np.concatenate([pair[0] for pair in pairs])
    right = np.concatenate([pair[1] for pair in pairs])
    while True:
        a, b = roots[left], roots[right]
        if np.array_equal(a, b):
            return roots
        low = np.minimum(a, b)
        np.minimum.at(roots, a, low)
        np.minimum.at(roots, b, low)
        while not np.array_equal(jumped := roots[roots], roots):
            roots = jumped


def combine(space: Space, parts: Sequence[Tagged], shape: tuple[int, ...], where: str) -> Tagged:
    """Return the outcome of an operator that works position by position on ``parts`` (broadcast to ``shape``)."""
    aligned = []
    for part in parts:
        shift = len(shape) - len(part.shape)
        moved = part.moved(range(shift, len(shape)), (1,) * shift + part.shape)
        aligned.append(moved)
    blocks = []
    for dims in _joined([block.dims for part in aligned for block in part.blocks]):
        common = set(dims).intersection(*(b.dims for part in aligned for b in part.blocks if set(b.dims) & set(dims)))
        here = []
        for part in aligned:
            narrowed = part
            for dim in dims:
                if dim not in common:
                    narrowed = space.drop(narrowed, dim)
            here.append(narrowed)
        found = [block for part in here for block in part.blocks if set(block.dims) & set(dims)]
        if not common or not found:
            continue
        first = found[0].labels
        for block in found[1:]:
            space.same(first, block.labels)
        for part in here:
            lacks = not any(set(block.dims) & set(dims) for block in part.blocks)
            if lacks and any(part.shape[dim] > 1 for dim in common):
                space.stick(first, f"it meets a tensor of fixed size at {where}")
        blocks.append(Block(found[0].dims, first))
    return Tagged(shape, tuple(blocks), all(part.weight for part in parts))


def reshape(space: Space, tensor: Tagged, shape: tuple[int, ...]) -> Tagged:
    """Return ``tensor`` seen in another shape of the same size; the labels follow exactly."""
    blocks: list[Block] = []
    taken: set[int] = set()
    segments = segments_of(tensor.shape, shape)
    for block in tensor.blocks:
        touched = [(ins, outs) for ins, outs in segments if set(ins) & set(block.dims)]
        ins = tuple(dim for segment in touched for dim in segment[0])
        outs = tuple(dim for segment in touched for dim in segment[1])
        if taken & set(outs):
            space.stick(block.labels, "a reshape merges it with another dimension that can be cut")
            continue
        taken |= set(outs)
        places = [tensor.shape[dim] if dim in block.dims else 1 for dim in ins]
        whole = np.broadcast_to(block.labels.reshape(places), [tensor.shape[dim] for dim in ins])
        found = _needed(whole.reshape([shape[dim] for dim in outs]), outs)
        if len(found.dims) > 1 and len(block.dims) == 1:
            space.grids.append(found.labels.reshape(found.labels.shape[0], -1))
        blocks.append(found)
    return Tagged(shape, tuple(blocks), tensor.weight)


def segments_of(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shortest runs of dimensions of ``old`` and ``new`` with equal products; sizes of 1 are in none."""
    ins = [dim for dim, size in enumerate(old) if size != 1]
    outs = [dim for dim, size in enumerate(new) if size != 1]
    found = []
    i = o = 0
    while i < len(ins) and o < len(outs):
        first, second = i, o
        left, right = old[ins[i]], new[outs[o]]
        i, o = i + 1, o + 1
        while left != right:
            if left < right:
                left *= old[ins[i]]
                i += 1
            else:
                right *= new[outs[o]]
                o += 1
        found.append((tuple(ins[first:i]), tuple(outs[second:o])))
    return found


def _needed(labels: Labels, dims: tuple[int, ...]) -> Block:
    """Return the block without the dimensions along which the labels do not change."""
    kept = []
    for axis, dim in enumerate(dims):
        first = labels.take([0], axis)
        if labels.shape[axis] > 1 and not np.array_equal(np.broadcast_to(first, labels.shape), labels):
            kept.append(dim)
    index = tuple(slice(None) if dim in kept else 0 for dim in dims)
    return Block(tuple(kept), np.ascontiguousarray(labels[index]))


def _joined(sets: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the unions of those sets that overlap, through any chain."""
    found: list[set[int]] = []
    for one in sets:
        merged = set(one)
        apart = []
        for other in found:
            if other & merged:
                merged |= other
            else:
                apart.append(other)
        found = [*apart, merged]
    return [tuple(sorted(one)) for one in found]
