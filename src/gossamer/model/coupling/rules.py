"""One index rule per operator: which positions of its output come from which positions of its inputs.

A rule gets a :class:`Call` and returns its outputs as :class:`Tagged` tensors. To teach the analysis an operator, add a
line to :data:`RULES`. An operator without a rule freezes what it reads and is named with its source line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from gossamer.model.coupling.labels import Block, Labels, Space, Tagged, combine, reshape


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


def _one(shape: tuple[int, ...], dim: int, labels: Labels | None, *, rest: Tagged | None = None) -> Tagged:
    """Return a tensor whose ``dim`` has ``labels``; other dimensions as in ``rest``."""
    dim %= len(shape)
    blocks = tuple(block for block in (rest.blocks if rest else ()) if dim not in block.dims)
    return Tagged(shape, blocks if labels is None else (*blocks, Block((dim,), labels)))


def _labels(tensor: Tagged | None, dim: int) -> Labels | None:
    block = None if tensor is None else tensor.block(dim)
    return None if block is None else block.labels


def _pointwise(call: Call) -> Tagged:
    return combine(call.space, call.tensors(), call.shape, call.source)


def _same(call: Call) -> Tagged:
    """Return the first tensor as it is (dropout, contiguous, casts)."""
    tensor = call.tensors()[0]
    return Tagged(call.shape, tensor.blocks, tensor.weight)


def _drop_from(call: Call, tensor: Tagged, first: int) -> Tagged:
    """Return ``tensor`` with the dimensions from ``first`` on of fixed size."""
    for dim in range(first, len(tensor.shape)):
        tensor = call.space.drop(tensor, dim)
    return tensor


def _stick_rest(call: Call, tensor: Tagged, kept: Sequence[int], reason: str) -> None:
    for block in tensor.blocks:
        if not set(block.dims) & set(kept):
            call.space.stick(block.labels, reason)


def _matrix(call: Call, weight: Tagged, reads: Labels | None, makes: Labels | None) -> None:
    if weight.weight:
        call.space.reads += [] if reads is None else [reads]
        call.space.makes += [] if makes is None else [makes]


def _linear(call: Call) -> Tagged:
    x, given = call.space.alone(call.tensor("input"), -1)
    weight = call.tensor("weight")
    reads, makes = _labels(weight, 1), _labels(weight, 0)
    call.meet(given, reads)
    bias = call.get("bias")
    if bias is not None:
        call.meet(_labels(bias, 0), makes)
    _matrix(call, weight, reads, makes)
    return _one(call.shape, -1, makes, rest=x)


def _product(call: Call, left: Tagged, right: Tagged, shape: tuple[int, ...]) -> Tagged:
    """(…, m, k) times (…, k, n); a vector stands for one row or column."""
    space = call.space
    x, inner = space.alone(left, -1)
    y, other = space.alone(right, -2 if len(right.shape) > 1 else -1)
    call.meet(inner, other)
    for one, labels in ((left, inner), (right, other)):
        if one.weight and labels is not None:
            space.reads.append(labels)
    outs: list[Labels | None] = []
    if len(left.shape) > 1:
        outs.append(_labels(x, -2))
    if len(right.shape) > 1:
        outs.append(_labels(y, -1))
        if right.weight and outs[-1] is not None:
            space.makes.append(outs[-1])
    lead = tuple(shape[: len(shape) - len(outs)])
    batches = [_lead(one, len(one.shape) - 2) for one in (x, y) if len(one.shape) > 2]
    out = combine(space, batches, lead, call.source) if lead else Tagged(())
    tagged = Tagged(shape, out.blocks)
    for place, labels in enumerate(outs):
        tagged = _one(shape, len(lead) + place, labels, rest=tagged)
    return tagged


def _lead(tensor: Tagged, count: int) -> Tagged:
    blocks = tuple(block for block in tensor.blocks if max(block.dims) < count)
    return Tagged(tensor.shape[:count], blocks, tensor.weight)


def _matmul(call: Call) -> Tagged:
    left = call.tensor("self", "batch1")
    return _product(call, left, call.tensor("other", "mat2", "vec", "tensor", "batch2"), call.shape)


def _addmm(call: Call) -> Tagged:
    out = _product(call, call.tensor("mat1", "batch1", "mat"), call.tensor("mat2", "batch2", "vec"), call.shape)
    return combine(call.space, [call.tensor("self"), out], call.shape, call.source)


def _einsum(call: Call) -> Tagged | None:
    equation = call.get("equation").replace(" ", "")
    if "." in equation or "->" not in equation:
        return None
    terms, _, out = equation.partition("->")
    names: dict[str, Labels | None] = {}
    for term, tensor in zip(terms.split(","), call.get("tensors"), strict=True):
        for dim, letter in enumerate(term):
            tensor, labels = call.space.alone(tensor, dim)  # noqa: PLW2901  # a grid must be seen letter by letter
            if letter in names:
                call.meet(names[letter], labels)
            names[letter] = labels if names.get(letter) is None else names[letter]
            if tensor.weight and labels is not None:
                (call.space.makes if letter in out else call.space.reads).append(labels)
    found = Tagged(call.shape)
    for dim, letter in enumerate(out):
        found = _one(call.shape, dim, names[letter], rest=found)
    return found


def _convolution(call: Call) -> Tagged:
    return _kernel(call, transposed=False)


def _transposed(call: Call) -> Tagged:
    return _kernel(call, transposed=True)


def _kernel(call: Call, *, transposed: bool) -> Tagged:
    space, weight, groups = call.space, call.tensor("weight"), int(call.get("groups", 1))
    channels = len(call.shape) - (len(weight.shape) - 1)  # 1, or 0 for an input without a batch
    x = _drop_from(call, call.tensor("input"), channels + 1)
    x, given = space.alone(x, channels)
    _stick_rest(call, weight, (0, 1), "it is the size of a kernel")
    first, second = _labels(weight, 0), _labels(weight, 1)
    reads, makes = (first, second) if transposed else (second, first)
    if groups > 1:
        reads, makes = _grouped(call, weight, groups, given, transposed=transposed)
    else:
        call.meet(given, reads)
        _matrix(call, weight, reads, makes)
    bias = call.get("bias")
    if bias is not None:
        call.meet(_labels(bias, 0), makes)
    return _one(call.shape, channels, makes, rest=_without(x, channels))


def _without(tensor: Tagged, dim: int) -> Tagged:
    return Tagged(tensor.shape, tuple(block for block in tensor.blocks if dim not in block.dims), tensor.weight)


def _grouped(
    call: Call, weight: Tagged, groups: int, given: Labels | None, *, transposed: bool
) -> tuple[Labels | None, Labels | None]:
    """Couple a grouped kernel; its second dimension means other channels in each group."""
    space, first, second = call.space, _labels(weight, 0), _labels(weight, 1)
    if first is None or (second is None and transposed and len(first) > groups):
        call.meet(given, None)
        space.stick_all([weight], f"the shape of a grouped convolution at {call.source}")
        return None, None
    if second is None:  # one channel a group: it goes with the channel that it makes
        space.makes.append(first)
        call.meet(None if given is None else given[:, None], first.reshape(groups, -1))
        return given, first
    # A position of the second dimension stands for another channel in each group: labels of its own for all of them.
    wide = call.kernels.setdefault(int(second.flat[0]), space.fresh(groups * len(second)))
    reads, makes = (first, wide) if transposed else (wide, first)
    call.meet(given, reads)
    space.lanes += [reads.reshape(groups, -1), makes.reshape(groups, -1)]
    space.reads.append(reads)
    space.makes.append(makes)
    return reads, makes


def _norm_over_batch(call: Call) -> Tagged:
    """Batch and instance norm: every channel for itself."""
    x = _drop_from(call, call.tensor("input"), 2)
    x, labels = call.space.alone(x, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        part = call.get(name)
        if part is not None:
            call.meet(labels, _labels(part, 0))
    return x


def _group_norm(call: Call) -> Tagged:
    x = _drop_from(call, call.tensor("input"), 2)
    x, labels = call.space.alone(x, 1)
    groups = int(call.get("num_groups"))
    for name in ("weight", "bias"):
        part = call.get(name)
        if part is not None:
            call.meet(labels, _labels(part, 0))
    if labels is not None and groups < labels.size:
        call.space.mixed.append(labels)
        if groups > 1:
            call.space.lanes.append(labels.reshape(groups, -1))
    return x


def _layer_norm(call: Call) -> Tagged:
    x = call.tensor("input")
    first = len(x.shape) - len(call.get("normalized_shape"))
    for dim in range(first, len(x.shape)):
        x, labels = call.space.alone(x, dim)
        for name in ("weight", "bias"):
            part = call.get(name)
            if part is not None:
                call.meet(labels, _labels(part, dim - first))
        if labels is not None:
            call.space.mixed.append(labels)
            call.number(x.shape[dim], labels)
    return x


def _pool(call: Call) -> list[Tagged]:
    """Keep batch and channels; positions in space are mixed."""
    spatial = {"kernel_size": 0, "output_size": 0}
    given = next((call.get(name) for name in spatial if isinstance(call.get(name), list | tuple)), None)
    x = call.tensor("self", "input")
    kept = len(x.shape) - (len(given) if given is not None else len(x.shape) - 2)
    x = _drop_from(call, x, kept)
    return [Tagged(shape, x.blocks) for shape in call.shapes]


def _resize(call: Call) -> Tagged:
    x = _drop_from(call, call.tensor("self", "input"), 2)
    return Tagged(call.shape, x.blocks)


def _reduce(call: Call) -> list[Tagged]:
    """Sum, mean or extreme over some dimensions."""
    x = call.tensor("self")
    dims = call.get("dim")
    every = range(len(x.shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = sorted(dim % len(x.shape) for dim in every)
    for dim in gone:
        block = x.block(dim)
        if block is not None:
            call.space.mixed.append(block.labels.ravel())
            x = _without(x, dim) if len(block.dims) == 1 else call.space.drop(x, dim)
    keep = bool(call.get("keepdim", False))
    order, place = [], 0
    for dim in range(len(x.shape)):
        order.append(dim if keep else -1 if dim in gone else place)
        place += dim not in gone
    return [x.moved(order, shape) for shape in call.shapes]


def _mix(call: Call) -> Tagged:
    """Softmax and its like: one dimension is mixed."""
    x = call.tensor("self", "input")
    x, labels = call.space.alone(x, int(call.get("dim")))
    if labels is not None:
        call.space.mixed.append(labels)
    return x


def _reshape(call: Call) -> Tagged:
    found = reshape(call.space, call.tensor("self"), call.shape)
    call.sizes(found)
    return found


def _flatten(call: Call) -> Tagged:
    return reshape(call.space, call.tensor("self"), call.shape)


def _permute(call: Call) -> Tagged:
    x = call.tensor("self")
    n = len(x.shape)
    dims = call.get("dims")
    if dims is None:
        dims = list(range(n))
        pairs = (call.get("dim0", -2), call.get("dim1", -1)) if n > 1 else (0, 0)
        a, b = (dim % n for dim in pairs)
        dims[a], dims[b] = dims[b], dims[a]
    order = [0] * n
    for place, dim in enumerate(dims):
        order[dim % n] = place
    return x.moved(order, call.shape)


def _cat(call: Call) -> Tagged:
    parts = [part for part in call.get("tensors") if part.shape != (0,)]
    dim = int(call.get("dim", 0)) % len(call.shape)
    rows = []
    singles = []
    for part in parts:
        single, labels = call.space.alone(part, dim)
        if labels is None:
            labels = call.space.fresh(part.shape[dim])
            call.space.stick(labels, f"it lies beside a tensor of fixed size at {call.source}")
        rows.append(labels)
        singles.append(_without(single, dim))
    flat = tuple(1 if d == dim else size for d, size in enumerate(call.shape))
    others = [Tagged(tuple(1 if d == dim else s for d, s in enumerate(p.shape)), p.blocks, p.weight) for p in singles]
    rest = combine(call.space, others, flat, call.source)
    known = any(part.block(dim) is not None for part in parts)
    return _one(call.shape, dim, np.concatenate(rows) if known else None, rest=Tagged(call.shape, rest.blocks))


def _stack(call: Call) -> Tagged:
    dim = int(call.get("dim", 0)) % len(call.shape)
    one = tuple(size for d, size in enumerate(call.shape) if d != dim)
    rest = combine(call.space, call.get("tensors"), one, call.source)
    return rest.moved([d + (d >= dim) for d in range(len(one))], call.shape)


def _split(call: Call) -> list[Tagged]:
    """Split and chunk: parts of a dimension, each a tensor."""
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    block = x.block(dim)
    sizes = [shape[dim] for shape in call.shapes]
    if block is None:
        return [Tagged(shape, x.blocks, x.weight) for shape in call.shapes]
    axis = block.dims.index(dim)
    rest = [other for other in x.blocks if other is not block]
    parts = np.split(block.labels, np.cumsum(sizes)[:-1], axis)
    if len(set(sizes)) == 1:
        call.space.lanes.append(np.stack([part.ravel() for part in parts]))
    for part in parts:
        call.number(part.shape[axis], np.moveaxis(part, axis, 0))
    return [
        Tagged(shape, (*rest, Block(block.dims, part)), x.weight)
        for shape, part in zip(call.shapes, parts, strict=True)
    ]


def _slice(call: Call) -> Tagged:
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    block = x.block(dim)
    size, step = x.shape[dim], int(call.get("step", 1))
    if block is None or call.shape[dim] == size:
        return Tagged(call.shape, x.blocks, x.weight)
    start, stop, _ = slice(call.get("start"), call.get("end"), step).indices(size)
    axis = block.dims.index(dim)
    labels = np.moveaxis(block.labels, axis, 0)
    parts = [part for part in (labels[:start], labels[start:stop], labels[stop:]) if len(part)]
    if step != 1 or len({len(part) for part in parts}) > 1:
        call.space.stick(block.labels, f"it is sliced by position at {call.source}")
        return Tagged(call.shape, tuple(other for other in x.blocks if other is not block), x.weight)
    call.space.lanes.append(np.stack([part.ravel() for part in parts]))
    for part in parts:
        call.number(len(part), part)
    taken = Block(block.dims, np.moveaxis(labels[start:stop], 0, axis))
    return Tagged(call.shape, (*(other for other in x.blocks if other is not block), taken), x.weight)


def _select(call: Call) -> Tagged:
    x = call.tensor("self")
    return _pick(call, x, int(call.get("dim", 0)) % len(x.shape), int(call.get("index", 0)), call.shape)


def _pick(call: Call, x: Tagged, dim: int, index: int, shape: tuple[int, ...]) -> Tagged:
    """Return one position of ``dim``."""
    block = x.block(dim)
    order = [-1 if d == dim else d - (d > dim) for d in range(len(x.shape))]
    if block is None:
        return x.moved(order, shape)
    if len(block.dims) == 1:
        call.space.stick(block.labels, f"one position of it is picked at {call.source}")
        return _without(x, dim).moved(order, shape)
    axis = block.dims.index(dim)
    rest = tuple(other for other in x.blocks if other is not block)
    picked = Block(tuple(d for d in block.dims if d != dim), np.asarray(block.labels.take(index, axis)))
    holed = Tagged(x.shape, (*rest, picked), x.weight)
    return holed.moved([0 if place == -1 else place for place in order], shape)


def _unbind(call: Call) -> list[Tagged]:
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    return [_pick(call, x, dim, index, shape) for index, shape in enumerate(call.shapes)]


def _expand(call: Call) -> Tagged:
    x = call.tensor("self")
    shift = len(call.shape) - len(x.shape)
    found = x.moved(range(shift, len(call.shape)), call.shape)
    call.sizes(found)
    return found


def _repeat(call: Call) -> Tagged | None:
    x = call.tensor("self")
    times = call.get("repeats")
    if not isinstance(times, list | tuple):
        return None
    shift = len(call.shape) - len(x.shape)
    found = x.moved(range(shift, len(call.shape)), call.shape)
    for dim, count in enumerate(times):
        if count != 1 and found.block(dim) is not None:
            found, labels = call.space.alone(found, dim)
            found = _one(call.shape, dim, np.tile(labels, count) if labels is not None else None, rest=found)
    return found


def _pad(call: Call) -> Tagged:
    x, pads = call.tensor("self"), list(call.get("pad"))
    found = x
    for place in range(0, len(pads), 2):
        dim = len(x.shape) - 1 - place // 2
        before, after = pads[place], pads[place + 1]
        if (before, after) == (0, 0) or x.block(dim) is None:
            continue
        found, labels = call.space.alone(found, dim)
        ends = [call.space.fresh(max(count, 0)) for count in (before, after)]
        for end in ends:
            if end.size:
                call.number(end.size, end)
        if labels is None or min(before, after) < 0 or call.get("mode", "constant") != "constant":
            call.space.stick_all([found], f"it is padded at {call.source}")
            return Tagged(call.shape)
        found = _one(call.shape, dim, np.concatenate([ends[0], labels, ends[1]]), rest=found)
    return Tagged(call.shape, found.blocks)


def _embedding(call: Call) -> Tagged:
    weight, tokens = call.tensor("weight"), call.tensor("indices")
    table = _labels(weight, 0)
    if table is not None:
        call.space.stick(table, f"it is looked up by number at {call.source}")
    makes = _labels(weight, 1)
    _matrix(call, weight, None, makes)
    return _one(call.shape, -1, makes, rest=Tagged(call.shape, tokens.blocks))


def _attention(call: Call) -> Tagged:
    """Scaled dot products: heads stay, what queries and keys are compared by is of fixed size."""
    space = call.space
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    query, key = space.drop(query, -1), space.drop(key, -1)
    reason = f"the scale of attention counts it at {call.source}"
    for part in (query, key):
        last = part.block(-1)
        if last is not None:
            space.stick(last.labels, reason)
    query, key = _without(query, len(query.shape) - 1), _without(key, len(key.shape) - 1)
    made = value.block(-1)
    value = space.drop(value, -1) if made is not None and len(made.dims) > 1 else value
    lead = call.shape[:-2]
    heads = combine(space, [_lead(part, len(part.shape) - 2) for part in (query, key, value)], lead, call.source)
    out = Tagged(call.shape, heads.blocks)
    return _one(call.shape, -1, _labels(value, -1), rest=out)


def _recurrent(call: Call) -> list[Tagged]:
    """Hidden units as in intrinsic sparse structures (Wen et al. 2018, arXiv 1709.05027).

    A unit is its row in every gate, its column in the recurrent matrix, and whatever reads it; with a projection, the
    projected units are units too.
    """
    space = call.space
    layers, ways, hidden = (int(call.get(name)) for name in ("layers", "ways", "hidden"))
    weights: list[Tagged] = call.get("weights")
    each = len(weights) // (layers * ways)
    given = call.space.alone(call.tensor("input"), -1)
    x, fed = given
    every, outs = [], []
    for layer in range(layers):
        made = []
        for way in range(ways):
            at = (layer * ways + way) * each
            units, out = _cell_units(call, weights[at : at + each], hidden, fed)
            every.append(units)
            made.append(out)
        outs += made
        fed = None if any(out is None for out in made) else np.concatenate(made)  # type: ignore[arg-type]
    _as_many(space, every)
    states: list[Tagged] = call.get("states")
    projected = int(call.get("out")) != hidden
    if projected:
        _as_many(space, outs)
    for number, state in enumerate(states):
        _state(call, state, every if number == 1 else outs)
    found = [_one(call.shape, -1, fed, rest=x)]
    for number, shape in enumerate(call.shapes[1:]):
        rows = every if number == 1 else outs
        grid = None if any(row is None for row in rows) else np.stack(rows)  # type: ignore[arg-type]
        found.append(Tagged(shape, () if grid is None else (_state_block(shape, grid),)))
    return found


def _state_block(shape: tuple[int, ...], grid: Labels) -> Block:
    last = len(shape) - 1
    return Block((last,), grid[0]) if len(grid) == 1 else Block((0, last), grid)


def _as_many(space: Space, rows: Sequence[Labels | None]) -> None:
    """Let all layers and directions of a recurrent module lose equally many: the module has one size for all."""
    known = [row for row in rows if row is not None]
    if len(known) > 1:
        space.lanes.append(np.stack(known))


def _state(call: Call, state: Tagged, rows: Sequence[Labels | None]) -> None:
    known = [row for row in rows if row is not None]
    block = state.block(-1)
    if block is not None and 0 in block.dims and len(block.dims) == 2 and len(known) == block.labels.shape[0] > 1:
        call.space.same(block.labels, np.stack(known))
        return
    _, labels = call.space.alone(state, -1)
    for row in known:
        call.meet(labels, row)


def _cell_units(
    call: Call, weights: Sequence[Tagged], hidden: int, fed: Labels | None
) -> tuple[Labels | None, Labels | None]:
    """Couple one cell's weights (input, hidden, two biases or none, projection or none); return units and outputs."""
    space = call.space
    into, recurrent, *rest = weights
    projection = rest[-1] if rest and len(rest[-1].shape) == 2 else None
    biases = [part for part in rest if len(part.shape) == 1]
    rows = [_labels(into, 0), _labels(recurrent, 0), *(_labels(bias, 0) for bias in biases)]
    reads_in, reads_back = _labels(into, 1), _labels(recurrent, 1)
    call.meet(fed, reads_in)
    units = reads_back if projection is None else _labels(projection, 1)
    for row in rows:
        if row is None or units is None:
            call.meet(row, None)
        else:
            space.same(row.reshape(-1, hidden), units[None, :])
    out = units
    if projection is not None:
        out = _labels(projection, 0)
        call.meet(out, reads_back)
        space.makes += [] if out is None else [out]
    space.reads += [labels for labels in (reads_in, reads_back) if labels is not None]
    if projection is not None and units is not None:
        space.reads.append(units)
    space.makes += [row for row in rows if row is not None]
    return units, out


