"""What binary, ternary and few-bit training have in common: who is treated, how the ends are, what inputs get."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.quantize.inputs import first_input_grid
from gossamer.methods.quantize.norms import RemeasuresNorms
from gossamer.methods.quantize.post_training import channel_axis
from gossamer.methods.quantize.treatable import ends_of, why_untreated
from gossamer.methods.quantize.weights import Form, weight_grid
from gossamer.model import (
    Binary,
    Bucketed,
    Evidence,
    Grid,
    Plan,
    Points,
    Site,
    Skip,
    StepContext,
    Subject,
    Tanh,
    Ternary,
    live_weight,
)
from gossamer.model.live import live_parts

Ends = Annotated[
    Literal["same", "int8", "float"],
    msgspec.Meta(description="the first and the last layer: as the others, on 8 bits, or left alone"),
]
ScaleStart = Literal["mean", "glorot", "one"]
Latent = Binary | Ternary | Tanh | Bucketed | Points
MIXED = "they take both signs, and two levels with zero for one of them cannot tell these apart"


@dataclass
class Few:
    """What is decided so far: rules and grids by site, input grids, and what is left alone."""

    latents: dict[str, Latent] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    inputs: dict[str, Grid] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)

    def plan(self, tag: str, *, clips: bool = False, tensors: Mapping[str, Tensor] | None = None) -> Plan:
        """Return the plan of the method ``tag``; with ``clips``, real values stay between the levels."""
        return Plan(
            tag,
            constraints={**self.latents, **self.grids},
            tensors=tensors or {},
            activations=self.inputs,
            penalties=(Clip(tuple(self.latents)),) if clips and self.latents else (),
            skipped=tuple(self.skipped),
        )


class FewLevels(RemeasuresNorms, frozen=True, tag="quantize.few_levels"):
    """Base of the methods that train real weights behind a few levels."""

    clips: ClassVar[bool] = False
    """Whether real weights stay between the levels."""

    ends: Ends = "same"

    def rule(self, subject: Subject, site: Site, weight: Tensor) -> Latent:
        """Return the rule of ``site``, whose ``weight`` is on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must define rule")

    def input_bits_of(self, subject: Subject, found: Few) -> Mapping[str, int]:
        """Return the bits of the inputs that get a grid, by site: none here."""
        del subject, found
        return {}

    def decided(self, subject: Subject, evidence: Evidence | None) -> Few:
        """Return rules for the chosen sites that can train, what the ends get, and grids for inputs.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: inputs get grids, and their ranges were not collected.
            ModelError: a weight is not finite.
        """
        found = Few()
        apart = ends_of(subject) if self.ends != "same" else frozenset[str]()
        for site in self.chosen(subject):
            reason = self._why_not(subject, site, apart)
            if reason is not None:
                found.skipped.append(Skip(site.name, reason))
            elif site.name in apart:
                found.grids[site.name] = weight_grid(subject, site, Form(8, "mse"), channel_axis(subject, site))
            else:
                found.latents[site.name] = self.rule(subject, site, live_weight(subject, site.name).cpu().float())
        few_inputs(found, subject, evidence, self.input_bits_of(subject, found))
        return found

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the rule of each chosen site that trains, and grids for inputs; no real weight changes.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: inputs get grids, and their ranges were not collected.
            ModelError: a weight is not finite.
        """
        return self.decided(subject, evidence).plan(self.tag, clips=self.clips)

    def _why_not(self, subject: Subject, site: Site, apart: Container[str]) -> str | None:
        """Return why ``site`` is left alone, or None if it is not."""
        reason = why_untreated(subject, site.name)
        if reason is not None:
            return reason
        held = subject.constraints.get(site.name)
        if held is not None and held.grid is not None:
            return "it is on a grid already"
        return "it is the first or the last layer" if self.ends == "float" and site.name in apart else None


def few_inputs(found: Few, subject: Subject, evidence: Evidence | None, bits: Mapping[str, int]) -> None:
    """Add input grids to ``found``: the range of least squared error, for ``bits`` by site.

    Inputs of one bit have the levels 0 and s, so they must not take both signs.

    Raises:
        EvidenceError: the ranges of inputs were not collected.
    """
    for name, width in bits.items():
        grid = first_input_grid(subject, subject.sites[name], evidence, width, "mse")
        if isinstance(grid, Grid) and width == 1 and evidence is not None and _mixed(evidence.samples(name)):
            grid = MIXED
        if isinstance(grid, Grid):
            found.inputs[name] = grid
        else:
            found.skipped.append(Skip(name, f"its inputs stay as they are: {grid}"))


def first_scale(weight: Tensor, how: str) -> Tensor:
    """Return the size of the levels of ``weight``, 0-d float32.

    Args:
        weight: not all zero.
        how: ``one``; ``glorot``, sqrt(1.5 / (inputs + outputs)) as in the code of BinaryConnect; or ``mean``, the mean
            size of the values that are not zero.
    """
    if how == "one":
        return torch.tensor(1.0)
    if how == "glorot":
        area = weight[:1, :1].numel()
        fans = (sum(weight.shape[:2]) if weight.ndim > 1 else weight.numel()) * max(area, 1)
        return torch.tensor((1.5 / fans) ** 0.5)
    size = weight.double().abs()
    return (size.sum() / size.count_nonzero()).float()


def own_axis(subject: Subject, site: Site) -> int | None:
    """Return 0 where the first dimension of ``site`` counts output channels, else None."""
    return 0 if channel_axis(subject, site) == 0 else None


@dataclass(frozen=True)
class Clip:
    """Clip the real values of ``sites`` to their levels after each optimizer step, which adds nothing to the loss."""

    sites: tuple[str, ...]

    def term(self, context: StepContext) -> Tensor | None:
        """Return None: there is nothing to add."""
        del context
        return None

    def proximal(self, subject: Subject, lr: float) -> None:
        """Clip in place.

        Raises:
            ModelError: a site is no longer there.
        """
        del lr
        parts = {owner.name: (live, real) for owner, _, live, real in live_parts(subject.model)}
        for name in self.sites:
            if name not in parts:
                raise ModelError(
                    f"binary weights: site {name} is no longer there",
                    hint="put the binary step after the one that changed the model's structure",
                )
            live, real = parts[name]
            rule = None if live.latent is None else live.latent.rule
            if isinstance(rule, Binary) and rule.scale is not None:
                real.data.clamp_(-float(rule.scale), float(rule.scale))


def _mixed(sample: np.ndarray) -> bool:
    """Return whether more than a tenth of the mean size of ``sample`` is below zero."""
    return float(-np.minimum(sample, 0).sum()) > 0.1 * float(np.abs(sample).sum())
