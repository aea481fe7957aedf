"""Post-training quantization: weights and inputs of few bits, from a look at calibration data and no training.

Jacob et al., CVPR 2018 (arXiv 1712.05877), with one weight scale per output channel (Krishnamoorthi 2018, arXiv
1806.08342). Weights are symmetric, inputs affine with unsigned codes, as the integer operators of x86 and ARM want,
unless told otherwise.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from torch import nn

from gossamer.artifact.activations import module_of, output_of
from gossamer.errors import EvidenceError
from gossamer.methods.quantize.inputs import seen_grid
from gossamer.methods.quantize.ranges import InputRange, Range
from gossamer.methods.quantize.states import state_grids
from gossamer.methods.quantize.weights import Form, group_size, weight_grid
from gossamer.model import Constraints, Evidence, Grid, Method, Plan, Site, Skip, Subject, why_no_input_grid
from gossamer.model.ends import on_outputs, open_ends
from gossamer.model.state_grid import why_no_cell_grid
from gossamer.targets import read_cpu, why_in_floats, why_no_groups

Bits = Annotated[int, msgspec.Meta(ge=2, le=16)]
Group = Annotated[int, msgspec.Meta(ge=2)]
Codes = Literal["symmetric", "affine"]
States = Annotated[
    Literal["dynamic", "static"],
    msgspec.Meta(
        description="recurrent layers: the target puts inputs and states on 8 bits as they come, or on grids seen in "
        "calibration"
    ),
]
_INTEGER = 8


class PostTraining(Method, frozen=True, tag="quantize.post_training"):
    """Put weights on a grid of integers, and the inputs of their layers on one too.

    A weight has one scale per output channel, or one in all. A site whose values are shared gets one scale for all
    of them, so that they stay shared; on the target it is multiplied in floating point.

    Linear layers and convolutions then multiply in integers on the target, with inputs of 8 bits, weights of 8 bits
    or less, and scales per channel or tensor. What a convolution makes is put on a grid too where it does not go to
    such a layer, and so is what it is added to: the target then goes from codes to codes. Recurrent layers, and
    large linear ones with a scale per group of a multiple of 16 weights, do so without an input grid: the target
    quantizes inputs and states as they come, where that is faster than floating point. With static states the
    inputs and hidden states of recurrent layers are on grids too, and if wanted the cell states of LSTM layers, in
    the simulation as on the target. Everything else is stored as integers and multiplied in floating point, and
    gets no input grid: embedding, attention and transposed convolution weights, affine ones of 8 bits with scales
    per channel, convolutions with scales per group; the plan says so. Without inputs no data is needed: weights of
    8, 4 or 3 bits, with groups of 32 to 128, make the file smaller, and large linear layers faster.
    """

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    weight_bits: Annotated[
        Bits | Literal["auto"],
        msgspec.Meta(
            description="bits of a weight; auto: 8, or 7 on a processor whose sums of 8-bit products saturate, and one "
            "less where each channel has a zero of its own"
        ),
    ] = "auto"
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel, or of all: minmax, mse, or a percentile")
    ] = "mse"
    weight_codes: Annotated[
        Codes, msgspec.Meta(description="symmetric: signed, 0 is zero; affine: unsigned, with a zero of their own")
    ] = "symmetric"
    weight_scales: Annotated[
        Literal["channel", "tensor"] | Group,
        msgspec.Meta(description="one scale per output channel, per tensor, or for so many weights of a row at most"),
    ] = "channel"
    input_bits: Annotated[Bits, msgspec.Meta(description="bits of an input; the target multiplies 8 in integers")] = 8
    input_range: Annotated[
        InputRange,
        msgspec.Meta(
            description="range of the inputs of a layer: minmax, mse, kl, a percentile, or the moving average of the "
            "ends of each batch"
        ),
    ] = "mse"
    input_codes: Annotated[Codes, msgspec.Meta(description="as weight_codes, of inputs")] = "affine"
    powers_of_two: Annotated[bool, msgspec.Meta(description="all scales are powers of two, so that shifts do")] = False
    inputs: Annotated[
        bool,
        msgspec.Meta(
            description="put the inputs of layers on a grid too; otherwise only storage gets smaller, and the target "
            "multiplies in integers where it quantizes inputs as they come: recurrent layers, linear ones of 4 bits or "
            "with groups"
        ),
    ] = True
    states: States = "dynamic"
    cell_bits: Annotated[
        Annotated[int, msgspec.Meta(ge=8, le=16)] | Literal["float"],
        msgspec.Meta(
            description="bits of the cell states of LSTM layers whose states are static, symmetric over all that was "
            "seen; in half precision they are in that first"
        ),
    ] = "float"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Ranges of inputs and, if they get a grid, of cell states."""
        return frozenset({"range", "cell"} if self.states == "static" and self.cell_bits != "float" else {"range"})

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a grid for every chosen site, and for its input where the target multiplies in integers.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: the ranges of inputs were not collected.
            ModelError: a weight is not finite.
        """
        grids: dict[str, Grid] = {}
        inputs: dict[str, Grid] = {}
        skipped = []
        held = subject.constraints
        for site in self.chosen(subject):
            before = held.get(site.name, Constraints())
            if not np.prod(site.shape):
                skipped.append(Skip(site.name, "it has no values"))
                continue
            axis = None if before.shared or self.weight_scales == "tensor" else channel_axis(subject, site)
            group = 0 if axis is None else group_size(site, self._group)
            signed = self.weight_codes == "symmetric" or before.hash is not None
            own_zeros = not signed and axis is not None and not group
            why = self._why_in_floats(site, axis, group, own_zeros=own_zeros)
            found = self._inputs(subject, site, why, evidence) if self.inputs and not (group and why is None) else None
            dynamic = not group and _dynamic(subject, site)
            multiplied = dynamic or (isinstance(found, Grid) and found.bits == 8)
            bits = self._bits(multiplied=multiplied, own_zeros=own_zeros)
            if before.grid is not None and before.grid.bits < bits:
                skipped.append(Skip(site.name, f"it is on {before.grid.bits} bits already"))
                continue
            form = Form(bits, self.weight_range, signed, self.powers_of_two)
            grids[site.name] = weight_grid(subject, site, form, axis, group)
            notes = [] if group or axis is None else self._why_no_groups(site)
            if isinstance(found, Grid):
                inputs[site.name] = found
            elif found is not None and not dynamic:
                notes.insert(0, f"stored in {bits} bits, multiplied in float: {found}")
            skipped += [Skip(site.name, "; ".join(notes))] if notes else []
        held_grids = {site for site, each in held.items() if each.grid is not None}
        integer = {site for site in subject.activations.keys() | inputs.keys() if site in held_grids | grids.keys()}
        outputs = self._outputs(subject, integer, evidence)
        behind = on_outputs(subject.graph, [path for name in outputs if (path := module_of(name))])
        inputs |= {site: outputs[output_of(path)] for site, path in behind.items() if site in inputs} | outputs
        if self.states == "dynamic" and self.cell_bits != "float":
            beside = (name for name in grids if why_no_cell_grid(subject.model, subject.sites[name]) is None)
            skipped += [
                Skip(name, "the cell state beside it stays in float: its states are dynamic") for name in beside
            ]
        if self.states == "static":
            states, without = self._states(subject, grids, evidence)
            inputs |= states
            skipped += without
        return Plan(self.tag, constraints=grids, activations=inputs, skipped=tuple(skipped))

    def _outputs(self, subject: Subject, integer: Collection[str], evidence: Evidence | None) -> dict[str, Grid]:
        """Return the grids of outputs that no input grid awaits, so that convolutions go from codes to codes."""
        convolves = any(subject.sites[site].kind == "conv" for site in integer)
        if evidence is None or not convolves or self.input_bits != 8 or not self.inputs:
            return {}
        names = map(output_of, open_ends(subject.graph, integer))
        return {name: self._seen(evidence, name) for name in names if name in evidence.ranges}

    def _states(
        self, subject: Subject, grids: Mapping[str, Grid], evidence: Evidence | None
    ) -> tuple[dict[str, Grid], list[Skip]]:
        """Return the grids of what recurrent layers multiply, and why others get none."""
        chosen = {site: grid for site, grid in grids.items() if _dynamic(subject, subject.sites[site])}
        if not chosen:
            return {}, []
        if evidence is None:
            raise EvidenceError(
                f"{self.tag} needs the range of states, got no evidence",
                hint="calibrate with needs including 'range', or set states to dynamic",
            )
        if self.input_bits != _INTEGER:
            why = f"inputs and states get no grid: input_bits is {self.input_bits}, the target multiplies {_INTEGER}"
            return {}, [Skip(site, why) for site in chosen]
        cell = None if self.cell_bits == "float" else partial(self._cell, self.cell_bits)
        return state_grids(subject, chosen, evidence, self._seen, cell)

    @property
    def _group(self) -> int:
        return self.weight_scales if isinstance(self.weight_scales, int) else 0

    def _why_no_groups(self, site: Site) -> list[str]:
        row = int(np.prod(site.shape[1:]))
        if not self._group or row <= self._group:
            return []
        return [f"one scale per channel, for its rows of {row} weights are no equal groups of about {self._group}"]

    def _bits(self, *, multiplied: bool, own_zeros: bool) -> int:
        """Return the width of a weight's codes; what is only stored in integers cannot saturate.

        Less their zeros, codes take a bit more.
        """
        if self.weight_bits != "auto":
            return self.weight_bits
        return read_cpu().weight_bits - own_zeros if multiplied else 8

    def _why_in_floats(self, site: Site, axis: int | None, group: int, *, own_zeros: bool) -> str | None:
        """Return why the target multiplies a weight of this form in floating point, or None if it does not."""
        bits = _INTEGER - own_zeros if self.weight_bits == "auto" else self.weight_bits
        if group:
            return why_no_groups(site.kind, site.shape, bits, group)
        return why_in_floats(site.kind, bits, axis, symmetric=not own_zeros)

    def _inputs(self, subject: Subject, site: Site, why: str | None, evidence: Evidence | None) -> Grid | str:
        """Return the grid of the site's input, or why it gets none; ``why`` if it would be of no use."""
        reason = why_no_input_grid(subject.model, site) if why is None else why
        if reason is not None:
            return reason
        if evidence is None:
            raise EvidenceError(
                f"{self.tag} needs the range of inputs, got no evidence",
                hint="calibrate with needs including 'range', or set inputs to false",
            )
        if site.name in evidence.unread and site.name not in evidence.ranges:
            return f"calibration saw no input: {evidence.unread[site.name]}"
        return self._seen(evidence, site.name)

    def _seen(self, evidence: Evidence, name: str) -> Grid:
        return seen_grid(
            evidence,
            name,
            self.input_bits,
            self.input_range,
            signed=self.input_codes == "symmetric",
            powers=self.powers_of_two,
        )

    def _cell(self, bits: int, evidence: Evidence, name: str) -> Grid:
        if name not in evidence.ranges:
            raise EvidenceError(f"{name}: its range was not collected", hint="calibrate with needs including 'cell'")
        return seen_grid(evidence, name, bits, "minmax", signed=True, powers=self.powers_of_two)


