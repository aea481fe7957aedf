"""State grids: inputs and hidden states of recurrent layers put on uniform levels, simulated live by a forward hook.

Jacob et al., CVPR 2018 (arXiv 1712.05877), inside the loop over the steps. Among the activations of a plan, a subject
or a file such a grid has the name of the matrix that multiplies it: ``rnn.weight_ih_l0`` for the inputs of a layer and
direction, ``rnn.weight_hh_l0`` for its hidden states, the initial one included. The hook computes the result anew, step
by step, from the equations of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` in torch's documentation.

What enters a product is on its grid. A target adds, multiplies and bends in floating point, so the hidden state that a
GRU keeps and the outputs are on none, and the cell state of an LSTM, which no matrix reads, only where it is asked for
(``rnn.weight_hh_l0:cell``): it is rounded when it is made, before the hidden state is made of it. Gradients pass
straight through rounding, and not where a value is beyond the ends, as with inputs (`input_grid`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gossamer.artifact.activations import cell_of
from gossamer.errors import ModelError
from gossamer.model.constraint import Grid
from gossamer.model.hooks import hook_of
from gossamer.model.site import Site
from gossamer.model.straight import straight_through_snap

_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)
_MATRICES = ("weight_ih_l", "weight_hh_l")

States = tuple[Tensor, ...]
"""The hidden state, and the cell state of an LSTM."""


class StateGrids:
    """The hook: computes the result of its recurrent module anew, with inputs and hidden states on grids.

    Attributes:
        grids: name among activations and grid, by the module's name of the matrix, or by ``cell_l0`` and so on.
        note: called with the name of the matrix and what it multiplies, on its grid: (time, batch, features) of an
            input, (batch, features) of a state, whenever that is multiplied; and with ``cell_l0`` and so on and a cell
            state, (batch, features).
    """

    def __init__(self) -> None:
        self.grids: dict[str, tuple[str, Grid]] = {}
        self.note: Callable[[str, Tensor], None] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _result: Any) -> Any:
        """Return the outputs and the last states."""
        return computed_anew(module, args, kwargs, self._snap)

    def _snap(self, matrix: str, value: Tensor) -> Tensor:
        if matrix not in self.grids:
            return value
        _, grid = self.grids[matrix]
        scale, zero = grid.scale.to(value.device), grid.zero.to(value.device)
        snapped = straight_through_snap(
            value, clips=True, scale=scale, zero=zero, bits=grid.bits, signed=grid.signed, axis=None
        )
        if self.note is not None:
            self.note(matrix, snapped)
        return snapped


def computed_anew(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], snap: Callable[[str, Tensor], Tensor]
) -> Any:
    """Return what a call of a recurrent module makes under ``snap``; see :func:`recurrent`.

    Raises:
        ModelError: it is no recurrent module.
    """
    if not isinstance(module, nn.RNNBase):
        raise ModelError(f"{type(module).__name__}: wanted nn.RNN, nn.LSTM or nn.GRU under a grid of states")
    named = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    return recurrent(module, named["input"], named.get("hx"), snap)


def why_no_state_grid(model: nn.Module, site: Site) -> str | None:
    """Return why what the recurrent matrix ``site`` multiplies cannot be put on a grid, or None if it can."""
    for owner in site.owners:
        module = model.get_submodule(owner.module)
        if not isinstance(module, nn.RNNBase) or type(module).forward not in _FORWARDS:
            return f"{type(module).__name__} has a loop of its own, wanted nn.RNN, nn.LSTM or nn.GRU"
        if not owner.attribute.startswith(_MATRICES):
            return f"{owner.attribute} multiplies neither an input nor a state alone"
        if module.proj_size:
            return f"{owner.module or type(module).__name__} projects its states, of which there is no integer form"
    return None


def why_no_cell_grid(model: nn.Module, site: Site) -> str | None:
    """Return why the cell state beside the recurrent matrix ``site`` cannot be put on a grid, or None if it can."""
    for owner in site.owners:
        if not isinstance(model.get_submodule(owner.module), nn.LSTM) or not owner.attribute.startswith(_MATRICES[1]):
            return f"{owner.name} is no matrix beside a cell state, wanted weight_hh of an nn.LSTM"
    return why_no_state_grid(model, site)


def cell_state(matrix: str) -> str:
    """Return what :func:`recurrent` calls the cell state beside what a module's recurrent ``matrix`` multiplies."""
    return matrix.replace("weight_hh_", "cell_")