def _cell(call: Call) -> list[Tagged]:
    state = call.get("hx")
    states = list(state) if isinstance(state, list | tuple) else [state]
    names = ("w_ih", "w_hh", "b_ih", "b_hh")
    weights = [part for part in (call.get(name) for name in names) if part is not None]
    hidden = weights[1].shape[1]
    x, fed = call.space.alone(call.tensor("input"), -1)
    units, _ = _cell_units(call, weights, hidden, fed)
    for one in states:
        _, labels = call.space.alone(one, -1)
        call.meet(labels, units)
    return [_one(shape, -1, units, rest=x) for shape in call.shapes]


def _full(call: Call) -> Tagged:
    """A tensor filled with one number: its sizes may be those of anything it meets."""
    blocks = tuple(Block((dim,), call.space.fresh(size)) for dim, size in enumerate(call.shape) if size > 1)
    found = Tagged(call.shape, blocks)
    call.sizes(found)
    return found


def _like(call: Call) -> Tagged:
    """A new tensor of the shape of another."""
    return Tagged(call.shape, call.tensors()[0].blocks)


def _fixed(call: Call) -> list[Tagged]:
    return [Tagged(shape) for shape in call.shapes]


def _bare(call: Call) -> Tagged | None:
    """Index by a tensor: known only where the dimensions that are indexed are of fixed size."""
    x, indices = call.tensor("self"), call.get("indices")
    used = [dim for dim, index in enumerate(indices) if index is not None]
    if any(x.block(dim) is not None for dim in used) or any(index.blocks for index in indices if index is not None):
        return None
    if used != list(range(used[0], used[0] + len(used))):
        return None
    wide = len(call.shape) - (len(x.shape) - len(used))
    order = [dim if dim < used[0] else -1 if dim in used else dim - len(used) + wide for dim in range(len(x.shape))]
    return x.moved(order, call.shape)


