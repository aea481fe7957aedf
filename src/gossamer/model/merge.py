"""Merging: what a new constraint becomes on a site that is constrained already.

Zeros of a mask stay zero, shared values stay shared, a grid gets no finer. What would break an earlier promise is
refused. A splice is no promise yet: a new one takes its place, and never what a mask zeroes; nor is a mixture, nor what
puts values that train on few levels. Codebook and hash
exclude each other, and so do a hash and a grid that has no minus for every value.
"""

from dataclasses import replace
from math import prod

import torch

from gossamer.errors import PlanError
from gossamer.model.codebook import Codebook
from gossamer.model.constraint import Constraint, Constraints, Grid, Hash, Mask, Splice
from gossamer.model.latent import Binary, Bucketed, Latent, Points, Tanh, Ternary
from gossamer.model.mixture import Mixture
from gossamer.model.site import Site


def merge(site: Site, held: Constraints, new: Constraint) -> Constraints:
    """Return the constraints of ``site`` once ``new`` joins those it ``held``.

    Raises:
        PlanError: the shapes do not fit, or ``new`` would undo what holds.
    """
    match new:
        case Mask():
            _want_shape(site, "mask", new.keep)
            keep = new.keep if held.mask is None else new.keep & held.mask.keep
            return replace(held, mask=Mask(keep))
        case Splice():
            _want_shape(site, "splice", new.keep)
            return replace(held, splice=new)
        case Codebook():
            _want_shape(site, "codebook", new.codes)
            _want_codebook(site, held, new)
            return replace(held, codebook=new)
        case Binary() | Ternary() | Tanh() | Bucketed() | Points() | Mixture():
            return _for_training(site, held, new)
        case Hash():
            _want_hash(site, held, new)
            return replace(held, hash=new)
        case Grid():
            _want_axis(site, new)
            _want_grid(site, held, new)
            return replace(held, grid=new)


def _for_training(site: Site, held: Constraints, new: Latent | Mixture) -> Constraints:
    """Return the constraints with what goes once the step has trained."""
    if isinstance(new, Mixture):
        return replace(held, mixture=new)
    name = type(new).__name__.lower()
    if held.shared:
        raise PlanError(f"{site.name}: its values are shared, so none trains behind {name} levels")
    if held.grid is not None:
        raise PlanError(f"{site.name}: is on a grid, which {name} levels would leave")
    if new.axis is not None and not site.shape:
        raise PlanError(f"{site.name}: has no dimension for {name} levels of its own")
    return replace(held, latent=new)


def _want_shape(site: Site, what: str, tensor: torch.Tensor) -> None:
    if tuple(tensor.shape) != site.shape:
        raise PlanError(f"{site.name}: wanted a {what} of shape {site.shape}, got {tuple(tensor.shape)}")


def _want_axis(site: Site, grid: Grid) -> None:
    if grid.axis is None:
        return
    if grid.groups and len(grid.scale) == 1:
        if prod(site.shape) % grid.groups:
            raise PlanError(f"{site.name}: {grid.groups} equal buckets do not fit shape {site.shape}")
        return
    if not 0 <= grid.axis < len(site.shape) or site.shape[grid.axis] != len(grid.scale):
        raise PlanError(f"{site.name}: {len(grid.scale)} scales along axis {grid.axis} do not fit shape {site.shape}")
    if grid.groups and prod(site.shape[1:]) % grid.groups:
        raise PlanError(f"{site.name}: the rows of shape {site.shape} are not {grid.groups} equal groups of values")


def _want_one_scale(site: Site, grid: Grid) -> None:
    if grid.axis is not None:
        raise PlanError(
            f"{site.name}: a grid with a scale per channel and a codebook cannot both hold",
            hint="use one scale for the whole tensor where values are shared",
        )


def _want_codebook(site: Site, held: Constraints, new: Codebook) -> None:
    if held.hash is not None:
        raise PlanError(
            f"{site.name}: its values are hashed, a codebook would part them",
            hint="to shorten the buckets, put them on a grid",
        )
    if held.grid is not None:
        _want_one_scale(site, held.grid)
    if held.codebook is not None:
        _want_coarser(site, held, new)


def _want_grid(site: Site, held: Constraints, new: Grid) -> None:
    if held.hash is not None:
        _want_symmetric(site, new)
    if held.codebook is not None:
        _want_one_scale(site, new)
    if held.grid is not None and new.bits > held.grid.bits:
        raise PlanError(f"{site.name}: is on a {held.grid.bits}-bit grid, a {new.bits}-bit grid would undo that")


def _want_symmetric(site: Site, grid: Grid) -> None:
    if not grid.symmetric:
        raise PlanError(
            f"{site.name}: a hash and a grid that is not symmetric about zero cannot both hold",
            hint="use one scale for the whole tensor and signed codes with 0 for zero",
        )


def _want_hash(site: Site, held: Constraints, new: Hash) -> None:
    if new.shape != site.shape:
        raise PlanError(f"{site.name}: wanted a hash of shape {site.shape}, got {new.shape}")
    if held.codebook is not None:
        raise PlanError(f"{site.name}: its values are shared, a hash would part them")
    if held.hash is not None and (held.hash.size, held.hash.seed) != (new.size, new.seed):
        raise PlanError(f"{site.name}: its values are hashed already, another hash would part them")
    if held.grid is not None:
        _want_symmetric(site, held.grid)


def _want_coarser(site: Site, held: Constraints, new: Codebook) -> None:
    """Refuse a codebook that gives two values to members of one old center."""
    if held.codebook is None or held.codebook.shared is not None:
        return
    if new.shared is not None:
        raise PlanError(f"{site.name}: a codebook of some values would part those that are shared already")
    kept = torch.ones(site.shape, dtype=torch.bool) if held.mask is None else held.mask.keep
    old, codes = held.codebook.codes[kept].long(), new.codes[kept].long()
    low = torch.full((held.codebook.size,), new.size).scatter_reduce(0, old, codes, "amin")
    high = torch.full((held.codebook.size,), -1).scatter_reduce(0, old, codes, "amax")
    if bool((high > low).any()):
        raise PlanError(f"{site.name}: the new codebook would part values that are shared already")
