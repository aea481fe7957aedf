"""What the methods that learn rounding have in common: part by part, in the order in which a model runs.

Grids are those of plain post-training quantization. Each part is then given the inputs that it has in the model
rounded so far, and learns to make of them what it makes in the model that is not rounded (`reconstruct`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from torch import Tensor, nn

from gossamer.bars import bar
from gossamer.calibrate.uses import plain_kernels
from gossamer.errors import EvidenceError
from gossamer.methods.quantize.post_training import States, nearest
from gossamer.methods.quantize.ranges import InputRange, Range
from gossamer.methods.quantize.reconstruct import Data, InputStep, Part, Settings, learn
from gossamer.methods.quantize.rounding import Rounding
from gossamer.methods.quantize.units import Unit, layer_path, layer_unit, ordered_calls
from gossamer.methods.quantize.watch import Loss, watched
from gossamer.model import (
    Constraints,
    Evidence,
    Example,
    Grid,
    Method,
    Plan,
    Skip,
    Subject,
    live_weight,
    plain_copy,
    put_activation,
)
from gossamer.model.copying import copy_module

FewBits = Annotated[int, msgspec.Meta(ge=2, le=8)]


class LearnedRounding(Method, frozen=True, tag="quantize.learned_rounding"):
    """Base of the methods that learn for each weight whether it is rounded up or down."""

    needs: ClassVar[frozenset[str]] = frozenset({"range", "examples"})

    weight_bits: Annotated[FewBits, msgspec.Meta(description="bits of a weight")] = 4
    input_bits: Annotated[
        FewBits | Literal["float"], msgspec.Meta(description="bits of the inputs of layers, or float for no grid")
    ] = 8
    weight_range: Annotated[
        Range, msgspec.Meta(description="range of the weights of a channel: minmax, mse, or a percentile")
    ] = "mse"
    input_range: Annotated[
        InputRange,
        msgspec.Meta(description="range of the inputs of a layer: minmax, mse, kl, average, or a percentile"),
    ] = "mse"
    states: States = "dynamic"
    iterations: Annotated[int, msgspec.Meta(ge=1, description="steps of the optimizer for each part")] = 10_000
    batch: Annotated[int, msgspec.Meta(ge=1, description="samples in each of these steps")] = 32
    lr: Annotated[float, msgspec.Meta(gt=0, description="learning rate of Adam for the roundings")] = 0.01
    penalty: Annotated[
        float, msgspec.Meta(ge=0, description="worth of a weight that is halfway, in squared error of the outputs")
    ] = 0.01
    warmup: Annotated[
        float, msgspec.Meta(ge=0, lt=1, description="share of the steps before roundings are drawn up or down")
    ] = 0.2
    seed: Annotated[int, msgspec.Meta(ge=0, description="draws the samples")] = 0

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return grids for every chosen site and its input, and the values that the weights have on them.

        Copies of the model run on the examples of ``evidence``, a part at a time.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: ranges or examples were not collected.
            ModelError: a weight is not finite.
        """
        if evidence is None:
            raise EvidenceError(
                f"{self.tag} needs ranges and examples of inputs, got no evidence",
                hint="calibrate with needs including 'range' and 'examples'",
            )
        plain = nearest(
            self,
            subject,
            evidence,
            input_bits=self.input_bits,
            input_range=self.input_range,
            weight_bits=self.weight_bits,
            weight_range=self.weight_range,
            states=self.states,
        )
        examples = evidence.examples()
        with plain_kernels():
            repair = _Repair.of(subject, examples, plain)
            skipped = list(plain.skipped)
            held = subject.constraints
            layers = {}
            for site in plain.constraints:
                reason, path = _why_not(subject, site, held.get(site, Constraints()), repair)
                if reason is None:
                    layers[site] = path
                else:
                    skipped.append(Skip(site, f"rounded to the nearest: {reason}"))
            units = sorted(self.units(subject, layers, repair.calls), key=lambda unit: repair.order(unit.sites[0][1]))
            with bar(evidence.progress, self.tag, len(units) * self.iterations) as advance:
                for number, unit in enumerate(units):
                    generator = torch.Generator().manual_seed(self.seed + number)
                    repair.mend(unit, self.settings(), generator, self.loss(evidence), advance)
        return replace(plain, tensors=repair.values, activations=repair.inputs, skipped=tuple(skipped))

    def units(self, subject: Subject, layers: Mapping[str, str], calls: Mapping[str, int]) -> Sequence[Unit]:
        """Return the parts that are learned one after another: here every layer by itself.

        Args:
            subject: what they are parts of.
            layers: path of the layer of each site to learn.
            calls: how often each of these runs for one batch.
        """
        return [layer_unit(subject, site, path, calls[path]) for site, path in layers.items()]

    def settings(self) -> Settings:
        """Return how each part is learned."""
        return Settings(self.iterations, self.batch, self.lr, self.penalty, self.warmup, drop=0.0, steps=False)

    def loss(self, evidence: Evidence) -> Loss | None:
        """Return the loss by which outputs are weighed, or None if all count alike."""
        del evidence
        return None