def nearest(
    method: Method, subject: Subject, evidence: Evidence, *, input_bits: int | Literal["float"], **settings: Any
) -> Plan:
    """Return the plan of rounding the sites of ``method`` to the nearest, in its name.

    Args:
        method: whose sites.
        subject: the model.
        evidence: as ``PostTraining`` needs it.
        input_bits: bits of the inputs of layers, or float for no grid.
        settings: further ones of ``PostTraining``.
    """
    plain = PostTraining(
        include=method.include,
        exclude=method.exclude,
        input_bits=8 if input_bits == "float" else input_bits,
        inputs=input_bits != "float",
        **settings,
    )
    return replace(plain.plan(subject, evidence), method=method.tag)


def _dynamic(subject: Subject, site: Site) -> bool:
    """Return whether the target quantizes the inputs of ``site`` as they come, so that it can multiply in integers."""
    modules = [subject.model.get_submodule(owner.module) for owner in site.owners]
    return all(isinstance(module, nn.RNNBase) and not module.proj_size for module in modules)


def channel_axis(subject: Subject, site: Site) -> int | None:
    """Return the dimension of ``site`` that counts output channels, or None if scales cannot differ along it."""
    if site.kind == "conv_transpose":
        module = subject.model.get_submodule(site.owners[0].module)
        return 1 if getattr(module, "groups", 1) == 1 else None
    return None if site.kind == "other" else 0
