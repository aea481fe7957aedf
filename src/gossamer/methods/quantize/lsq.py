"""Learned step sizes: weights and inputs on a few bits, and the steps between their levels train with the weights.

Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153): v is
s times round(clip(v / s, -Q_N, Q_P)), gradients pass straight through rounding, and s has a gradient of its own
(`model.learned`, which trains its logarithm). A step starts at 2 mean|v| / sqrt(Q_P); the first and the last layer
have 8 bits; the network starts from trained weights. Signed inputs, which the paper gives signed codes, have a fixed
zero point here.

By default steps start where rounding alone has the least squared error, which is what quantization after training
gives, and inputs that are on a grid of as many bits go on from it.

Batch norms train as ever, on statistics of quantized layers, which are measured anew once the step has trained
(`norms`).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.methods.quantize.inputs import first_input_grid
from gossamer.methods.quantize.norms import Norms, RemeasuresNorms
from gossamer.methods.quantize.post_training import channel_axis
from gossamer.methods.quantize.treatable import ends_of, why_untreated
from gossamer.methods.quantize.weights import Form, weight_grid
from gossamer.model import Evidence, Grid, Plan, Site, Skip, Subject, live_weight

Bits = Annotated[int, msgspec.Meta(ge=2, le=8)]


class Lsq(RemeasuresNorms, frozen=True, tag="quantize.lsq"):
    """Train weights, and the inputs of their layers, on levels whose steps train too.

    Acts while its step trains, from weights that are trained already. Afterwards the steps of inputs are fixed; those
    of weights go on training if later steps train. What is on fewer bits already keeps them, and zeros stay zero.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range"})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"bits": 4})

    bits: Annotated[Bits, msgspec.Meta(description="bits of a weight")] = 4
    input_bits: Annotated[
        Bits | Literal["float"], msgspec.Meta(description="bits of an input of a layer; float leaves inputs alone")
    ] = 8
    end_bits: Annotated[
        Bits | Literal["same", "float"],
        msgspec.Meta(
            description="bits of the first and the last layer, weights and inputs; same: those of the others; float "
            "leaves both layers alone"
        ),
    ] = 8
    channels: Annotated[
        bool, msgspec.Meta(description="a step for every output channel of a weight, not one for all of it")
    ] = False
    start: Annotated[
        Literal["mse", "mean"],
        msgspec.Meta(description="where steps start: at the least squared error, or by the mean as in the paper"),
    ] = "mse"
    reset_norms: Norms = True

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return grids with trained steps for the chosen sites, and for the inputs of their layers.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: the ranges of inputs were not collected.
            ModelError: a weight is not finite.
        """
        weights: dict[str, Grid] = {}
        inputs: dict[str, Grid] = {}
        skipped = []
        ends = ends_of(subject) if self.end_bits != "same" else frozenset[str]()
        for site in self.chosen(subject):
            at_end = site.name in ends
            reason = why_untreated(subject, site.name)
            if reason is None and at_end and self.end_bits == "float":
                reason = "it is the first or the last layer"
            if reason is not None:
                skipped.append(Skip(site.name, reason))
                continue
            weights[site.name] = self._weights(subject, site, self.end_bits if at_end else self.bits)
            if self.input_bits == "float":
                continue
            found = self._inputs(subject, site, evidence, self.end_bits if at_end else self.input_bits)
            if isinstance(found, Grid):
                inputs[site.name] = found
            else:
                skipped.append(Skip(site.name, f"its inputs stay as they are: {found}"))
        return Plan(self.tag, constraints=weights, activations=inputs, skipped=tuple(skipped))

    def _weights(self, subject: Subject, site: Site, bits: int | str) -> Grid:
        held = subject.constraints.get(site.name)
        before = None if held is None else held.grid
        wanted = int(bits) if before is None else min(int(bits), before.bits)
        axis = channel_axis(subject, site) if self.channels else None
        plain = before is not None and before.signed and before.scale.ndim < 2
        if before is not None and plain and (before.bits, before.axis) == (wanted, axis):
            return Grid(before.scale, before.zero, wanted, axis=axis, trained=True)
        if self.start == "mse":
            return replace(weight_grid(subject, site, Form(wanted, "mse"), axis), trained=True)
        weight = live_weight(subject, site.name).cpu().float()
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
        scale = first_steps(rows, wanted) if axis is not None else first_steps(rows, wanted)[0]
        return Grid(scale, torch.zeros_like(scale), wanted, axis=axis, trained=True)

    def _inputs(self, subject: Subject, site: Site, evidence: Evidence | None, bits: int | str) -> Grid | str:
        found = first_input_grid(subject, site, evidence, int(bits), "mse", trained=True)
        known = site.name in subject.activations and subject.activations[site.name].bits == bits
        if self.start == "mse" or known or isinstance(found, str) or evidence is None:
            return found
        if bool(found.zero.any()):
            return found
        step = 2 * float(np.abs(evidence.samples(site.name)).mean()) / math.sqrt(2 ** int(bits) - 1)
        return found if step <= 0.0 else Grid(torch.tensor(step), found.zero, found.bits, signed=False, trained=True)


def first_steps(rows: Tensor, bits: int) -> Tensor:
    """Return 2 mean|w| / sqrt(Q) of each row, float32 (rows,); Q is the largest signed code of ``bits``.

    Values that are zero are not counted: a mask may hold them. A row of zeros has a step of 1.
    """
    some = rows.double().abs()
    mean = some.sum(1) / (some > 0).sum(1).clamp_min(1)
    step = 2 * mean / math.sqrt(2 ** (bits - 1) - 1)
    return torch.where(step > torch.finfo(torch.float32).tiny, step, 1.0).float()
