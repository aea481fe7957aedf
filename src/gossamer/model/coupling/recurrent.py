"""Index rules of recurrent layers and cells.

Hidden units are those of intrinsic sparse structures (Wen et al. 2018, arXiv 1709.05027).
"""

from collections.abc import Sequence

import numpy as np

from gossamer.model.coupling.call import Call, labels_of, tagged
from gossamer.model.coupling.labels import Block, Labels, Space, Tagged


def recurrent(call: Call) -> list[Tagged]:
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
    found = [tagged(call.shape, -1, fed, rest=x)]
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
    rows = [labels_of(into, 0), labels_of(recurrent, 0), *(labels_of(bias, 0) for bias in biases)]
    reads_in, reads_back = labels_of(into, 1), labels_of(recurrent, 1)
    call.meet(fed, reads_in)
    units = reads_back if projection is None else labels_of(projection, 1)
    for row in rows:
        if row is None or units is None:
            call.meet(row, None)
        else:
            space.same(row.reshape(-1, hidden), units[None, :])
    out = units
    if projection is not None:
        out = labels_of(projection, 0)
        call.meet(out, reads_back)
        space.makes += [] if out is None else [out]
    space.reads += [labels for labels in (reads_in, reads_back) if labels is not None]
    if projection is not None and units is not None:
        space.reads.append(units)
    space.makes += [row for row in rows if row is not None]
    return units, out


def cell(call: Call) -> list[Tagged]:
    """One step of a recurrent cell."""
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
    return [tagged(shape, -1, units, rest=x) for shape in call.shapes]
