"""What methods that rank single weights have in common: a criterion gives scores, the ranking makes masks of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor, nn

from gossamer.errors import EvidenceError, ModelError, SettingError
from gossamer.methods.prune.pattern import Few, parse
from gossamer.methods.prune.ranking import Scope, Scored, masks
from gossamer.model import (
    Evidence,
    Layout,
    Mask,
    Method,
    Plan,
    Reading,
    Site,
    Skip,
    Subject,
    all_finite,
    hidden_weight,
    in_parts,
)

Scores = Mapping[str, Tensor | str]
"""By site: one score per weight, which counts by its absolute value, or the reason why there is none."""

PatternText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(unstructured|\d+:\d+|\d+x\d+)$",
        description="unstructured, N:M (N of M neighbours along the inputs stay) or RxC (blocks go whole)",
    ),
]


AnyScope = Annotated[
    Scope,
    msgspec.Meta(description="rank the weights of all sites together, of each site alone, or of each output alone"),
]


class Ranked(Method, frozen=True, tag="prune.ranked"):
    """Base of the methods that zero the weights with the lowest scores.

    Raises:
        SettingError: no such pattern, or it does not allow so many zeros.
    """

    strength: ClassVar[str | None] = "sparsity"
    strengths: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"sparsity": 0.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"sparsity": 0.5})

    apart: ClassVar[bool] = False
    """Whether the scores of a site are the same whatever other sites are scored, so that one at a time takes memory."""

    sparsity: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of the weights that become zero")]
    scope: AnyScope = "global"
    pattern: PatternText = "unstructured"

    def __post_init__(self) -> None:
        """Check the fields one by one, then the sparsity against the pattern."""
        super().__post_init__()
        check_pattern(type(self).__name__, self.pattern, self.sparsity)

    def by_itself(self) -> Self:
        """Return the method with a scope that is within each site."""
        return msgspec.structs.replace(self, scope="layer") if self.scope == "global" else self

    def scores(self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...]) -> Scores:
        """Return the scores of ``sites``; those of weights that are zero do not matter."""
        raise NotImplementedError(f"{type(self).__name__} must define scores")

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a mask for every chosen site that has scores and fits the pattern.

        Raises:
            PatternError: a pattern of names matches no site.
            ModelError: a weight is not finite.
            EvidenceError: the evidence that the criterion needs was not collected.
        """
        sites = self.chosen(subject)
        skipped = [Skip(site.name, "it has no weights") for site in sites if not site.numel]
        if self.sparsity == 0.0:
            return Plan(self.tag, skipped=tuple(skipped))
        if self.needs and evidence is None:
            raise EvidenceError(f"{self.tag} was given no evidence", hint=f"calibrate with needs={set(self.needs)}")
        pattern = parse(self.pattern)
        there = tuple(site for site in sites if site.numel)
        constraints: dict[str, Mask] = {}
        for some in [(site,) for site in there] if self.apart and self.scope != "global" else [there]:
            constraints |= masks(self._scored(subject, evidence, some, skipped), self.sparsity, self.scope, pattern)
        return Plan(self.tag, constraints, skipped=tuple(skipped))

    def _scored(
        self, subject: Subject, evidence: Evidence | None, sites: tuple[Site, ...], skipped: list[Skip]
    ) -> dict[str, Scored]:
        """Return the scores of sites that have some; the others are added to ``skipped``."""
        scored: dict[str, Scored] = {}
        for name, scores in self.scores(subject, evidence, sites).items():
            parts = parts_of(subject, subject.sites[name])
            reason = scores if isinstance(scores, str) else _unfit(self.pattern, parts, subject.sites[name])
            if isinstance(scores, str) or reason is not None:
                skipped.append(Skip(name, str(reason)))
            else:
                scored[name] = Scored(above_zero(scores, weight_of(subject, name)), parts)
        return scored


def check_pattern(kind: str, pattern: str, sparsity: float) -> None:
    """Check that ``pattern`` is one and allows ``sparsity``.

    Raises:
        SettingError: it does not.
    """
    try:
        parsed = parse(pattern)
    except SettingError as error:
        raise SettingError(f"{kind}.{error.message}", hint=error.hint) from None
    if sparsity > parsed.most + 1e-9:
        raise SettingError(
            f"{kind}.sparsity: wanted at most {parsed.most:g} with the pattern {pattern}, got {sparsity}"
        )


def weight_of(subject: Subject, site: str) -> Tensor:
    """Return the live values of ``site`` on the CPU, in float32; of a mask that can be taken back, those behind it.

    Raises:
        ModelError: one of them is not finite.
    """
    weight = hidden_weight(subject, site).to("cpu", torch.float32)
    if not all_finite(weight):
        raise ModelError(f"{site}: a weight is not finite, so weights cannot be ranked")
    return weight


def above_zero(scores: Tensor, weight: Tensor) -> Tensor:
    """Return ``scores`` with zero where, and only where, the weight is zero."""
    pairs = zip(in_parts(scores), in_parts(weight), strict=True)
    if all(torch.equal(score != 0, value != 0) for score, value in pairs):
        return scores
    least = torch.finfo(scores.dtype).tiny
    return torch.where(weight == 0, 0, torch.where(scores == 0, least, scores))


def parts_of(subject: Subject, site: Site) -> tuple[Layout, ...]:
    """Return how ``site`` is read as matrices (outputs, inputs), in the way its first owner uses it.

    A convolution's inputs are a window of its group's channels; an embedding's are the rows of its table, so its
    outputs are the embedding's dimensions.
    """
    rows = site.shape[0]
    match site.kind:
        case "embedding":
            return (Layout(Reading.TABLE, 0, site.shape[1]),)
        case "conv_transpose":
            module: nn.Module = subject.model.get_submodule(site.owners[0].module)
            each = rows // int(module.groups)  # type: ignore[arg-type]
            return tuple(Layout(Reading.TRANSPOSED_KERNEL, at, at + each) for at in range(0, rows, each))
        case _:
            return (Layout(Reading.ROWS if len(site.shape) == 2 else Reading.KERNEL, 0, rows),)


def _unfit(text: str, parts: tuple[Layout, ...], site: Site) -> str | None:
    """Return why ``site`` cannot have the pattern, or None if it can."""
    pattern = parse(text)
    for part in parts:
        inputs = part.inputs(site.shape)
        outputs = site.numel // (inputs * len(parts))
        reason = pattern.why_not(outputs, inputs)
        if reason is not None:
            what = f"{text} along the inputs" if isinstance(pattern, Few) else f"blocks of {text}"
            return f"{reason}, so it cannot have {what}"
    return None
