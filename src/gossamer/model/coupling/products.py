"""Index rules of operators that multiply with a weight: one side reads units, the other makes them.

A product of two activations sums over units that no weight reads there: such units are mixed, as by a normalisation.
"""

from collections.abc import Sequence

from gossamer.model.coupling.call import Call, drop_from, labels_of, leading, tagged, without
from gossamer.model.coupling.labels import Labels, Space, Tagged, combine


def _matrix(call: Call, weight: Tagged, reads: Labels | None, makes: Labels | None) -> None:
    if weight.weight:
        call.space.reads += [] if reads is None else [reads]
        call.space.makes += [] if makes is None else [makes]


def linear(call: Call) -> Tagged:
    """Couple a linear layer: weight (outputs, inputs)."""
    x, given = call.space.alone(call.tensor("input"), -1)
    weight = call.tensor("weight")
    reads, makes = labels_of(weight, 1), labels_of(weight, 0)
    call.meet(given, reads)
    bias = call.get("bias")
    if bias is not None:
        call.meet(labels_of(bias, 0), makes)
    _matrix(call, weight, reads, makes)
    return tagged(call.shape, -1, makes, rest=x)


def _product(call: Call, left: Tagged, right: Tagged, shape: tuple[int, ...]) -> Tagged:
    """(…, m, k) times (…, k, n); a vector stands for one row or column."""
    space = call.space
    x, inner = space.alone(left, -1)
    y, other = space.alone(right, -2 if len(right.shape) > 1 else -1)
    call.meet(inner, other)
    for one, labels in ((left, inner), (right, other)):
        if one.weight and labels is not None:
            space.reads.append(labels)
        if not (left.weight or right.weight) and labels is not None:
            space.mixed.append(labels)
    outs: list[Labels | None] = []
    if len(left.shape) > 1:
        x, rows = _outer(space, x, -2)
        outs.append(rows)
    if len(right.shape) > 1:
        y, columns = _outer(space, y, -1)
        outs.append(columns)
        if right.weight and outs[-1] is not None:
            space.makes.append(outs[-1])
    lead = tuple(shape[: len(shape) - len(outs)])
    batches = [leading(one, len(one.shape) - 2) for one in (x, y) if len(one.shape) > 2]
    out = combine(space, batches, lead, call.source) if lead else Tagged(())
    found = Tagged(shape, out.blocks)
    for place, labels in enumerate(outs):
        found = tagged(shape, len(lead) + place, labels, rest=found)
    return found


def _outer(space: Space, tensor: Tagged, dim: int) -> tuple[Tagged, Labels | None]:
    """Return the labels of a dimension that stays in a product; in a grid (heads times widths) it is of fixed size."""
    block = tensor.block(dim)
    if block is not None and len(block.dims) > 1:
        return space.drop(tensor, dim), None
    return tensor, labels_of(tensor, dim)


def matmul(call: Call) -> Tagged:
    """Couple a matrix product."""
    left = call.tensor("self", "batch1")
    return _product(call, left, call.tensor("other", "mat2", "vec", "tensor", "batch2"), call.shape)


def addmm(call: Call) -> Tagged:
    """Couple a matrix product with something added."""
    out = _product(call, call.tensor("mat1", "batch1", "mat"), call.tensor("mat2", "batch2", "vec"), call.shape)
    return combine(call.space, [call.tensor("self"), out], call.shape, call.source)


def einsum(call: Call) -> Tagged | None:
    """Couple a sum of products by its letters; None where it has an ellipsis."""
    equation = call.get("equation").replace(" ", "")
    if "." in equation or "->" not in equation:
        return None
    terms, _, out = equation.partition("->")
    names: dict[str, Labels | None] = {}
    weighted: set[str] = set()
    for term, tensor in zip(terms.split(","), call.get("tensors"), strict=True):
        weighted |= set(term) if tensor.weight else set()
        for dim, letter in enumerate(term):
            tensor, labels = call.space.alone(tensor, dim)  # noqa: PLW2901  # a grid must be seen letter by letter
            if letter in names:
                call.meet(names[letter], labels)
            names[letter] = labels if names.get(letter) is None else names[letter]
            if tensor.weight and labels is not None:
                (call.space.makes if letter in out else call.space.reads).append(labels)
    call.space.mixed += [x for letter, x in names.items() if letter not in {*out, *weighted} and x is not None]
    found = Tagged(call.shape)
    for dim, letter in enumerate(out):
        found = tagged(call.shape, dim, names[letter], rest=found)
    return found


def _stick_rest(call: Call, tensor: Tagged, kept: Sequence[int], reason: str) -> None:
    for block in tensor.blocks:
        if not set(block.dims) & set(kept):
            call.space.stick(block.labels, reason)


def convolution(call: Call) -> Tagged:
    """Couple a convolution."""
    return _kernel(call, transposed=False)


def transposed(call: Call) -> Tagged:
    """Couple a transposed convolution."""
    return _kernel(call, transposed=True)


def _kernel(call: Call, *, transposed: bool) -> Tagged:
    space, weight, groups = call.space, call.tensor("weight"), int(call.get("groups", 1))
    channels = len(call.shape) - (len(weight.shape) - 1)  # 1, or 0 for an input without a batch
    x = drop_from(call, call.tensor("input"), channels + 1)
    x, given = space.alone(x, channels)
    _stick_rest(call, weight, (0, 1), "it is the size of a kernel")
    first, second = labels_of(weight, 0), labels_of(weight, 1)
    reads, makes = (first, second) if transposed else (second, first)
    if groups > 1:
        reads, makes = _grouped(call, weight, groups, given, transposed=transposed)
    else:
        call.meet(given, reads)
        _matrix(call, weight, reads, makes)
    bias = call.get("bias")
    if bias is not None:
        call.meet(labels_of(bias, 0), makes)
    return tagged(call.shape, channels, makes, rest=without(x, channels))


def _grouped(
    call: Call, weight: Tagged, groups: int, given: Labels | None, *, transposed: bool
) -> tuple[Labels | None, Labels | None]:
    """Couple a grouped kernel; its second dimension means other channels in each group."""
    space, first, second = call.space, labels_of(weight, 0), labels_of(weight, 1)
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


def embedding(call: Call) -> Tagged:
    """Couple a table: its rows are looked up by number."""
    weight, tokens = call.tensor("weight"), call.tensor("indices")
    table = labels_of(weight, 0)
    if table is not None:
        call.space.stick(table, f"it is looked up by number at {call.source}")
    makes = labels_of(weight, 1)
    _matrix(call, weight, None, makes)
    return tagged(call.shape, -1, makes, rest=Tagged(call.shape, tokens.blocks))


def attention(call: Call) -> Tagged:
    """Scaled dot products: heads stay, what queries and keys are compared by is of fixed size."""
    space = call.space
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    query, key = space.drop(query, -1), space.drop(key, -1)
    reason = f"the scale of attention counts it at {call.source}"
    for part in (query, key):
        last = part.block(-1)
        if last is not None:
            space.stick(last.labels, reason)
    query, key = without(query, len(query.shape) - 1), without(key, len(key.shape) - 1)
    if call.get("enable_gqa", False):
        space.stick_all([query, key, value], f"several queries share a head at {call.source}")
        return Tagged(call.shape)
    made = value.block(-1)
    value = space.drop(value, -1) if made is not None and len(made.dims) > 1 else value
    lead = call.shape[:-2]
    heads = combine(space, [leading(part, len(part.shape) - 2) for part in (query, key, value)], lead, call.source)
    out = Tagged(call.shape, heads.blocks)
    return tagged(call.shape, -1, labels_of(value, -1), rest=out)
