"""All grids of activations of a model: of inputs, of states and of outputs, put on, named and taken off."""

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from gossamer.artifact.activations import beside_cell, module_of
from gossamer.model.constraint import Grid
from gossamer.model.hooks import take_hook
from gossamer.model.input_grid import (
    input_grids,
    name_input_grids,
    put_input_grid,
    take_input_grid,
    why_no_input_grid,
)
from gossamer.model.output_grid import OutputGrid, output_grids
from gossamer.model.site import Site
from gossamer.model.state_grid import (
    StateGrids,
    name_state_grids,
    put_state_grid,
    state_grids,
    why_no_cell_grid,
    why_no_state_grid,
)


def is_recurrent(model: nn.Module, site: Site) -> bool:
    """Return whether ``site`` is a matrix of recurrent layers."""
    return all(isinstance(model.get_submodule(owner.module), nn.RNNBase) for owner in site.owners)


def why_no_activation(model: nn.Module, site: Site, grid: Grid, *, cell: bool = False) -> str | None:
    """Return why what ``site`` multiplies, or the cell state beside it, cannot be put on ``grid``; None if it can."""
    if not cell and not is_recurrent(model, site):
        return why_no_input_grid(model, site)
    if grid.trained:
        return "the grid of a recurrent layer's inputs or states does not train"
    return (why_no_cell_grid if cell else why_no_state_grid)(model, site)


def put_activation(model: nn.Module, sites: Mapping[str, Site], name: str, grid: Grid) -> None:
    """Put on ``grid`` what ``name`` stands for: what one of ``sites`` multiplies, a cell state, or an output."""
    path, beside = module_of(name), beside_cell(name)
    if path is not None:
        module = model.get_submodule(path)
        take_hook(module, OutputGrid)
        module.register_forward_hook(OutputGrid(grid))
    elif beside is not None:
        put_state_grid(model, sites[beside], grid, cell=True)
    elif is_recurrent(model, sites[name]):
        put_state_grid(model, sites[name], grid)
    else:
        put_input_grid(model, sites[name], grid)


def take_activations(model: nn.Module) -> None:
    """Take all grids of inputs, states and outputs off."""
    for module in model.modules():
        take_input_grid(module)
        take_hook(module, StateGrids)
        take_hook(module, OutputGrid)


def name_activations(model: nn.Module, sites: Iterable[Site]) -> None:
    """Call grids by the names of ``sites`` again, one of which may have another first owner than before."""
    known = tuple(sites)
    name_input_grids(model, known)
    name_state_grids(model, known)


def activations(model: nn.Module) -> Iterator[tuple[str, Grid]]:
    """Yield all grids of ``model`` by their names among activations."""
    yield from ((hook.site, hook.grid) for hook in input_grids(model))
    yield from state_grids(model)
    yield from output_grids(model)