def _index_select(call: Call) -> Tagged | None:
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    return None if x.block(dim) is not None else Tagged(call.shape, x.blocks, x.weight)


def _shuffle(call: Call) -> Tagged:
    """Pixel shuffle: r² neighbouring channels become one."""
    x = _drop_from(call, call.tensor("self"), 2)
    x, labels = call.space.alone(x, 1)
    if labels is None:
        return Tagged(call.shape, x.blocks)
    rows = labels.reshape(call.shape[1], -1)
    call.space.same(rows[:, :1], rows)
    return _one(call.shape, 1, np.ascontiguousarray(rows[:, 0]), rest=Tagged(call.shape, x.blocks))


def _unshuffle(call: Call) -> Tagged:
    x = _drop_from(call, call.tensor("self"), 2)
    x, labels = call.space.alone(x, 1)
    times = call.shape[1] // max(x.shape[1], 1)
    return _one(call.shape, 1, None if labels is None else np.repeat(labels, times), rest=Tagged(call.shape, x.blocks))


def _glu(call: Call) -> Tagged:
    x = call.tensor("self")
    dim = int(call.get("dim", -1)) % len(x.shape)
    x, labels = call.space.alone(x, dim)
    if labels is None:
        return Tagged(call.shape, x.blocks)
    first, second = labels.reshape(2, -1)
    call.space.same(first, second)
    return _one(call.shape, dim, first, rest=Tagged(call.shape, x.blocks))