def put_state_grid(model: nn.Module, site: Site, grid: Grid, *, cell: bool = False) -> None:
    """Put what the recurrent matrix ``site`` multiplies on ``grid``, in place of an earlier one, wherever it is.

    Args:
        model: whose modules get a hook.
        site: the matrix.
        grid: the grid.
        cell: put the cell state beside it on the grid instead.
    """
    for owner in site.owners:
        module = model.get_submodule(owner.module)
        hook = hook_of(module, StateGrids)
        if hook is None:
            hook = StateGrids()
            module.register_forward_hook(hook, with_kwargs=True)
        name = cell_of(site.name) if cell else site.name
        hook.grids[cell_state(owner.attribute) if cell else owner.attribute] = (name, grid)


def name_state_grids(model: nn.Module, sites: Iterable[Site]) -> None:
    """Call the state grids of ``model`` by the names of its ``sites``."""
    names = {owner.name: site.name for site in sites for owner in site.owners}
    for owner, site in tuple(names.items()):
        path, dot, attribute = owner.rpartition(".")
        if attribute.startswith(_MATRICES[1]):
            names[f"{path}{dot}{cell_state(attribute)}"] = cell_of(site)
    for path, module in model.named_modules():
        hook = hook_of(module, StateGrids)
        if hook is not None:
            hook.grids = {
                matrix: (names[f"{path}.{matrix}" if path else matrix], grid)
                for matrix, (_, grid) in hook.grids.items()
            }


def state_grids(model: nn.Module) -> Iterator[tuple[str, Grid]]:
    """Yield the state grids of ``model`` by the names of its sites."""
    for module in model.modules():
        hook = hook_of(module, StateGrids)
        if hook is not None:
            yield from hook.grids.values()


def recurrent_layers(model: nn.Module, sites: Iterable[Site]) -> Iterator[tuple[nn.RNNBase, list[Site]]]:
    """Yield, for each layer of each recurrent module, the sites of its matrices, both directions together."""
    owned = {owner.name: site for site in sites for owner in site.owners}
    for path, module in model.named_modules():
        if not isinstance(module, nn.RNNBase):
            continue
        for layer in range(module.num_layers):
            ends = [f"l{layer}", f"l{layer}_reverse"][: 2 if module.bidirectional else 1]
            names = [f"{path}.weight_{half}_{end}".lstrip(".") for end in ends for half in ("ih", "hh")]
            yield module, [owned[name] for name in names]


def without_halves(
    model: nn.Module, sites: Iterable[Site], activations: Mapping[str, Grid], integer: Collection[str]
) -> dict[str, Grid]:
    """Return ``activations`` without those of recurrent layers of which a target takes not all matrices any more.

    Args:
        model: the subject's.
        sites: its sites.
        activations: grids by name.
        integer: the sites on grids whose products are of integers.
    """
    layers = ({site.name for site in found} for _, found in recurrent_layers(model, sites))
    idle = {name for names in layers if not names <= set(integer) for name in names}
    idle |= {cell_of(name) for name in idle}
    return {name: grid for name, grid in activations.items() if name not in idle}


def recurrent(
    module: nn.RNNBase,
    given: Tensor | PackedSequence,
    first: Tensor | States | None = None,
    snap: Callable[[str, Tensor], Tensor] = lambda _, value: value,
) -> tuple[Tensor | PackedSequence, Tensor | States]:
    """Return what ``module`` makes, computed step by step.

    Args:
        module: an ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU`` without projection.
        given: as the module takes it, batch first or not, without a batch, or packed.
        first: the initial states as the module takes them, zeros if None.
        snap: maps the name of a matrix and what it multiplies to what it multiplies instead, and the name of a cell
            state, ``cell_l0`` and so on, and what it is to what it is instead.
    """
    parts = None if first is None else (first,) if isinstance(first, Tensor) else tuple(first)
    if isinstance(given, PackedSequence):
        x, lengths = pad_packed_sequence(PackedSequence(given.data, given.batch_sizes))
        y, last = _layers(_Run(module, snap, lengths.to(x.device)), x, _picked(parts, given.sorted_indices))
        data, sizes, *_ = pack_padded_sequence(y, lengths)
        result: Any = PackedSequence(data, sizes, given.sorted_indices, given.unsorted_indices)
        return result, _as_given(module, _picked(last, given.unsorted_indices) or ())
    batch = 0 if module.batch_first else 1
    x = given if given.ndim == 3 else given.unsqueeze(batch)
    if parts is not None and given.ndim == 2:
        parts = tuple(part.unsqueeze(1) for part in parts)
    y, last = _layers(_Run(module, snap, None), x.transpose(0, 1) if module.batch_first else x, parts)
    y = y.transpose(0, 1) if module.batch_first else y
    if given.ndim == 2:
        y, last = y.squeeze(batch), tuple(part.squeeze(1) for part in last)
    return y, _as_given(module, last)


