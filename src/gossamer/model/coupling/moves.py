"""Index rules of operators that move positions: reshapes, joins, parts, padding."""

import numpy as np

from gossamer.model.coupling.call import Call, drop_from, tagged, without
from gossamer.model.coupling.labels import Block, Tagged, combine, reshape


def view(call: Call) -> Tagged:
    """Another shape, whose sizes the code may hold as constants."""
    found = reshape(call.space, call.tensor("self"), call.shape)
    call.sizes(found)
    return found


def flatten(call: Call) -> Tagged:
    """Another shape, whose sizes follow by themselves."""
    return reshape(call.space, call.tensor("self"), call.shape)


def permute(call: Call) -> Tagged:
    """Dimensions in another order."""
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


def cat(call: Call) -> Tagged:
    """Tensors side by side along one dimension."""
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
        singles.append(without(single, dim))
    flat = tuple(1 if d == dim else size for d, size in enumerate(call.shape))
    others = [Tagged(tuple(1 if d == dim else s for d, s in enumerate(p.shape)), p.blocks, p.weight) for p in singles]
    rest = combine(call.space, others, flat, call.source)
    known = any(part.block(dim) is not None for part in parts)
    return tagged(call.shape, dim, np.concatenate(rows) if known else None, rest=Tagged(call.shape, rest.blocks))


def stack(call: Call) -> Tagged:
    """Tensors along a new dimension."""
    dim = int(call.get("dim", 0)) % len(call.shape)
    one = tuple(size for d, size in enumerate(call.shape) if d != dim)
    rest = combine(call.space, call.get("tensors"), one, call.source)
    return rest.moved([d + (d >= dim) for d in range(len(one))], call.shape)


def split(call: Call) -> list[Tagged]:
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
    if len(set(sizes)) > 1:  # code that names such sizes takes other positions after a cut
        call.space.stick(block.labels, f"it is split in unequal parts at {call.source}")
        return [Tagged(shape, tuple(rest), x.weight) for shape in call.shapes]
    call.space.lanes.append(np.stack([part.ravel() for part in parts]))
    for part in parts:
        call.number(part.shape[axis], np.moveaxis(part, axis, 0))
    return [
        Tagged(shape, (*rest, Block(block.dims, part)), x.weight)
        for shape, part in zip(call.shapes, parts, strict=True)
    ]


def part_of(call: Call) -> Tagged:
    """A range of a dimension."""
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


def select(call: Call) -> Tagged:
    """One position of a dimension."""
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
        return without(x, dim).moved(order, shape)
    axis = block.dims.index(dim)
    rest = tuple(other for other in x.blocks if other is not block)
    picked = Block(tuple(d for d in block.dims if d != dim), np.asarray(block.labels.take(index, axis)))
    holed = Tagged(x.shape, (*rest, picked), x.weight)
    return holed.moved([0 if place == -1 else place for place in order], shape)


def unbind(call: Call) -> list[Tagged]:
    """Each position of a dimension, a tensor each."""
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    return [_pick(call, x, dim, index, shape) for index, shape in enumerate(call.shapes)]


def expand(call: Call) -> Tagged:
    """Dimensions of size 1 repeated."""
    x = call.tensor("self")
    shift = len(call.shape) - len(x.shape)
    found = x.moved(range(shift, len(call.shape)), call.shape)
    call.sizes(found)
    return found


def repeat(call: Call) -> Tagged | None:
    """Dimensions repeated."""
    x = call.tensor("self")
    times = call.get("repeats")
    if not isinstance(times, list | tuple):
        return None
    shift = len(call.shape) - len(x.shape)
    found = x.moved(range(shift, len(call.shape)), call.shape)
    for dim, count in enumerate(times):
        if count != 1 and found.block(dim) is not None:
            found, labels = call.space.alone(found, dim)
            found = tagged(call.shape, dim, np.tile(labels, count) if labels is not None else None, rest=found)
    return found


def pad(call: Call) -> Tagged:
    """Zeros around."""
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
        found = tagged(call.shape, dim, np.concatenate([ends[0], labels, ends[1]]), rest=found)
    return Tagged(call.shape, found.blocks)


def filled(call: Call) -> Tagged:
    """A tensor filled with one number: its sizes may be those of anything it meets."""
    blocks = tuple(Block((dim,), call.space.fresh(size)) for dim, size in enumerate(call.shape) if size > 1)
    found = Tagged(call.shape, blocks)
    call.sizes(found)
    return found


def filled_like(call: Call) -> Tagged:
    """A new tensor of the shape of another."""
    return Tagged(call.shape, call.tensors()[0].blocks)


def fixed(call: Call) -> list[Tagged]:
    """A new tensor whose positions are no units."""
    return [Tagged(shape) for shape in call.shapes]


def indexed(call: Call) -> Tagged | None:
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


def index_select(call: Call) -> Tagged | None:
    """Chosen positions of a dimension of fixed size."""
    x = call.tensor("self")
    dim = int(call.get("dim", 0)) % len(x.shape)
    return None if x.block(dim) is not None else Tagged(call.shape, x.blocks, x.weight)


def gather(call: Call) -> Tagged | None:
    """Chosen positions of a dimension of fixed size, others for each position of the rest: as many as there are."""
    x, index = call.tensor("self"), call.tensor("index")
    dim = int(call.get("dim", 0)) % max(len(x.shape), 1)
    if x.block(dim) is not None or index.blocks or any(len(block.dims) > 1 for block in x.blocks):
        return None
    if any(index.shape[d] != x.shape[d] for block in x.blocks for d in block.dims):
        return None
    call.sizes(x)  # the index must be as large as what is left
    return Tagged(call.shape, x.blocks, x.weight)


def shuffle(call: Call) -> Tagged:
    """Pixel shuffle: r² neighbouring channels become one."""
    x = drop_from(call, call.tensor("self"), 2)
    x, labels = call.space.alone(x, 1)
    if labels is None:
        return Tagged(call.shape, x.blocks)
    rows = labels.reshape(call.shape[1], -1)
    call.space.same(rows[:, :1], rows)
    return tagged(call.shape, 1, np.ascontiguousarray(rows[:, 0]), rest=Tagged(call.shape, x.blocks))


def unshuffle(call: Call) -> Tagged:
    """Pixel unshuffle: one channel becomes r² neighbouring ones."""
    x = drop_from(call, call.tensor("self"), 2)
    x, labels = call.space.alone(x, 1)
    times = call.shape[1] // max(x.shape[1], 1)
    return tagged(
        call.shape, 1, None if labels is None else np.repeat(labels, times), rest=Tagged(call.shape, x.blocks)
    )
