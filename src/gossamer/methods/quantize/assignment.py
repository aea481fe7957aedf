"""The width of each site, from what it loses at each, under a limit of bytes, of bit operations or of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from gossamer import targets
from gossamer.artifact import dumps, stored_bytes
from gossamer.artifact.activations import module_of
from gossamer.errors import ModelError, SettingError
from gossamer.methods.quantize.knapsack import cheapest
from gossamer.model import Grid, Plan, Skip, Subject, apply, freeze, plain_copy, to_artifact
from gossamer.model.cost import site_macs
from gossamer.model.used_grids import used_grids

FLOAT = 32
"""The width at which a site is left as it is."""
INTEGER = 8
"""The most bits of a weight that a target multiplies as an integer, with an input of as many."""
_TRIES = 12


@dataclass(frozen=True, eq=False)
class Table:
    """What each site may be, and what it then loses.

    Attributes:
        tag: of the method.
        subject: what is quantized.
        plans: of all sites, by width.
        losses: of each site that has a choice, by width.
        floats: whether a site may be left as it is.
    """

    tag: str
    subject: Subject
    plans: Mapping[int, Plan]
    losses: Mapping[str, Mapping[int, float]]
    floats: bool

    @cached_property
    def choices(self) -> dict[str, dict[int, float]]:
        """What each site loses by width, floats among them."""
        floats = {FLOAT: 0.0} if self.floats else {}
        return {site: {**by_width, **floats} for site, by_width in self.losses.items()}

    def assigned(self, costs: Mapping[str, Mapping[int, float]], budget: float) -> dict[str, int] | None:
        """Return the width of each site, or None if the least costs are above ``budget``."""
        widths = {site: tuple(each) for site, each in self.choices.items()}
        losses = [tuple(each.values()) for each in self.choices.values()]
        taken = cheapest(losses, [[costs[site][width] for width in each] for site, each in widths.items()], budget)
        return None if taken is None else {site: widths[site][at] for site, at in zip(widths, taken, strict=True)}

    def plan(self, widths: Mapping[str, int]) -> Plan:
        """Return the plan that gives each site its width."""
        constraints, activations, skipped = {}, dict[str, Grid](), dict[str, str]()
        for plan in self.plans.values():
            activations |= {name: grid for name, grid in plan.activations.items() if module_of(name) is not None}
            skipped |= {skip.site: skip.reason for skip in plan.skipped if skip.site not in plan.constraints}
            skipped |= dict.fromkeys(plan.constraints, "what its errors do to the loss is not known")
        for site, width in widths.items():
            skipped.pop(site, None)
            if width == FLOAT:
                skipped[site] = "left as it is, for which the budget has room"
                continue
            plan = self.plans[width]
            constraints[site] = plan.constraints[site]
            if site in plan.activations:
                activations[site] = plan.activations[site]
            skipped |= {skip.site: skip.reason for skip in plan.skipped if skip.site == site}
        skips = tuple(Skip(site, reason) for site, reason in skipped.items())
        used = used_grids(self.subject, activations)
        return Plan(self.tag, constraints=constraints, activations=used, skipped=skips)


def within_operations(table: Table, limit: int | float) -> Plan:
    """Return the plan under a limit of bit operations, or of a share of those in 32-bit floats.

    Raises:
        ModelError: the graph was not seen.
        SettingError: the limit cannot be met.
    """
    graph = table.subject.graph
    if graph.macs is None:
        raise ModelError(
            f"{table.tag}: the model's graph was not seen, so bit operations are not known", hint="limit bytes instead"
        )
    macs = site_macs(graph, table.subject.sites)

    def bits(site: str, width: int) -> int:
        integers = width != FLOAT and site in table.plans[width].activations
        return width * (INTEGER if integers else FLOAT)

    costs = {
        site: {width: float(macs[site] * bits(site, width)) for width in each} for site, each in table.choices.items()
    }
    whole = FLOAT * FLOAT * graph.macs
    others = whole - FLOAT * FLOAT * sum(macs[site] for site in costs)
    most = limit if isinstance(limit, int) else int(limit * whole)
    widths = table.assigned(costs, most - others)
    if widths is None:
        least = int(others + sum(min(each.values()) for each in costs.values()))
        raise SettingError(
            f"{table.tag}.limit: {most:,} bit operations cannot be met: the fewest bits leave {least:,}",
            hint="allow more, or fewer bits in widths",
        )
    return table.plan(widths)


def within_bytes(table: Table, limit: int | float) -> Plan:
    """Return the plan under a limit of bytes, or of a share of dense ones.

    Raises:
        SettingError: the limit cannot be met.
    """
    most = limit if isinstance(limit, int) else int(limit * dense_bytes(table.subject))
    sizes = {width: _sizes(table, plan) for width, plan in table.plans.items()}
    sizes[FLOAT] = _sizes(table, Plan(table.tag))
    costs = {site: {width: sizes[width][site] for width in each} for site, each in table.choices.items()}
    fewest = {site: min(each, key=each.__getitem__) for site, each in costs.items()}
    least = _file_bytes(table.subject, table.plan(fewest))
    others = least - sum(costs[site][width] for site, width in fewest.items())
    # The header is longer for some codings than for others.
    found = _tightened(table, costs, most - others, lambda plan: _file_bytes(table.subject, plan) - most)
    if found is not None:
        return found
    if least <= most:
        return table.plan(fewest)
    raise SettingError(
        f"{table.tag}.limit: {most:,} bytes cannot be met: the fewest bits leave a file of {least:,}",
        hint="allow more, or fewer bits in widths",
    )


def within_latency(table: Table, limit: int | float) -> Plan:
    """Return the plan under a limit of microseconds, or of a share of what 32-bit floats take, on ONNX Runtime here.

    The time of each site is measured in the graph of all sites at each width, and so is that of the whole in the end,
    for the example inputs and on one thread.

    Raises:
        TargetError: the model cannot be exported.
        SettingError: the limit cannot be met.
    """
    profiles = {width: _profile(table, plan) for width, plan in table.plans.items()}
    profiles[FLOAT] = _profile(table, Plan(table.tag))
    most = 1e-6 * limit if isinstance(limit, int) else limit * profiles[FLOAT].whole
    costs = {site: {width: profiles[width].sites[site] for width in each} for site, each in table.choices.items()}
    others = profiles[FLOAT].whole - sum(profiles[FLOAT].sites[site] for site in costs)
    found = _tightened(table, costs, most - others, lambda plan: _profile(table, plan).whole - most)
    if found is not None:
        return found
    fastest = {site: min(each, key=each.__getitem__) for site, each in costs.items()}
    least = _profile(table, table.plan(fastest)).whole
    floats = profiles[FLOAT].whole
    if least <= most:
        return table.plan(fastest)
    if table.floats and floats <= most:
        return table.plan(dict.fromkeys(fastest, FLOAT))
    raise SettingError(
        f"{table.tag}.limit: {1e6 * most:,.0f} microseconds cannot be met: the fastest widths take {1e6 * least:,.0f}, "
        f"and floats {1e6 * floats:,.0f}",
        hint="allow more" if least < floats else "allow more: on this machine integers make this model no faster",
    )


def _tightened(
    table: Table, costs: Mapping[str, Mapping[int, float]], budget: float, over: Callable[[Plan], float]
) -> Plan | None:
    """Return a plan within ``budget`` that ``over`` finds nothing beyond; what it finds comes off the budget."""
    for _ in range(_TRIES):
        widths = table.assigned(costs, budget)
        if widths is None:
            return None
        plan = table.plan(widths)
        beyond = over(plan)
        if beyond <= 0:
            return plan
        budget -= beyond
    return None


def _profile(table: Table, plan: Plan) -> "targets.Profile":
    """Return the times of every site under ``plan``, and of the whole."""
    subject = table.subject
    frozen = freeze(apply(subject, plan))
    graph = targets.graph_of(frozen, subject.args, subject.kwargs)
    inputs = targets.arrays_of(graph, subject.args, subject.kwargs)
    return targets.profile(targets.lower_frozen(frozen, graph).proto, list(table.choices), inputs)


def _sizes(table: Table, plan: Plan) -> dict[str, float]:
    """Return the coded bytes of every site under ``plan``."""
    artifact = to_artifact(freeze(apply(table.subject, plan)))
    stored = stored_bytes(artifact.tensors)
    return {site: float(stored[artifact.aliases.get(site, site)]) for site in table.choices}


def _file_bytes(subject: Subject, plan: Plan) -> int:
    return len(dumps(to_artifact(freeze(apply(subject, plan)))))


def dense_bytes(subject: Subject) -> int:
    """Return the bytes of all parameters of the plain model in float32, tied ones once."""
    return 4 * sum(parameter.numel() for parameter in plain_copy(subject).parameters())
