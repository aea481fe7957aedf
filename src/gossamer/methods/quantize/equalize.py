"""Cross-layer equalization: the channels of two layers in a row share the load, so that one step fits them all.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019 (arXiv 1906.04721). With S diagonal and positive, W2 f(W1 x + b1) = (W2 S) f(S⁻¹ (W1 x + b1)) for an f such as
ReLU; the largest weights r1 of each output channel of the first layer and r2 of that input channel of the second are
both √(r1 r2) for s = √(r1 r2) / r2 (section 4.1, equation 11). Pairs overlap, so all are gone over until nothing
moves. Channels that a batch norm says are hardly ever negative are shifted down, c = max(0, β - 3 γ), and the next
layer's bias makes up for it, b2 + W2 c (section 4.1.3): ReLU(W1 x + b1) = ReLU(W1 x + b1 - c) + c wherever
W1 x + b1 > c. As there, ReLU6 becomes ReLU first; its bound would have to differ between channels otherwise.

What the paper does not say: a layer that pads its input with zeros would see another border than before, so nothing is
shifted before it. A channel of which either layer knows nothing but zeros keeps s = 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from gossamer.artifact.activations import module_of
from gossamer.errors import ModelError
from gossamer.methods.quantize.bias_correction import owns_bias
from gossamer.methods.quantize.chains import Pair, by_input, find_pairs
from gossamer.model import (
    Constraints,
    Evidence,
    Fold,
    Method,
    Plan,
    Site,
    Skip,
    Subject,
    Unclip,
    apply,
    foldable,
    live_weight,
)

ENOUGH: Final = 1e-4
"""Largest |ln s| of a sweep after which nothing is said to move."""

MOST: Final = 1000
"""Sweeps at most."""


class Statistics(NamedTuple):
    """What a batch norm said of each channel that a layer makes, float64 (outputs,).

    Attributes:
        mean: β.
        deviation: abs(γ).
    """

    mean: Tensor
    deviation: Tensor


@dataclass(eq=False)
class Layer:
    """A layer under equalization, in float64.

    Attributes:
        weight: (outputs, inputs / groups, ...), contiguous.
        bias: (outputs,), or None.
        groups: of a convolution, else 1.
        made: what is known of its outputs.
    """

    weight: Tensor
    bias: Tensor | None
    groups: int = 1
    made: Statistics | None = None


@dataclass(frozen=True, eq=False)
class Equalized:
    """What equalization comes to.

    Attributes:
        plan: the plan.
        made: what batch norms said of the outputs of layers, in the model that the plan makes, by module path.
    """

    plan: Plan
    made: Mapping[str, Statistics]


class Equalize(Method, frozen=True, tag="quantize.equalize"):
    """Fold batch norms and scale the channels of layers in a row until their weights reach equally far.

    The function stays what it is in floating point, but for ReLU6, which becomes ReLU, and for what is shifted, which
    holds for all but about one number in a thousand. Made for one scale per tensor; scales per channel gain less. No
    data is needed. Comes before the grids.
    """

    scale: Annotated[
        bool, msgspec.Meta(description="scale channels of pairs of layers; otherwise batch norms are folded only")
    ] = True
    unclip: Annotated[
        bool, msgspec.Meta(description="put ReLU in place of ReLU6 between pairs; otherwise they are left as they are")
    ] = True
    absorb: Annotated[
        bool, msgspec.Meta(description="shift channels that are hardly ever negative into the next layer's bias")
    ] = True

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the folds, the ReLU6 modules that lose their bound, and new weights and biases.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        return self.equalized(subject).plan

    def equalized(self, subject: Subject) -> Equalized:
        """Return the plan with what is known of the outputs of layers once it is carried out.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        chosen = self.chosen(subject)
        modules = {site.owners[0].module for site in chosen}
        folds = tuple(fold for fold in foldable(subject) if fold.module in modules)
        folded = apply(subject, Plan(self.tag, edits=folds)) if folds else subject
        reasons = {site.name: _why_not(folded, site) for site in chosen}
        layers = {
            path: _layer(folded, site, _statistics(subject, folds, path))
            for site in chosen
            for path in (site.owners[0].module,)
            if reasons[site.name] is None
        }
        pairs = self._pairs(folded, layers)
        equalize(layers, pairs)
        if self.absorb:
            for pair in pairs:
                absorb(layers, pair)
        paired = dict.fromkeys(path for pair in pairs for path in (pair.first, pair.second))
        clips = dict.fromkeys(path for pair in pairs for path in pair.clips)
        treated = {*paired, *(fold.module for fold in folds)}
        unpaired = "no layer that its channels could be scaled against" if self.scale else "no batch norm to fold"
        skipped = [
            Skip(site.name, reasons[site.name] or unpaired) for site in chosen if site.owners[0].module not in treated
        ]
        plan = Plan(
            self.tag,
            edits=(*folds, *(Unclip(path) for path in clips)),
            tensors=_tensors(folded, {path: layers[path] for path in paired}),
            skipped=tuple(skipped),
        )
        return Equalized(plan, {path: one.made for path, one in layers.items() if one.made is not None})

    def _pairs(self, folded: Subject, layers: Mapping[str, Layer]) -> tuple[Pair, ...]:
        if not self.scale:
            return ()
        found = find_pairs(folded, layers)
        fixed = folded.activations
        inputs = {name.rpartition(".")[0] for name in fixed if module_of(name) is None}
        outputs = {module_of(name) for name in fixed}
        return tuple(
            pair
            for pair in found
            if pair.second not in inputs and pair.first not in outputs and (self.unclip or not pair.clips)
        )


