"""Rate-aware training: weights move to where they cost few bits, and the step between whole numbers trains with them.

Every site is w ≈ s q for whole numbers q and a step s of its own that trains (`model.learned`). The loss gains λ times
the bits of all q, as in Oktay, Ballé, Singh and Shrivastava, "Scalable Model Compression by Entropy Penalized
Reparameterization", ICLR 2020 (arXiv 1906.06624), where the forward pass sees rounded values and gradients pass
straight through, or noise stands in for rounding. In place of a density that is learned on the side, the bits are the
prices of the very coder that will write q, in their context (Wiedemann et al., "Entropy-Constrained Training of Deep
Neural Networks", 2018, arXiv 1812.07520, and DeepCABAC, arXiv 1907.11900), asked anew every so many steps. Between two
whole numbers they are interpolated, so that each weight is drawn to what is cheap around it: mostly an L1 penalty that
knows the row, the column and the neighbours of a weight, and how many weights stay. Steps grow until coarser ones cost
more loss than they save bits.

Without a grid that is there already, a step starts at 2 mean|w| / sqrt(Q), the start of Esser et al., "Learned Step
Size Quantization", ICLR 2020 (arXiv 1902.08153), for codes up to Q, here 7 at most: under a price that does much, few
codes are larger.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple, Self
from weakref import WeakKeyDictionary

import msgspec
import torch
from torch import Tensor, nn

from gossamer.errors import ModelError
from gossamer.methods.quantize.spent import Table, spent, tabled
from gossamer.methods.quantize.treatable import why_untreated
from gossamer.model import (
    Evidence,
    Grid,
    Method,
    Plan,
    Revise,
    Skip,
    StepContext,
    Subject,
    always_moved,
    live_weight,
    signed_bits,
)
from gossamer.model.learned import step_of
from gossamer.model.live import Live, live_parts

_START = 7
"""The largest code that the start of a step reckons with."""


class RateAware(Method, frozen=True, tag="quantize.rate_aware"):
    """Train with a price on every bit of the file: whole numbers of a trained step at each site.

    Acts while its step trains; zeros fall out by themselves, and zeros of a mask stay zero. A site that is on a grid
    with one step already sets out from that step. The last epoch's weights are kept, for earlier ones are larger.
    """

    in_training: ClassVar[bool] = True
    ramps: ClassVar[str | None] = "price"
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"price": 0.1})

    price: Annotated[
        float,
        msgspec.Meta(ge=0.0, description="rise of the loss (nats) that one bit less for every weight is worth"),
    ] = 0.1
    bits: Annotated[int, msgspec.Meta(ge=2, le=15, description="most bits of a code")] = 8
    noise: Annotated[
        bool, msgspec.Meta(description="train with even noise of a step's width in place of rounded weights")
    ] = False
    every: Annotated[
        int, msgspec.Meta(ge=1, description="optimizer steps between two times that the coder is asked for prices")
    ] = 200

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a trained grid for every chosen site that trains, and the penalty on their bits.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        grids, skipped = {}, []
        for site in self.chosen(subject):
            reason = _why_not(subject, site.name)
            if reason is None:
                grids[site.name] = self._grid(subject, site.name)
            else:
                skipped.append(Skip(site.name, reason))
        if not grids:
            return Plan(self.tag, skipped=tuple(skipped))
        weights = sum(subject.sites[name].numel for name in grids)
        penalty = RatePenalty(tuple(grids), self.price, weights, self.every)
        return Plan(self.tag, constraints=grids, penalties=(penalty,), skipped=tuple(skipped))

    def revision(self, subject: Subject) -> Revise:
        """Return what says before each step that prices have moved, so that weights kept before fit others."""
        del subject
        return always_moved(self)

    def conclusion(self, subject: Subject) -> Plan | None:
        """Return the values as they are rounded, on grids of no more bits than they need."""
        grids, tensors = {}, {}
        for site in self.chosen(subject):
            held = subject.constraints.get(site.name)
            if held is None or held.grid is None or not held.grid.trained or held.shared:
                continue
            values = live_weight(subject, site.name).cpu()
            bits = min(signed_bits(int(held.grid.quantize(values).abs().max())), held.grid.bits)
            grids[site.name] = replace(held.grid, bits=bits, noise=False)
            tensors[site.name] = values
        return Plan(self.tag, constraints=grids, tensors=tensors) if grids else None

    def _grid(self, subject: Subject, name: str) -> Grid:
        held = subject.constraints.get(name)
        before = None if held is None else held.grid
        bits = self.bits if before is None else min(self.bits, before.bits)
        step = first_step(live_weight(subject, name), bits) if before is None or not before.symmetric else before.scale
        return Grid(step, torch.tensor(0), bits, trained=True, noise=self.noise)


def first_step(weight: Tensor, bits: int) -> Tensor:
    """Return 2 mean|w| / sqrt(Q) over the values that are not zero, 0-d float32; Q is 7 or the largest of ``bits``.

    It is longer where codes would not fit 8 bits or more.
    """
    some = weight.detach().cpu().double()
    some, largest = some[some != 0].abs(), 2 ** (bits - 1) - 1
    least = float(some.max()) / largest if largest > 2**6 else 0.0
    return torch.tensor(max(2 * float(some.mean()) / math.sqrt(min(_START, largest)), least), dtype=torch.float32)


def _why_not(subject: Subject, name: str) -> str | None:
    """Return why a site cannot be treated, or None if it can.

    Raises:
        ModelError: a weight is not finite.
    """
    held = subject.constraints.get(name)
    reason = why_untreated(subject, name)
    if reason is None and held is not None and held.grid is not None and held.grid.bits < 2:
        return "it is on one bit already"
    return reason


class _Known(NamedTuple):
    """What is known of a site: its table, the part of it that a mask leaves, and where that is in the flat weight."""

    table: Table
    keep: Tensor | None
    where: Tensor | None
    part: Table


@dataclass(frozen=True, eq=False)
class RatePenalty:
    """``price`` nats for one bit more of every weight: price / weights times the bits of the codes of ``sites``.

    Attributes:
        sites: whose steps train.
        price: nats.
        weights: how many values the sites have.
        every: optimizer steps between two times that prices are asked for.
        known: prices by site; they follow from the codes that the site keeps, so that a training that was stopped goes
            on with the same ones.
    """

    sites: tuple[str, ...]
    price: float
    weights: int
    every: int
    known: "WeakKeyDictionary[Live, _Known]" = field(default_factory=WeakKeyDictionary, repr=False)

    def at(self, strength: float) -> Self:
        """Return the penalty at another price."""
        return replace(self, price=strength)

    def term(self, context: StepContext) -> Tensor | None:
        """Return the price of all bits, or None if nothing is left that has bits.

        Raises:
            ModelError: a site is no longer there.
        """
        total: Tensor | None = None
        for live, original in self._found(context.subject):
            if live.log_scale is None or live.log_scale.ndim or live.priced is None or live.codes is not None:
                continue  # a later step has put it on a grid of its own, or shares its values
            step = step_of(live.log_scale, original.numel(), live.bits)
            if context.step % self.every == 0:
                live.priced.copy_(_codes(live, original, step))
            if self.price == 0.0:  # a schedule may raise it before prices are due again
                continue
            where, part = self._known(live, live.priced)
            weight = original if where is None else original.reshape(-1).index_select(0, where)
            splice = live.splice if live.splice is None or where is None else live.splice.reshape(-1)[where]
            bits = spent(weight, step, part, splice)
            total = bits if total is None else total + bits
        return None if total is None else self.price / self.weights * total

    def proximal(self, subject: Subject, lr: float) -> None:
        """Do nothing: the penalty is all gradient."""

    def _known(self, live: Live, codes: Tensor) -> tuple[Tensor | None, Table]:
        """Return where a mask leaves weights (None: everywhere) and the prices there."""
        found = self.known.get(live)
        fresh = found is not None and found.table.version == codes._version and found.table.up.shape == codes.shape  # noqa: SLF001
        if found is None or not fresh or found.keep is not live.keep:
            table = found.table if found is not None and fresh else tabled(codes)
            self.known[live] = found = _masked(table, live.keep)
        return found.where, found.part

    def _found(self, subject: Subject) -> Iterator[tuple[Live, nn.Parameter]]:
        parts = {owner.name: (live, original) for owner, _, live, original in live_parts(subject.model)}
        for site in self.sites:
            if site not in parts:
                raise ModelError(
                    f"quantize.rate_aware: site {site} is no longer there",
                    hint="put quantize.rate_aware after the step that changed the model's structure",
                )
            yield parts[site]


def _masked(table: Table, keep: Tensor | None) -> _Known:
    if keep is None:
        return _Known(table, None, None, table)
    where = torch.nonzero(keep.reshape(-1)).squeeze(1)
    part = table._replace(down=table.down.reshape(-1)[where], up=table.up.reshape(-1)[where])
    return _Known(table, keep, where, part)


@torch.no_grad()
def _codes(live: Live, original: Tensor, step: Tensor) -> Tensor:
    most = 2 ** (live.bits - 1) - 1
    codes = (original.detach().float() / step).round().clamp(-most - 1, most)
    keep = live.kept
    return codes if keep is None else torch.where(keep, codes, 0)
