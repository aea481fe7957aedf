"""What binary, ternary and few-bit training have in common: who is treated, how the ends are, what inputs get."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.quantize.inputs import first_input_grid
from gossamer.methods.quantize.post_training import channel_axis
from gossamer.methods.quantize.ranges import choose_levels
from gossamer.methods.quantize.treatable import ends_of, why_untreated
from gossamer.methods.quantize.uniform import symmetric
from gossamer.model import Binary, Evidence, Grid, Plan, Site, Skip, StepContext, Subject, Tanh, Ternary, live_weight
from gossamer.model.live import live_parts

Ends = Annotated[
    Literal["same", "int8", "float"],
    msgspec.Meta(description="the first and the last layer: as the others, on 8 bits, or left alone"),
]
Norms = Annotated[
    bool, msgspec.Meta(description="measure the statistics of batch norms anew once the step has trained")
]
ScaleStart = Literal["mean", "glorot", "one"]
Latent = Binary | Ternary | Tanh
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


def few_levels(subject: Subject, sites: Iterable[Site], ends: str, make: Callable[[Site, Tensor], Latent]) -> Few:
    """Return rules for ``sites`` that can train, and what the ``ends`` get.

    Args:
        subject: the model.
        sites: those to treat.
        ends: see `Ends`.
        make: returns the rule of a site from it and its weight, on the CPU.

    Raises:
        ModelError: a weight is not finite.
    """
    found = Few()
    apart = ends_of(subject) if ends != "same" else frozenset[str]()
    for site in sites:
        held = subject.constraints.get(site.name)
        reason = why_untreated(subject, site.name)
        if reason is None and held is not None and held.grid is not None:
            reason = "it is on a grid already"
        if reason is None and ends == "float" and site.name in apart:
            reason = "it is the first or the last layer"
        if reason is not None:
            found.skipped.append(Skip(site.name, reason))
        elif site.name in apart:
            found.grids[site.name] = _eight_bits(subject, site)
        else:
            found.latents[site.name] = make(site, live_weight(subject, site.name).cpu().float())
    return found


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


def _eight_bits(subject: Subject, site: Site) -> Grid:
    axis = channel_axis(subject, site)
    weight = live_weight(subject, site.name).cpu().float()
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
    scale = torch.from_numpy(
        choose_levels(np.ascontiguousarray(rows.numpy(), np.float32), "mse", partial(symmetric, bits=8)).scale
    )
    scale = scale if axis is not None else scale[0]
    return Grid(scale, torch.zeros_like(scale), 8, axis=axis)


def _mixed(sample: np.ndarray) -> bool:
    """Return whether more than a tenth of the mean size of ``sample`` is below zero."""
    return float(-np.minimum(sample, 0).sum()) > 0.1 * float(np.abs(sample).sum())
