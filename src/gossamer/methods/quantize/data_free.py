"""Quantization without data: all that is to be known of inputs is taken from batch norms.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019 (arXiv 1906.04721): equalization with absorption of high biases (`equalize`), grids of weights from their
least and largest value, of inputs from β ± 6 γ (section 5), and the expected error (W_q - W) E[x] of each output taken
off its bias, E[x] from batch norms clipped by what follows them (section 4.2.1; `beliefs`).
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from gossamer.artifact.activations import output_of
from gossamer.errors import SettingError
from gossamer.methods.quantize.beliefs import Belief, believed_inputs
from gossamer.methods.quantize.bias_correction import bias_of, why_no_bias
from gossamer.methods.quantize.chains import by_input
from gossamer.methods.quantize.equalize import Equalize, Statistics
from gossamer.methods.quantize.post_training import Bits, PostTraining
from gossamer.methods.quantize.ranges import Range
from gossamer.model import Evidence, Grid, Method, Plan, Skip, Subject, apply, live_weight

Sigmas = Annotated[float, msgspec.Meta(gt=0)]


class DataFree(Method, frozen=True, tag="quantize.data_free"):
    """Equalize layers, put weights and inputs on 8 bits and correct biases, with no data at all.

    Where no batch norm tells what enters a layer, its input stays in floating point and its bias as it is; the plan
    says so. For the input of the model itself ``model_input`` can tell.
    """

    equalize: Annotated[
        bool, msgspec.Meta(description="scale channels of pairs of layers against each other, ReLU in place of ReLU6")
    ] = True
    absorb: Annotated[
        bool, msgspec.Meta(description="shift channels that are hardly ever negative into the next layer's bias")
    ] = True
    correct: Annotated[bool, msgspec.Meta(description="take the expected error of each output off its bias")] = True
    weight_bits: Annotated[
        Bits | Literal["auto"],
        msgspec.Meta(
            description="bits of a weight; auto: 8, or 7 on a processor whose sums of 8-bit products saturate"
        ),
    ] = "auto"
    weight_scales: Annotated[
        Literal["channel", "tensor"],
        msgspec.Meta(description="one scale for each output channel of a weight, or one for all of it"),
    ] = "tensor"
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel, or of all: minmax, mse, or a percentile")
    ] = "minmax"
    sigmas: Annotated[
        Sigmas, msgspec.Meta(description="deviations to either side of its mean that the range of a channel has")
    ] = 6.0
    model_input: Annotated[
        Literal["unknown"] | tuple[float, float],
        msgspec.Meta(description="least and largest number that enters the model, if they are known"),
    ] = "unknown"

    def __post_init__(self) -> None:
        """Check the fields one by one, then the ends of the model's input."""
        super().__post_init__()
        if self.model_input != "unknown" and not -np.inf < self.model_input[0] < self.model_input[1] < np.inf:
            raise SettingError(
                f"{self.tag}: wanted two rising finite numbers for model_input, got {list(self.model_input)}"
            )

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the folds, new weights, grids and biases.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        first = Equalize(scale=self.equalize, absorb=self.absorb, include=self.include, exclude=self.exclude).equalized(
            subject
        )
        ready = apply(subject, first.plan)
        beliefs = believed_inputs(ready, first.made, self.sigmas)
        grids = self._grids().plan(ready, self._evidence(ready, beliefs, first.made))
        rounded = apply(ready, grids)
        biases, skipped = self._biases(ready, rounded, grids, beliefs)
        return Plan(
            self.tag,
            constraints=grids.constraints,
            edits=first.plan.edits,
            tensors={**first.plan.tensors, **biases},
            activations=grids.activations,
            skipped=(*grids.skipped, *skipped),
        )

    def _grids(self) -> PostTraining:
        return PostTraining(
            weight_bits=self.weight_bits,
            weight_scales=self.weight_scales,
            weight_range=self.weight_range,
            input_range="minmax",
            include=self.include,
            exclude=self.exclude,
        )

    def _evidence(self, subject: Subject, beliefs: Mapping[str, Belief], made: Mapping[str, Statistics]) -> Evidence:
        """Return ranges of inputs, and of what layers make, as calibration would have found them."""
        ranges = {site: (float(one.low.min()), float(one.high.max())) for site, one in beliefs.items()}
        for path, one in made.items():
            reach = self.sigmas * one.deviation
            ranges[output_of(path)] = float((one.mean - reach).min()), float((one.mean + reach).max())
        if self.model_input != "unknown":
            model_inputs = set(subject.graph.inputs)
            fed = {node.sites[0] for node in subject.graph.nodes if node.sites and node.inputs[0] in model_inputs}
            ranges |= dict.fromkeys(fed - ranges.keys(), self.model_input)
        return Evidence(
            kinds=frozenset({"range"}),
            batches=0,
            ranges=ranges,
            sampled={site: np.array(ends, np.float32) for site, ends in ranges.items()},
            unread={site: "no batch norm tells what enters it" for site in subject.sites if site not in ranges},
        )

    def _biases(
        self, ready: Subject, rounded: Subject, grids: Plan, beliefs: Mapping[str, Belief]
    ) -> tuple[dict[str, Tensor], list[Skip]]:
        """Return corrected biases by name, and the sites that have none though they are on a grid."""
        biases: dict[str, Tensor] = {}
        skipped: list[Skip] = []
        for site in self.chosen(ready) if self.correct else ():
            if not any(isinstance(part, Grid) for part in grids.on(site.name)):
                continue
            reason = why_no_bias(ready, site)
            if reason is None and site.name not in beliefs:
                reason = "no batch norm tells what enters it"
            if reason is not None:
                skipped.append(Skip(site.name, f"bias not corrected: {reason}"))
                continue
            groups = int(getattr(ready.model.get_submodule(site.owners[0].module), "groups", 1))
            errors = live_weight(rounded, site.name).double() - live_weight(ready, site.name).double()
            name, bias = bias_of(ready, site)
            shift = expected(errors, groups, beliefs[site.name].mean.to(errors.device))
            biases[name] = (bias.double() - shift).to(bias.dtype)
        return biases, skipped


def expected(errors: Tensor, groups: int, mean: Tensor) -> Tensor:
    """Return E[ε x] per output, (outputs,).

    Args:
        errors: ε of the weights, (outputs, inputs / groups, ...).
        groups: of a convolution, else 1.
        mean: E[x] per input channel.
    """
    columns = by_input(errors.contiguous(), groups)
    return torch.einsum("giot,gi->go", columns, mean.view(columns.shape[:2])).flatten()
