"""Index rules of operators that keep channels where they are: activations, normalisation, pooling, sums."""

from math import prod

from gossamer.model.coupling.call import Call, drop_from, labels_of, tagged, without
from gossamer.model.coupling.labels import Tagged, combine


def pointwise(call: Call) -> Tagged:
    """Position by position, with broadcasting."""
    return combine(call.space, call.tensors(), call.shape, call.source)


def unchanged(call: Call) -> Tagged:
    """Return the first tensor as it is (dropout, contiguous, casts)."""
    tensor = call.tensors()[0]
    return Tagged(call.shape, tensor.blocks, tensor.weight)


def norm_over_batch(call: Call) -> Tagged:
    """Batch and instance norm: every channel for itself."""
    x = drop_from(call, call.tensor("input"), 2)
    x, labels = call.space.alone(x, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        part = call.get(name)
        if part is not None:
            call.meet(labels, labels_of(part, 0))
    return x


def group_norm(call: Call) -> Tagged:
    """Channels of one group are mixed; groups lose equally many."""
    x = drop_from(call, call.tensor("input"), 2)
    x, labels = call.space.alone(x, 1)
    groups = int(call.get("num_groups"))
    for name in ("weight", "bias"):
        part = call.get(name)
        if part is not None:
            call.meet(labels, labels_of(part, 0))
    if labels is not None and groups == labels.size and call.get("weight") is None:
        call.space.stick(labels, f"a normalisation without weights counts it at {call.source}")
    if labels is not None and groups < labels.size:
        call.space.mixed.append(labels)
        if groups > 1:
            call.space.lanes.append(labels.reshape(groups, -1))
    return x


def layer_norm(call: Call) -> Tagged:
    """The normalised dimensions are mixed."""
    x = call.tensor("input")
    first = len(x.shape) - len(call.get("normalized_shape"))
    for dim in range(first, len(x.shape)):
        x, labels = call.space.alone(x, dim)
        for name in ("weight", "bias"):
            part = call.get(name)
            if part is not None:
                call.meet(labels, labels_of(part, dim - first))
        if labels is not None:
            call.space.mixed.append(labels)
            call.number(x.shape[dim], labels)
    return x


def pool(call: Call) -> list[Tagged]:
    """Keep batch and channels; positions in space are mixed."""
    sizes = (call.get("kernel_size"), call.get("output_size"))
    given = next((size for size in sizes if isinstance(size, list | tuple)), None)
    x = call.tensor("self", "input")
    kept = len(x.shape) - (len(given) if given is not None else len(x.shape) - 2)
    x = drop_from(call, x, kept)
    return [Tagged(shape, x.blocks) for shape in call.shapes]


def resize(call: Call) -> Tagged:
    """Keep batch and channels; space is resampled."""
    x = drop_from(call, call.tensor("self", "input"), 2)
    return Tagged(call.shape, x.blocks)


def reduce(call: Call) -> list[Tagged]:
    """Sum, mean or extreme over some dimensions."""
    x = call.tensor("self")
    dims = call.get("dim")
    every = range(len(x.shape)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = sorted(dim % len(x.shape) for dim in every)
    for dim in gone:
        block = x.block(dim)
        if block is not None:
            call.space.mixed.append(block.labels.ravel())
            x = without(x, dim) if len(block.dims) == 1 else call.space.drop(x, dim)
    keep = bool(call.get("keepdim", False))
    order, place = [], 0
    for dim in range(len(x.shape)):
        order.append(dim if keep else -1 if dim in gone else place)
        place += dim not in gone
    return [x.moved(order, shape) for shape in call.shapes]


def mix(call: Call) -> Tagged:
    """Softmax and its like: one dimension is mixed."""
    x = call.tensor("self", "input")
    x, labels = call.space.alone(x, int(call.get("dim")))
    if labels is not None:
        call.space.mixed.append(labels)
    return x


def glu(call: Call) -> Tagged:
    """The first half of a dimension gated by the second."""
    x = call.tensor("self")
    dim = int(call.get("dim", -1)) % len(x.shape)
    x, labels = call.space.alone(x, dim)
    if labels is None:
        return Tagged(call.shape, x.blocks)
    first, second = labels.reshape(2, -1)
    call.space.same(first, second)
    return tagged(call.shape, dim, first, rest=Tagged(call.shape, x.blocks))


def prelu(call: Call) -> Tagged:
    """A slope for each channel."""
    x, weight = call.tensor("self"), call.tensor("weight")
    if prod(weight.shape) > 1:
        x, labels = call.space.alone(x, 1)
        call.meet(labels, labels_of(weight, 0))
    return x