def equalize(layers: Mapping[str, Layer], pairs: tuple[Pair, ...]) -> int:
    """Scale the channels of ``layers`` in place until no pair moves; return how many sweeps that took."""
    for sweep in range(MOST):
        moved = 0.0
        for pair in pairs:
            factor = _factor(layers[pair.first], layers[pair.second], pair.spread)
            moved = max(moved, float(factor.log().abs().max()))
            _scale(layers[pair.first], layers[pair.second], pair.spread, factor)
        if moved <= ENOUGH:
            return sweep + 1
    return MOST


def absorb(layers: Mapping[str, Layer], pair: Pair) -> None:
    """Shift channels of the first layer of ``pair`` that are hardly ever negative, in place, into the second's bias."""
    first, second = layers[pair.first], layers[pair.second]
    if not pair.rectified or first.made is None or first.bias is None or second.bias is None:
        return
    shift = (first.made.mean - 3 * first.made.deviation).clamp(min=0)
    columns = by_input(second.weight, second.groups, pair.spread)
    second.bias += torch.einsum("giot,gi->go", columns, shift.view(columns.shape[:2])).flatten()
    first.bias -= shift
    first.made = Statistics(first.made.mean - shift, first.made.deviation)


def _factor(first: Layer, second: Layer, spread: int) -> Tensor:
    """Return s per channel: √(r1 r2) / r2, or 1 where a range is nothing."""
    made = first.weight.flatten(1).abs().amax(1)
    read = by_input(second.weight, second.groups, spread).abs().amax((2, 3)).flatten()
    alive = (made > 0) & (read > 0)
    return torch.where(alive, (made * read).sqrt() / torch.where(alive, read, 1.0), 1.0)


def _scale(first: Layer, second: Layer, spread: int, factor: Tensor) -> None:
    first.weight /= factor.view(-1, *[1] * (first.weight.ndim - 1))
    if first.bias is not None:
        first.bias /= factor
    if first.made is not None:
        first.made = Statistics(*(part / factor for part in first.made))
    columns = by_input(second.weight, second.groups, spread)
    columns *= factor.view(*columns.shape[:2], 1, 1)


def _why_not(subject: Subject, site: Site) -> str | None:
    """Return why the channels of ``site`` cannot be scaled, or None if they can."""
    module = subject.model.get_submodule(site.owners[0].module)
    if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or site.owners[0].attribute != "weight":
        return f"channels of {type(module).__name__} are not scaled, only those of linear and convolution"
    held = subject.constraints.get(site.name, Constraints())
    if held.shared or held.grid is not None or held.mixture is not None:
        return "its values are shared or on a grid already"
    return None if owns_bias(subject, site) else "its weight or bias is not its own"


def _layer(subject: Subject, site: Site, made: Statistics | None) -> Layer:
    module = subject.model.get_submodule(site.owners[0].module)
    weight = live_weight(subject, site.name).double().contiguous().clone()
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"{site.name}: a weight is not finite, so its channels cannot be scaled")
    bias = getattr(module, "bias", None)
    groups = int(getattr(module, "groups", 1))
    return Layer(weight, None if bias is None else bias.detach().double().clone(), groups, made)


def _statistics(subject: Subject, folds: tuple[Fold, ...], path: str) -> Statistics | None:
    """Return what the batch norm that is folded into the layer at ``path`` says of its outputs."""
    norm = next((subject.model.get_submodule(fold.norm) for fold in folds if fold.module == path), None)
    if norm is None:
        return None
    ones = torch.ones_like(norm.running_mean, dtype=torch.float64)  # type: ignore[arg-type]
    weight, bias = (None if part is None else part.detach().double() for part in (norm.weight, norm.bias))  # type: ignore[operator]
    return Statistics(0 * ones if bias is None else bias.clone(), ones if weight is None else weight.abs())


def _tensors(subject: Subject, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Return the new weights and biases, in the dtypes of ``subject``, by name."""
    new = {}
    for path, layer in layers.items():
        module = subject.model.get_submodule(path)
        start = f"{path}." if path else ""
        for name, value in (("weight", layer.weight), ("bias", layer.bias)):
            if value is not None:
                new[start + name] = value.to(getattr(module, name).dtype)
    return new
