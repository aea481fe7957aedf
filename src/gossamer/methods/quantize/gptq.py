"""GPTQ: rounding to a grid of few bits, column after column, what is not rounded yet making up for what is.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023 (arXiv 2210.17323), algorithm 1; one rounding after another with this compensation is Optimal
Brain Quantization (Frantar, Singh and Alistarh, NeurIPS 2022, arXiv 2208.11580), which GPTQ does in the same order for
all rows. Outputs change by ‖(W - Ŵ)X‖², so H = XXᵀ, damped by 1 % of its mean diagonal; the error e of a column moves
the later ones by -e U_c,later / U_cc, U the upper Cholesky factor of H⁻¹ (`feedback`). Columns come in the order of
their mean squared input, largest first, as the authors' code has it since. Grids are chosen before, from the weights
as they are, and inputs are those of the model before anything is rounded, which one look at the data gives.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.errors import EvidenceError
from gossamer.methods.quantize.feedback import Matrix, Part, covered
from gossamer.methods.quantize.post_training import Group, States, nearest
from gossamer.methods.quantize.ranges import InputRange, Range
from gossamer.model import Evidence, Grid, Method, Moment, Plan, Skip, Subject, live_weight
from gossamer.model.constraint import along

FewBits = Annotated[int, msgspec.Meta(ge=2, le=8)]


class Gptq(Method, frozen=True, tag="quantize.gptq"):
    """Put weights on a grid of few bits, each column making up for the errors of those before it.

    Nothing is trained: the second moments of the inputs of some hundred samples are all it takes. Linear layers,
    convolutions of any kind and recurrent matrices; an embedding, whose rows do not meet, is rounded to the nearest, as
    is what has no inputs that are known, and the plan says so. Zeros of a mask stay zero. Inputs of layers are put on a
    grid too, as by ``quantize.post_training``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"range", "second_moment"})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    weight_bits: Annotated[FewBits, msgspec.Meta(description="bits of a weight")] = 4
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel: minmax, mse, or a percentile")
    ] = "mse"
    weight_scales: Annotated[
        Literal["channel", "tensor"] | Group,
        msgspec.Meta(description="one scale per output channel, per tensor, or for so many weights of a row at most"),
    ] = "channel"
    input_bits: Annotated[
        FewBits | Literal["float"], msgspec.Meta(description="bits of the inputs of layers, or float for no grid")
    ] = 8
    input_range: Annotated[
        InputRange,
        msgspec.Meta(description="range of the inputs of a layer: minmax, mse, kl, average, or a percentile"),
    ] = "mse"
    states: States = "dynamic"
    order: Annotated[
        Literal["activity", "index"],
        msgspec.Meta(description="columns by their mean squared input, largest first, or as they lie in the weight"),
    ] = "activity"
    damping: Annotated[
        float, msgspec.Meta(ge=1e-6, description="added to the diagonal of the second moment, in shares of its mean")
    ] = 0.01

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return grids for every chosen site and its input, and the values that the weights have on them.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: ranges or second moments were not collected.
            ModelError: a weight is not finite.
        """
        if evidence is None or not evidence.has("second_moment"):
            raise EvidenceError(
                f"{self.tag} needs the second moments of inputs", hint="calibrate with needs including 'second_moment'"
            )
        plain = nearest(
            self,
            subject,
            evidence,
            input_bits=self.input_bits,
            input_range=self.input_range,
            weight_bits=self.weight_bits,
            weight_range=self.weight_range,
            weight_scales=self.weight_scales,
            states=self.states,
        )
        tensors, skipped = {}, list(plain.skipped)
        for site in plain.constraints:
            reason = _why_nearest(subject, site, evidence)
            if reason is not None:
                skipped.append(Skip(site, f"rounded to the nearest: {reason}"))
                continue
            grid = next(part for part in plain.on(site) if isinstance(part, Grid))
            moments = evidence.second_moment(site)
            if not all(bool(torch.isfinite(moment.total).all()) for moment in moments):
                raise EvidenceError(
                    f"{site}: the second moment of its inputs is beyond float32",
                    hint="inputs should be of size 1 or so",
                )
            tensors[site] = self._values(subject, site, grid, moments)
        return replace(plain, tensors=tensors, skipped=tuple(skipped))

    def _values(self, subject: Subject, site: str, grid: Grid, moments: tuple[Moment, ...]) -> Tensor:
        """Return the values of a site on its grid."""
        weight = live_weight(subject, site).detach().cpu().double()
        held = subject.constraints.get(site)
        everywhere = torch.ones_like(weight)
        scale, zero = (along(part.double(), weight.shape, grid.axis) * everywhere for part in (grid.scale, grid.zero))
        free = everywhere if held is None or held.mask is None else held.mask.keep.to(weight)
        new = weight
        for moment in moments:
            matrix, *levels = (np.asarray(moment.layout.matrix(part)) for part in (weight, scale, zero, free))
            values = self._rounded(matrix, _Levels(grid.codes_range, *levels), moment)
            new = moment.layout.put(new, torch.from_numpy(values))
        return grid.snap(new.float())

    def _rounded(self, weight: Matrix, levels: "_Levels", moment: Moment) -> Matrix:
        """Return the values of one matrix (outputs, inputs) of a site."""
        H = moment.expected.numpy()
        order = np.argsort(-H.diagonal(), kind="stable") if self.order == "activity" else np.arange(len(H))
        part = Part(weight[:, order], np.ones(len(weight)), H[np.ix_(order, order)], self.damping)
        new = np.empty_like(weight)
        for band in part.bands(price=0.0):
            new[:, order] = band.swept(lambda c, wanted: levels.nearest(order[c], wanted))
        return new


class _Levels(NamedTuple):
    """The grid of one matrix: ends of its codes; for each element scale, code of zero, and 0 where it must be zero."""

    ends: tuple[int, int]
    scale: Matrix
    zero: Matrix
    free: Matrix

    def nearest(self, c: int, wanted: Matrix) -> Matrix:
        """Return what is nearest in column ``c``."""
        scale, zero = self.scale[:, c], self.zero[:, c]
        codes = np.clip(np.rint(wanted / scale) + zero, *self.ends)
        return np.asarray((codes - zero) * scale * self.free[:, c], np.float64)


def _why_nearest(subject: Subject, site: str, evidence: Evidence) -> str | None:
    """Return why the errors of ``site`` are not fed on, or None if they are."""
    held = subject.constraints.get(site)
    if held is not None and held.shared:
        return "its values are shared"
    if site in evidence.unread:
        return f"its inputs are not known: {evidence.unread[site]}"
    moments = evidence.second_moment(site)
    if any(moment.total.ndim == 1 for moment in moments):
        return "its rows do not meet in a sum"
    if not covered(live_weight(subject, site).detach().cpu(), moments):
        return "its parts multiply different inputs, or not all are used, and no change suits all"
    return None