def _prelu(call: Call) -> Tagged:
    x, weight = call.tensor("self"), call.tensor("weight")
    if prod(weight.shape) > 1:
        x, labels = call.space.alone(x, 1)
        call.meet(labels, _labels(weight, 0))
    return x


Rule = Callable[[Call], "Tagged | list[Tagged] | None"]


def _for(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys((f"aten.{name}" for name in names), rule)


RULES: dict[str, Rule] = {
    **_for(_linear, "linear"),
    **_for(_matmul, "matmul", "mm", "bmm", "mv", "dot"),
    **_for(_addmm, "addmm", "baddbmm", "addmv"),
    **_for(_einsum, "einsum"),
    **_for(_convolution, "conv1d", "conv2d", "conv3d"),
    **_for(_transposed, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **_for(_norm_over_batch, "batch_norm", "instance_norm"),
    **_for(_group_norm, "group_norm"),
    **_for(_layer_norm, "layer_norm", "rms_norm"),
    **_for(_pool, "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    **_for(_pool, "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    **_for(_pool, "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    **_for(_pool, "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d_with_indices"),
    **_for(_resize, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    **_for(_resize, "upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d"),
    **_for(_reduce, "mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod"),
    **_for(_mix, "softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum"),
    **_for(_reshape, "view", "reshape", "unflatten", "_unsafe_view"),
    **_for(_flatten, "flatten", "squeeze", "unsqueeze"),
    **_for(_permute, "permute", "transpose", "t", "numpy_T"),
    **_for(_cat, "cat", "concat", "concatenate"),
    **_for(_stack, "stack"),
    **_for(_split, "split", "split_with_sizes", "chunk", "tensor_split"),
    **_for(_slice, "slice", "narrow"),
    **_for(_select, "select"),
    **_for(_unbind, "unbind"),
    **_for(_expand, "expand", "expand_as"),
    **_for(_repeat, "repeat", "tile"),
    **_for(_pad, "pad", "constant_pad_nd"),
    **_for(_embedding, "embedding"),
    **_for(_attention, "scaled_dot_product_attention"),
    **_for(_cell, "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    **_for(_full, "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
    **_for(_like, "zeros_like", "ones_like", "full_like", "empty_like"),
    **_for(_fixed, "arange", "scalar_tensor", "rand", "randn", "tril_indices"),
    **_for(_bare, "index"),
    **_for(_index_select, "index_select", "gather"),
    **_for(_shuffle, "pixel_shuffle"),
    **_for(_unshuffle, "pixel_unshuffle"),
    **_for(_glu, "glu"),
    **_for(_prelu, "prelu"),
    **_for(_same, "dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "to", "_to_copy", "alias"),
    **_for(_same, "detach", "lift_fresh_copy", "type_as", "native_dropout", "float", "rrelu"),
    **_for(
        _pointwise, "hardswish", "log_sigmoid", "rsub", "multiply", "divide", "subtract", "negative", "absolute", "fix"
    ),
    "gossamer.recurrent": _recurrent,
}
POINTWISE: Rule = _pointwise
"""For operators that PyTorch marks as working position by position, and those in :data:`RULES` that it forgot to."""
