"""Cost: what a model needs, as it is and as a plan would make it; all numbers are computed, not measured.

Also the cost of a convolution against the same map as a matrix, as in Goodfellow, Bengio and Courville, Deep Learning
(2016), section 9.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2, prod

import torch

from gossamer.errors import PlanError
from gossamer.model.apply import apply
from gossamer.model.buckets import bucket_count
from gossamer.model.constraint import Constraints
from gossamer.model.edits import Cut, Drop, Resize, Split
from gossamer.model.graph import Graph
from gossamer.model.latent import Bucketed, Points, level_count
from gossamer.model.merge import merge
from gossamer.model.plan import Plan
from gossamer.model.site import Site, find_sites
from gossamer.model.subject import Subject, live_weight


@dataclass(frozen=True, slots=True)
class SiteCost:
    """What one site needs.

    Attributes:
        values: how many values it has.
        nonzeros: how many of them are not zero.
        bits: bits to hold the nonzeros and what they share (centers, buckets, scales); without positions, headers or
            entropy coding, so this is no size of a file.
        macs: multiply-accumulates of one pass of the example; None if the graph was not seen.
        used_macs: of these, those whose weight is not zero.
    """

    values: int
    nonzeros: int
    bits: int
    macs: int | None
    used_macs: int | None


@dataclass(frozen=True)
class Cost:
    """What a model needs.

    Attributes:
        sites: cost of each weight.
        parameters: values of all parameters, those that are no sites included; tied weights once.
        dense_bytes: bytes of all parameters in their dtypes.
        macs: multiply-accumulates of one pass of the example, products without a weight (attention) included; None
            if the graph was not seen.
        used_macs: as ``macs``, without those whose weight is zero.
        activation_bytes: bytes written by all operators; None if the graph was not seen.
        peak_bytes: largest sum of activations alive at once; None if the graph was not seen.
    """

    sites: Mapping[str, SiteCost]
    parameters: int
    dense_bytes: int
    macs: int | None
    used_macs: int | None
    activation_bytes: int | None
    peak_bytes: int | None

    @property
    def nonzeros(self) -> int:
        """Nonzero values of all sites."""
        return sum(site.nonzeros for site in self.sites.values())

    @property
    def bits(self) -> int:
        """Bits of all sites, as in `SiteCost`."""
        return sum(site.bits for site in self.sites.values())


def cost_of(subject: Subject) -> Cost:
    """Return the cost of ``subject`` with the constraints that hold now."""
    held = subject.constraints
    macs = site_macs(subject.graph, subject.sites)
    costs = {name: _now(subject, site, held.get(name), macs) for name, site in subject.sites.items()}
    return _total(subject, costs, macs)


def plan_cost(subject: Subject, plan: Plan) -> Cost:
    """Return what ``apply(subject, plan)`` would cost, without changing anything.

    What goes of the structure is taken off a copy; everything else is computed.

    Raises:
        PlanError: the plan names a site the subject does not have, or does not fit it.
    """
    leaving = tuple(edit for edit in plan.edits if isinstance(edit, Drop | Cut | Resize))
    if leaving:
        subject = apply(subject, Plan(plan.method, edits=leaving))
    held = subject.constraints
    every = find_sites(subject.model, every=True)
    unknown = set(plan.constraints) - set(every)
    if unknown:
        raise PlanError(f"the subject has no site {min(unknown)!r}")
    ranks = {edit.module: edit.rank for edit in plan.edits if isinstance(edit, Split)}
    macs = site_macs(subject.graph, subject.sites)
    costs: dict[str, SiteCost] = {}
    for name, site in subject.sites.items():
        rank = ranks.get(site.owners[0].module) if site.owners[0].attribute == "weight" else None
        if rank is not None:
            costs |= _split(subject, site, rank, macs)
            continue
        merged = held.get(name, Constraints())
        for part in plan.on(name):
            merged = merge(site, merged, part)
        costs[name] = _now(subject, site, merged if plan.on(name) else held.get(name), macs)
    return _total(subject, costs, macs)


def site_macs(graph: Graph, sites: Mapping[str, Site]) -> dict[str, int]:
    """Return the multiply-accumulates of each weight; an operator that reads several has its count shared by size."""
    found = dict.fromkeys(sites, 0)
    for node in graph.nodes:
        read = [sites[name] for name in node.sites if name in sites]
        total = sum(site.numel for site in read)
        for site in read:
            found[site.name] += (node.macs or 0) * site.numel // max(total, 1)
    return found


def _now(subject: Subject, site: Site, held: Constraints | None, all_macs: Mapping[str, int]) -> SiteCost:
    width = site.dtype.itemsize * 8
    value = live_weight(subject, site.name)
    keep = held.keep if held is not None else None
    nonzeros = int(value.count_nonzero()) if keep is None else int((value.cpu() != 0)[keep].sum())
    each: float = width
    shared: float = 0
    if held is not None and held.grid is not None:
        each, shared = held.grid.bits, 64 * held.grid.scale.numel()
    if held is not None and held.latent is not None:
        count = level_count(held.latent)
        if isinstance(held.latent, Bucketed | Points):
            shared = 64 * bucket_count(site.numel, held.latent.size)
        else:
            shared = each * count * (1 if held.latent.axis is None else site.shape[0])
        each = ceil(log2(count))
    if held is not None and held.codebook is not None:
        shared += each * held.codebook.size
        each = ceil(log2(held.codebook.most))
        if held.codebook.words is not None:
            each = ceil(log2(held.codebook.size // held.codebook.width)) / held.codebook.width
    if held is not None and held.hash is not None:
        each, shared = 0, shared + each * held.hash.size
    macs = None if subject.graph.macs is None else all_macs[site.name]
    used = None if macs is None else macs * nonzeros // max(site.numel, 1)
    return SiteCost(site.numel, nonzeros, ceil(nonzeros * each + shared), macs, used)


def _split(subject: Subject, site: Site, rank: int, all_macs: Mapping[str, int]) -> dict[str, SiteCost]:
    outputs, inputs = site.shape
    macs = None if subject.graph.macs is None else all_macs[site.name]
    costs = {}
    for index, values in enumerate((rank * inputs, outputs * rank)):
        share = None if macs is None else macs * values // site.numel
        name = f"{site.owners[0].module}.{index}.weight"
        costs[name] = SiteCost(values, values, values * site.dtype.itemsize * 8, share, share)
    return costs


def _total(subject: Subject, costs: Mapping[str, SiteCost], all_macs: Mapping[str, int]) -> Cost:
    every = find_sites(subject.model, every=True)
    others = [site for name, site in every.items() if name not in subject.sites]
    sizes = {name: site.dtype.itemsize for name, site in subject.sites.items()}
    widest = max(sizes.values(), default=4)
    graph = subject.graph
    changed = sum(cost.macs or 0 for cost in costs.values()) - sum(all_macs.values())
    macs = None if graph.macs is None else graph.macs + changed
    spared = sum((cost.macs or 0) - (cost.used_macs or 0) for cost in costs.values())
    return Cost(
        costs,
        sum(cost.values for cost in costs.values()) + sum(site.numel for site in others),
        sum(cost.values * sizes.get(name, widest) for name, cost in costs.items())
        + sum(site.numel * site.dtype.itemsize for site in others),
        macs,
        None if macs is None else macs - spared,
        graph.activation_bytes,
        graph.peak_bytes,
    )


@dataclass(frozen=True, slots=True)
class MapCost:
    """What one form of a linear map needs: stored floats and floating-point operations."""

    floats: int
    operations: int


def convolution_table(kernel: torch.Tensor, height: int, width: int) -> dict[str, MapCost]:
    """Return the cost of a 2-d convolution without padding as ``convolution``, ``dense`` and ``sparse`` matrix.

    Only kernel entries that are not zero are counted. For each output, a convolution and a sparse matrix multiply
    once per entry and add the products; a dense matrix stores the map between all inputs and all outputs and does a
    multiplication and an addition per stored entry.

    Args:
        kernel: shape (kernel height, kernel width).
        height: rows of the image.
        width: columns of the image.
    """
    if kernel.ndim != 2 or kernel.shape[0] > height or kernel.shape[1] > width or not kernel.any():
        raise PlanError(f"a kernel of shape {tuple(kernel.shape)} does not fit an image of {(height, width)}")
    entries = int(kernel.count_nonzero())
    outputs = (height - kernel.shape[0] + 1) * (width - kernel.shape[1] + 1)
    per_output = 2 * entries - 1
    pairs = prod((height, width, outputs))
    return {
        "convolution": MapCost(entries, outputs * per_output),
        "dense": MapCost(pairs, 2 * pairs),
        "sparse": MapCost(entries * outputs, outputs * per_output),
    }
