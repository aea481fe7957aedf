"""Depth pruning: whole residual blocks go, those whose absence the loss feels least.

That a residual network loses little with any one block is due to Veit, Wilber and Belongie, "Residual Networks Behave
Like Ensembles of Relatively Shallow Networks", NIPS 2016 (arXiv 1605.06431). A block's score is the rise of the loss on
calibration data when it alone is passed by, and those that score lowest go at once: for language models, the criterion
of Kim et al., "Shortened LLaMA", 2024 (arXiv 2402.02834). A recipe of several steps that each take one block measures
anew in between, which is the greedy order of Song et al., "SLEB: Streamlining LLMs through Redundancy Verification and
Elimination of Transformer Blocks", ICML 2024 (arXiv 2402.09025), with the task's loss for theirs.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec

from gossamer.errors import EvidenceError, ModelError
from gossamer.model import Block, Drop, Evidence, Method, Plan, Skip, Subject, cost_of, find_blocks


class Blocks(Method, frozen=True, tag="prune.blocks"):
    """Drop a share of the multiply-accumulates, parameters or blocks of the model, whole residual blocks at a time.

    A residual block adds what its weights make to its own input, and its output has the shape of its input; of such
    modules inside each other the innermost count. As near to ``amount`` goes as whole blocks allow, and at least one.
    A block is left alone if one of its sites is excluded or not included. Blocks of one step are measured one by one:
    in several steps, each of a small ``amount``, every one is measured without those that went before.
    """

    strength: ClassVar[str | None] = "amount"
    part: ClassVar[Literal["site", "group", "block"]] = "block"
    whole: ClassVar[bool] = True
    picks: ClassVar[str] = "blocks"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"amount": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"amount": 0.4, "blocks": ("*",)})

    amount: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share that goes of what is counted")]
    of: Annotated[
        Literal["macs", "parameters", "blocks"],
        msgspec.Meta(description="what amount counts: multiply-accumulates, parameters, or blocks"),
    ] = "macs"
    blocks: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="glob patterns of the modules that may go, the outermost of those that fit, residual or not; "
            "residual blocks if there is none"
        ),
    ] = ()
    repair: Annotated[bool, msgspec.Meta(description="measure batch norms anew, before training")] = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The depth of residual blocks, or of the modules that the patterns name; nothing where all blocks go."""
        if self._all:
            return frozenset()
        return frozenset(f"depth:{pattern}" for pattern in self.blocks) or frozenset({"depth"})

    @property
    def _all(self) -> bool:
        return self.of == "blocks" and self.amount == 1

    def by_itself(self) -> Self:
        """Return the method so that its amount is a share of the blocks it names."""
        return msgspec.structs.replace(self, of="blocks")

    def parts(self, subject: Subject) -> tuple[str, ...]:
        """Return the blocks that may go."""
        return tuple(block.path for block in self._able(subject, find_blocks(subject, self.blocks)))

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the drops, least harmful first.

        Raises:
            PatternError: a pattern matches no site, or names nothing that can be dropped.
            EvidenceError: evidence is missing.
            ModelError: operations are to be counted and the graph was not seen.
        """
        if evidence is None and self.amount and not self._all:
            raise EvidenceError(f"{self.tag} was given no evidence", hint=f"calibrate with needs={set(self.needs)}")
        found = find_blocks(subject, self.blocks)
        meant = {site.name for site in self.chosen(subject)}
        able = self._able(subject, found)
        going: Sequence[Block] = able if self._all else ()
        if self.amount and able and evidence is not None and not self._all:
            depths = {block.path: evidence.depth(block.path) for block in able}
            able.sort(key=lambda block: depths[block.path])
            going = self._first(able, self._whole(subject, able))
        gone = {site for block in going for site in block.gone}
        reasons = {site: self._reason(block, block in going, meant) for block in found for site in block.sites}
        return Plan(
            self.tag,
            edits=tuple(Drop(block.path) for block in going),
            skipped=tuple(
                Skip(site, reasons.get(site, self._nowhere(subject))) for site in subject.sites if site not in gone
            ),
            reset_norms=self.repair and bool(going),
        )

    def _able(self, subject: Subject, found: Sequence[Block]) -> list[Block]:
        meant = {site.name for site in self.chosen(subject)}
        return [block for block in found if meant.issuperset(block.sites)]

    def _whole(self, subject: Subject, able: Sequence[Block]) -> int:
        """Return how much there is of what is counted."""
        if self.of == "blocks":
            return len(able)
        if self.of == "parameters":
            return cost_of(subject).parameters
        if subject.graph.macs is None:
            raise ModelError(
                "operations cannot be counted, for the graph was not seen", hint="count parameters: of = 'parameters'"
            )
        return subject.graph.macs

    def _first(self, ranked: Sequence[Block], whole: int) -> Sequence[Block]:
        """Return as many of the first blocks as come nearest to the amount."""
        sizes = {"macs": [block.macs or 0 for block in ranked], "parameters": [block.parameters for block in ranked]}
        totals = accumulate(sizes.get(self.of, [1] * len(ranked)))
        _, count = min((abs(total - self.amount * whole), count) for count, total in enumerate(totals, 1))
        return ranked[:count]

    def _reason(self, block: Block, going: bool, meant: set[str]) -> str:  # noqa: FBT001
        if going:
            return f"a module outside of {block.path}, which goes, owns it too"
        left = [site for site in block.sites if site not in meant]
        if left:
            return f"its block {block.path} also holds {', '.join(left)}, which is left alone"
        return f"its block {block.path} stays: the loss would rise more without it, or enough went"

    def _nowhere(self, subject: Subject) -> str:
        if self.blocks:
            return "no module that the patterns name and that can be dropped holds it"
        if subject.graph.macs is None:
            return "residual blocks cannot be told, for the graph was not seen"
        return "no residual block whose output has the shape of its input holds it"
