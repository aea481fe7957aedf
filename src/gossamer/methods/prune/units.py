"""Structured pruning: whole units go (filters, neurons, hidden units of recurrent layers, heads), and shapes with them.

Which positions go together is found over the model's graph (:mod:`gossamer.model.coupling`); which units go first is a
criterion's choice, made over all groups after the layer-wise normalisation of Molchanov et al., ICLR 2017 (arXiv
1611.06440), section 2.2, optionally with that paper's penalty on operations (equation 9); what is left is repaired by
least squares and by measuring batch norms anew.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from gossamer.errors import ModelError, PatternError
from gossamer.methods.prune.choosing import Kept, Ranking, Scope, chosen, ranked
from gossamer.methods.prune.criteria import CRITERIA, Name
from gossamer.methods.prune.least_squares import NEEDS as REPAIR_NEEDS
from gossamer.methods.prune.least_squares import repaired
from gossamer.model import Cut, Evidence, Group, Method, Plan, Skip, Subject
from gossamer.model.coupling import positions
from gossamer.model.cut_cost import CutCost, cut_cost


class Units(Method, frozen=True, tag="prune.units"):
    """Cut a share of the model's units, multiply-accumulates or parameters.

    A group is left alone if one of the sites it touches is excluded or none is included.
    """

    strength: ClassVar[str | None] = "amount"
    part: ClassVar[Literal["site", "group"]] = "group"
    picks: ClassVar[str] = "groups"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"amount": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"amount": 0.4})

    amount: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0, description="share that goes of what is counted")]
    groups: Annotated[tuple[str, ...], msgspec.Meta(description="glob patterns of the groups to treat")] = ("*",)
    of: Annotated[
        Literal["macs", "parameters", "units"],
        msgspec.Meta(description="what amount counts: multiply-accumulates, parameters, or units"),
    ] = "macs"
    criterion: Annotated[Name, msgspec.Meta(description="what ranks units; those that score lowest go first")] = (
        "fisher"
    )
    scope: Annotated[
        Scope, msgspec.Meta(description="rank units of all groups together, or take the same share of every group")
    ] = "global"
    normalize: Annotated[
        bool, msgspec.Meta(description="divide scores by the Euclidean norm of their group's before they are compared")
    ] = True
    flops_penalty: Annotated[
        float,
        msgspec.Meta(ge=0.0, description="times a unit's multiply-accumulates (in millions), taken off its score"),
    ] = 0.0
    floor: Annotated[
        float, msgspec.Meta(ge=0.0, le=1.0, description="share of each group's units that stays in any case")
    ] = 0.1
    round_to: Annotated[
        int, msgspec.Meta(ge=1, description="units that stay in a cut group are a multiple of this")
    ] = 1
    repair: Annotated[
        bool, msgspec.Meta(description="repair readers by least squares and measure batch norms anew, before training")
    ] = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Evidence of the criterion, and of the repair."""
        return CRITERIA[self.criterion].needs | (REPAIR_NEEDS if self.repair else frozenset())

    def by_itself(self) -> Self:
        """Return the method so that its amount is a share of each group's units."""
        return msgspec.structs.replace(self, scope="group", of="units")

    def parts(self, subject: Subject) -> tuple[str, ...]:
        """Return the groups that can be cut and are to be treated."""
        self._check_groups(subject)
        return tuple(group.name for group in subject.groups if self._takes(subject, group, {}))

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the cut, with repaired readers.

        Raises:
            PatternError: a pattern matches no site, or no group.
            EvidenceError: evidence is missing.
            ModelError: a score is not finite, or operations are to be counted and the graph was not seen.
        """
        self._check_groups(subject)
        reasons: dict[str, str] = {}
        groups = [group for group in subject.groups if self._takes(subject, group, reasons)]
        rankings, costs = [], cut_cost(subject)
        for group in groups:
            scores = CRITERIA[self.criterion].scores(subject, evidence, group)
            if isinstance(scores, str):
                _note(reasons, group, scores)
                continue
            if not np.isfinite(scores).all():
                raise ModelError(f"{group.name}: a score is not finite, so its units cannot be ranked")
            rankings.append(
                ranked(group, self._comparable(group, scores, costs), floor=self.floor, round_to=self.round_to)
            )
        kept: Kept = {}
        if self.amount and rankings:
            kept = chosen(rankings, self.amount, self.scope, lambda keep: self._gone(costs, keep, rankings))
        for group in groups:
            if group.name not in kept:
                _note(reasons, group, "none of its units ranks low enough")
        index = positions(subject.groups, kept)
        repair = repaired(subject, evidence, index) if self.repair and evidence is not None and index else {}
        cut = Cut(tuple((name, tuple(np.flatnonzero(keep).tolist())) for name, keep in kept.items()))
        skipped = tuple(
            Skip(name, reasons.get(name, "none of its dimensions can be cut"))
            for name in subject.sites
            if name not in index
        )
        return Plan(
            self.tag,
            edits=(cut,) if kept else (),
            tensors=repair,
            skipped=skipped,
            reset_norms=self.repair and bool(kept),
        )

    def _check_groups(self, subject: Subject) -> None:
        names = [group.name for group in subject.groups]
        for pattern in self.groups:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                raise PatternError(f"pattern {pattern!r} matches no group", hint=f"the groups are: {', '.join(names)}")
        if self.amount and self.of == "macs" and subject.groups and subject.graph.macs is None:
            raise ModelError(
                "operations cannot be counted, for the graph was not seen", hint="count parameters: of = 'parameters'"
            )

    def _takes(self, subject: Subject, group: Group, reasons: dict[str, str]) -> bool:
        touched = {part.tensor for part in group.slices if part.tensor in subject.sites}
        meant = {site.name for site in self.chosen(subject)}
        if group.stuck:
            _note(reasons, group, group.stuck)
        elif not any(fnmatchcase(group.name, pattern) for pattern in self.groups):
            _note(reasons, group, "its group is left alone")
        elif not touched <= meant:
            _note(reasons, group, f"its units also touch {', '.join(sorted(touched - meant))}, which is left alone")
        else:
            return True
        return False

    def _comparable(self, group: Group, scores: NDArray[np.float64], costs: CutCost) -> NDArray[np.float64]:
        norm = float(np.linalg.norm(scores))
        found = scores / norm if self.normalize and norm > 0 else scores
        if self.flops_penalty:
            found = found - self.flops_penalty * costs.macs_of_unit(group) / 1e6
        return found

    def _gone(self, costs: CutCost, keep: Mapping[str, NDArray[np.bool_]], rankings: Sequence[Ranking]) -> float:
        match self.of:
            case "macs":
                return 1 - costs.macs(keep) / max(costs.macs({}), 1.0)
            case "parameters":
                return 1 - costs.parameters(keep) / max(costs.parameters({}), 1)
            case "units":
                every = sum(one.size for one in rankings)
                return sum(int((~flags).sum()) for flags in keep.values()) / max(every, 1)


def _note(reasons: dict[str, str], group: Group, reason: str) -> None:
    for part in group.slices:
        reasons.setdefault(part.tensor, reason)