@dataclass
class _Repair:
    """The model as it was, the model rounded so far, and what was decided.

    Attributes:
        subject: left untouched.
        examples: batches, on the model's device.
        original: plain copy of the model.
        rounded: plain copy with input grids, its weights rounded to the nearest where nothing is learned.
        grids: of weights.
        inputs: grids of inputs, and of outputs of modules.
        calls: how often each layer runs for one batch, in the order of the first calls.
        values: the weights learned so far.
    """

    subject: Subject
    examples: Sequence[Example]
    original: nn.Module
    rounded: nn.Module
    grids: Mapping[str, Grid]
    inputs: dict[str, Grid]
    calls: Mapping[str, int]
    values: dict[str, Tensor]

    @classmethod
    def of(cls, subject: Subject, examples: Sequence[Example], plan: Plan) -> "_Repair":
        original, rounded = plain_copy(subject).eval(), plain_copy(subject).eval()
        for model in (original, rounded):
            model.requires_grad_(requires_grad=False)
        grids = {site: part for site in plan.constraints for part in plan.on(site) if isinstance(part, Grid)}
        for site, grid in grids.items():
            _fill(rounded, site, grid.snap(live_weight(subject, site)))
        for name, grid in plan.activations.items():
            put_activation(rounded, subject.sites, name, grid)
        paths = {layer_path(subject, subject.sites[site]) for site in grids} - {None}
        calls = ordered_calls(original, examples, sorted(path for path in paths if path is not None))
        return cls(subject, examples, original, rounded, grids, dict(plan.activations), calls, {})

    def order(self, path: str) -> int:
        """Return the place of the layer at ``path`` among those that run."""
        return list(self.calls).index(path)

    def mend(
        self,
        unit: Unit,
        settings: Settings,
        generator: torch.Generator,
        loss: Loss | None,
        advance: Callable[[], None],
    ) -> None:
        """Learn the rounding of ``unit`` and put it into the rounded model."""
        data = self._data(unit, originals=settings.drop > 0, loss=loss)
        weights = {site: live_weight(self.subject, site) for site, _ in unit.sites}
        keep = {site: held.keep for site, held in self.subject.constraints.items()}
        roundings = {site: Rounding(weight, self.grids[site], keep.get(site)) for site, weight in weights.items()}
        steps = {
            site: InputStep(self.inputs[site], settings.drop, generator) for site in roundings if site in self.inputs
        }
        modules = [copy_module(self.original.get_submodule(path)).cpu().float() for path in unit.stages]
        learn(Part(unit, modules, roundings, steps), data, settings, generator, advance)
        for site, rounding in roundings.items():
            self.values[site] = rounding.hard.to(weights[site])
            _fill(self.rounded, site, self.values[site])
            if site in steps and settings.steps:
                self.inputs[site] = steps[site].grid
                put_activation(self.rounded, self.subject.sites, site, self.inputs[site])

    def _data(self, unit: Unit, *, originals: bool, loss: Loss | None) -> Data:
        before = watched(self.original, self.examples, unit, loss=loss)
        after = watched(self.rounded, self.examples, unit, outputs=False)
        both = [min(len(x), len(y)) for x, y in zip(after.inputs, before.outputs, strict=True)]
        inputs, firsts, targets, gradients = (
            [part[:count] for part, count in zip(parts, both, strict=False)]
            for parts in (after.inputs, before.inputs, before.outputs, before.gradients)
        )
        weights = _weights(gradients) if loss is not None else ()
        return Data(inputs, firsts if originals else (), targets, weights, before.further)


def _weights(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return half of one plus the squared gradient in shares of its mean, so that the mean is one.

    That of the authors is (1 + |g|)², which is all but one where gradients are small.
    """
    squares = [gradient.square() for gradient in gradients]
    mean = float(sum(float(s.double().sum()) for s in squares) / max(1, sum(s.numel() for s in squares)))
    return [0.5 + 0.5 * square / mean if mean > 0 else torch.ones_like(square) for square in squares]


def _fill(model: nn.Module, site: str, values: Tensor) -> None:
    model.get_parameter(site).data.copy_(values)


def _why_not(subject: Subject, site: str, held: Constraints, repair: _Repair) -> tuple[str | None, str]:
    """Return why the rounding of ``site`` cannot be learned, or None and the path of its layer."""
    path = layer_path(subject, subject.sites[site])
    if held.shared:
        return "its values are shared", ""
    if path is None:
        return "it is not the weight of one linear layer or convolution", ""
    if path not in repair.calls:
        return f"{path or 'the model'} is not called", ""
    return None, path