def _picked(parts: States | None, order: Tensor | None) -> States | None:
    """Return states whose batch is in ``order``."""
    return parts if parts is None or order is None else tuple(part.index_select(1, order) for part in parts)


def _as_given(module: nn.RNNBase, parts: States) -> Tensor | States:
    return parts if isinstance(module, nn.LSTM) else parts[0]


@dataclass(frozen=True)
class _Run:
    """One call: the module, what is done to factors, and the lengths of the sequences in the batch."""

    module: nn.RNNBase
    snap: Callable[[str, Tensor], Tensor]
    lengths: Tensor | None

    def inside(self, step: int) -> Tensor | None:
        """Return which sequences have a step of that number, (batch, 1); None if all do."""
        return None if self.lengths is None else (self.lengths > step)[:, None]


def _layers(run: _Run, x: Tensor, firsts: States | None) -> tuple[Tensor, States]:
    """Run all layers over ``x`` (time, batch, features); states are (layers * directions, batch, hidden)."""
    module, ways = run.module, 2 if run.module.bidirectional else 1
    if firsts is None:
        shape = (module.num_layers * ways, x.shape[1], module.hidden_size)
        firsts = (x.new_zeros(shape),) * (2 if isinstance(module, nn.LSTM) else 1)
    lasts: list[States] = []
    for layer in range(module.num_layers):
        if layer and module.dropout:
            x = functional.dropout(x, module.dropout, module.training)
        found = [_way(run, f"l{layer}", x, tuple(part[layer * ways] for part in firsts))]
        if ways == 2:
            found.append(_way(run, f"l{layer}_reverse", x, tuple(part[layer * ways + 1] for part in firsts)))
        x = torch.cat([y for y, _ in found], -1)
        lasts += [last for _, last in found]
    return x, tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _way(run: _Run, which: str, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Run one direction of one layer; return y (time, batch, hidden) and the last states, (batch, hidden) each."""
    module, step = run.module, _STEPS[run.module.mode]
    weights = [getattr(module, f"weight_{half}_{which}") for half in ("ih", "hh")]
    biases = [getattr(module, f"bias_{half}_{which}", None) for half in ("ih", "hh")]
    entering = functional.linear(run.snap(f"weight_ih_{which}", x), weights[0], biases[0])
    outputs: list[Tensor] = []
    inside: Tensor | None = None

    def cell(made: Tensor) -> Tensor:
        return run.snap(f"cell_{which}", made if inside is None else torch.where(inside, made, states[1]))

    states = (states[0], *map(cell, states[1:]))
    times = range(len(x))
    for time in reversed(times) if which.endswith("_reverse") else times:
        kept = functional.linear(run.snap(f"weight_hh_{which}", states[0]), weights[1], biases[1])
        inside = run.inside(time)
        after = step(entering[time], kept, states, cell)
        if inside is None:
            states, y = after, after[0]
        else:
            states = tuple(torch.where(inside, new, old) for new, old in zip(after, states, strict=True))
            y = after[0] * inside
        outputs.append(y)
    return torch.stack(outputs[::-1] if which.endswith("_reverse") else outputs), states


Cell = Callable[[Tensor], Tensor]


def _lstm(entering: Tensor, kept: Tensor, states: States, snap: Cell) -> States:
    i, f, g, o = (entering + kept).chunk(4, -1)
    cell = snap(torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru(entering: Tensor, kept: Tensor, states: States, _: Cell) -> States:
    (xr, xz, xn), (hr, hz, hn) = entering.chunk(3, -1), kept.chunk(3, -1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return (n + z * (states[0] - n),)


_STEPS: dict[str, Callable[[Tensor, Tensor, States, Cell], States]] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": lambda entering, kept, *_: (torch.tanh(entering + kept),),
    "RNN_RELU": lambda entering, kept, *_: (torch.relu(entering + kept),),
}
