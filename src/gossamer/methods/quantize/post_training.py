"""Post-training quantization: 8-bit weights and inputs, from a look at calibration data and no training.

Jacob et al., CVPR 2018 (arXiv 1712.05877), with one weight scale per output channel (Krishnamoorthi 2018, arXiv
1806.08342). Weights are symmetric, inputs affine with unsigned codes, as the integer operators of x86 and ARM want.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch

from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.quantize.ranges import Range, choose_levels
from gossamer.methods.quantize.uniform import Array, Levels, affine, symmetric
from gossamer.model import (
    Constraints,
    Evidence,
    Grid,
    Method,
    Plan,
    Site,
    Skip,
    Subject,
    live_weight,
    why_no_input_grid,
)
from gossamer.targets import read_cpu

_INTEGER_KINDS = frozenset({"linear", "conv"})

WeightBits = Annotated[int, msgspec.Meta(ge=2, le=8)]


class PostTraining(Method, frozen=True, tag="quantize.post_training"):
    """Put weights on a grid of integers, and the inputs of their layers on one too.

    A weight has one scale per output channel, or one in all. A site whose values are shared gets one scale for all
    of them, so that they stay shared; on the target it is multiplied in floating point.

    Linear layers and convolutions then multiply in integers on the target. Recurrent, embedding, attention and
    transposed convolution weights are stored as integers and multiplied in floating point; the plan says so.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range"})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    weight_bits: Annotated[
        WeightBits | Literal["auto"],
        msgspec.Meta(
            description="bits of a weight; auto: 8, or 7 on a processor whose sums of 8-bit products saturate"
        ),
    ] = "auto"
    weight_scales: Annotated[
        Literal["channel", "tensor"],
        msgspec.Meta(description="one scale for each output channel of a weight, or one for all of it"),
    ] = "channel"
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel, or of all: minmax, mse, or a percentile")
    ] = "mse"
    input_range: Annotated[
        Range, msgspec.Meta(description="range of the inputs of a layer: minmax, mse, or a percentile")
    ] = "mse"
    inputs: Annotated[
        bool, msgspec.Meta(description="put the inputs of layers on 8 bits too; otherwise only storage gets smaller")
    ] = True

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
            found = self._inputs(subject, site, evidence) if self.inputs else None
            bits = self._bits(multiplied=isinstance(found, Grid))
            if before.grid is not None and before.grid.bits < bits:
                skipped.append(Skip(site.name, f"it is on {before.grid.bits} bits already"))
                continue
            axis = None if before.shared or self.weight_scales == "tensor" else channel_axis(subject, site)
            grids[site.name] = self._weights(subject, site, bits, axis)
            if isinstance(found, Grid):
                inputs[site.name] = found
            elif found is not None:
                skipped.append(Skip(site.name, f"stored in {bits} bits, multiplied in float: {found}"))
        return Plan(self.tag, constraints=grids, activations=inputs, skipped=tuple(skipped))

    def _bits(self, *, multiplied: bool) -> int:
        """Return the width of a weight's codes; what is only stored in integers cannot saturate."""
        if self.weight_bits != "auto":
            return self.weight_bits
        return read_cpu().weight_bits if multiplied else 8

    def _weights(self, subject: Subject, site: Site, bits: int, axis: int | None) -> Grid:
        weight = live_weight(subject, site.name).detach().cpu().float()
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{site.name}: a weight is not finite, so it cannot be put on a grid")
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
        levels = choose_levels(_array(rows), self.weight_range, partial(symmetric, bits=bits))
        return _grid(levels, bits=bits, signed=True, axis=axis)

    def _inputs(self, subject: Subject, site: Site, evidence: Evidence | None) -> Grid | str:
        """Return the grid of the site's input, or why it gets none."""
        if site.kind not in _INTEGER_KINDS:
            return f"the target has no integer operator for {site.kind.replace('_', ' ')} weights"
        reason = why_no_input_grid(subject.model, site)
        if reason is not None:
            return reason
        if evidence is None:
            raise EvidenceError(
                f"{self.tag} needs the range of inputs, got no evidence",
                hint="calibrate with needs including 'range', or set inputs to false",
            )
        if site.name in evidence.unread and site.name not in evidence.ranges:
            return f"calibration saw no input: {evidence.unread[site.name]}"
        ends, sample = evidence.range(site.name), evidence.samples(site.name)
        levels = choose_levels(sample.reshape(1, -1), self.input_range, partial(affine, bits=8), ends)
        return _grid(levels, bits=8, signed=False, axis=None)


def channel_axis(subject: Subject, site: Site) -> int | None:
    """Return the dimension of ``site`` that counts output channels, or None if scales cannot differ along it."""
    if site.kind == "conv_transpose":
        module = subject.model.get_submodule(site.owners[0].module)
        return 1 if getattr(module, "groups", 1) == 1 else None
    return None if site.kind == "other" else 0


def _array(rows: torch.Tensor) -> Array:
    return np.ascontiguousarray(rows.numpy(), np.float32)


def _grid(levels: Levels, *, bits: int, signed: bool, axis: int | None) -> Grid:
    scale, zero = torch.from_numpy(levels.scale), torch.from_numpy(levels.zero)
    return Grid(scale, zero, bits, signed, axis) if axis is not None else Grid(scale[0], zero[0], bits, signed)
