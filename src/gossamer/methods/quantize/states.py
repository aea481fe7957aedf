"""Grids for the inputs and states of recurrent layers, from what calibration saw, where the target takes them.

The target multiplies a layer in integers if all its matrices, those of both directions, are on 8 bits or less and all
that they multiply is on a grid of 8 bits. So a layer gets all its grids or none. The cell state of an LSTM, which
nothing multiplies, grows over the steps and wants more bits: 16 are usual in integer runtimes.
"""

from collections.abc import Callable, Mapping

from torch import nn

from gossamer.artifact.activations import cell_of
from gossamer.model import Evidence, Grid, Site, Skip, Subject, why_no_state_grid
from gossamer.model.state_grid import recurrent_layers, why_no_cell_grid
from gossamer.targets import why_in_floats, why_no_static


def state_grids(
    subject: Subject,
    chosen: Mapping[str, Grid],
    evidence: Evidence,
    see: Callable[[Evidence, str], Grid],
    see_cell: Callable[[Evidence, str], Grid] | None = None,
) -> tuple[dict[str, Grid], list[Skip]]:
    """Return the grids by site, and of the recurrent sites among ``chosen`` that get none why.

    Args:
        subject: the model.
        chosen: the grids that weights get.
        evidence: with ``range``.
        see: makes the grid of what a site multiplies.
        see_cell: makes the grid of a cell state, if these get any.
    """
    weights = {name: held.grid for name, held in subject.constraints.items() if held.grid is not None} | dict(chosen)
    reasons: dict[str, str] = {}
    found: dict[str, Grid] = {}
    for module, sites in recurrent_layers(subject.model, subject.sites.values()):
        if not any(site.name in chosen for site in sites):
            continue
        why = _why_none(subject, module, sites, weights, evidence)
        names = [site.name for site in sites if site.name in weights]
        if why is None:
            found |= {name: see(evidence, name) for name in names}
        else:
            reasons |= dict.fromkeys(names, f"its input and state are treated as without grids: {why}")
    skipped = [Skip(name, why) for name, why in reasons.items() if name in chosen]
    grids = {name: grid for name, grid in found.items() if name not in reasons}
    if see_cell is not None:
        beside = [name for name in grids if why_no_cell_grid(subject.model, subject.sites[name]) is None]
        grids |= {cell_of(name): see_cell(evidence, cell_of(name)) for name in beside}
    return grids, skipped


def _why_none(
    subject: Subject, module: nn.RNNBase, sites: list[Site], weights: Mapping[str, Grid], evidence: Evidence
) -> str | None:
    """Return why a layer gets no grids."""
    for site in sites:
        why = why_no_state_grid(subject.model, site) or _why_weight(weights.get(site.name))
        if why is None and site.name not in evidence.ranges:
            why = f"calibration saw nothing of it: {evidence.unread.get(site.name, 'its range was not collected')}"
        if why is not None:
            return f"{site.name}: {why}"
    zeros = {site.name: _zero(weights[site.name]) for site in sites}
    for name, zero in zeros.items():
        if zeros.get(f"{name}_reverse", zero) != zero:
            return f"{name}: both directions want one zero, and have two"
    return why_no_static(module.mode.partition("_")[0], module.hidden_size)


def _zero(grid: Grid) -> float:
    """Return the zero of the codes that the target multiplies; those with zeros of their own are taken less these."""
    return float(grid.zero) if grid.axis is None else 0.0


def _why_weight(grid: Grid | None) -> str | None:
    """Return why the target does not multiply a weight on ``grid`` in integers."""
    if grid is None:
        return "is on no grid"
    if grid.groups:
        return "its sums would need a scale after every group of products"
    return why_in_floats("linear", grid.bits, grid.axis, symmetric=not grid.zero.any())
