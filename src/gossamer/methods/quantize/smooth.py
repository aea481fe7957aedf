"""SmoothQuant: scale moves from the inputs of linear layers to their weights, so that one step fits all channels.

Xiao, Lin, Seznec, Wu, Demouth and Han, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models", ICML 2023 (arXiv 2211.10438). A few channels of what enters the layers of a transformer are far
larger than the others, and one step for all inputs leaves the others few levels. With s positive, one number per
channel j, X W = (X diag(s)⁻¹) (diag(s) W) (equation 3), and

    s_j = max|X_j|^α / max|W_j|^(1-α)    (equation 4)

shares the difficulty out; α = 0.5 evens both maxima out. diag(s)⁻¹ is folded into the norm that feeds the layer, so
nothing is left to do when the model runs. Layers that read the same input, as the projections to queries, keys and
values, share one s, of the joint maximum of their weights. As there, s is at least 1e-5.

What the paper does not say: a channel of which the inputs or the weights are nothing but zeros keeps s = 1.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

import msgspec
import torch
from torch import Tensor

from gossamer.errors import EvidenceError, ModelError
from gossamer.methods.quantize.feeds import Feed, find_feeds
from gossamer.model import Constraints, Evidence, Method, Plan, Site, Skip, Subject, live_weight

LEAST: Final = 1e-5
"""Smallest s, as in the authors' code."""


class Smooth(Method, frozen=True, tag="quantize.smooth"):
    """Move scale from the inputs of linear layers to their weights until both are as easy to quantize.

    Made for transformers: what a layer norm, an RMS norm or a batch norm makes and nothing but linear layers read, as
    the projections of attention and the first layer of a perceptron do. The function stays what it is in floating
    point. Where the norm also feeds a sum, as in a transformer that normalises after each sum, nothing can be moved,
    and the plan says so. Comes before the grids.

    The joint projection of ``nn.MultiheadAttention`` is scaled too. The target multiplies it in floats, inputs and
    all; projections that are linear layers of their own run in integers.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"peak"})

    alpha: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="how much of the differences between channels of the input the weights take: all of it at 1",
        ),
    ] = 0.5
    linear: Annotated[
        bool,
        msgspec.Meta(
            description="scale channels between two linear layers too, with ReLU, dropout or nothing between; the "
            "paper leaves these as they are"
        ),
    ] = False

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return new values of weights and of what feeds them.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: the peaks of inputs were not collected.
            ModelError: a weight is not finite.
        """
        if evidence is None or not evidence.has("peak"):
            raise EvidenceError(
                f"{self.tag} needs the peaks of inputs, got {'no' if evidence is None else 'other'} evidence",
                hint="calibrate with needs including 'peak'",
            )
        chosen = self.chosen(subject)
        refused = _refused(subject, {site.name for site in chosen}, evidence)
        feeds = find_feeds(subject, refused, linear=self.linear)
        values = _values(subject, feeds.found)
        for feed in feeds.found:
            self._smooth(values, feed, evidence)
        treated = {name for feed in feeds.found for name in (*feed.makers, *feed.readers)}
        reasons = {**feeds.reasons, **refused}
        skipped = tuple(Skip(site.name, reasons[site.name]) for site in chosen if site.name not in treated)
        return Plan(self.tag, tensors=_cast(subject, values), skipped=skipped)

    def _smooth(self, values: dict[str, Tensor], feed: Feed, evidence: Evidence) -> None:
        """Scale the channels of ``feed`` in place."""
        peaks = torch.stack([evidence.peak(name).double() for name in feed.readers]).amax(0)
        weights = torch.stack([values[name].abs().amax(0) for name in feed.readers]).amax(0)
        factor = factors(peaks.to(weights.device), weights, self.alpha)
        for name in feed.makers:
            values[name] /= factor.view(-1, *[1] * (values[name].ndim - 1))
        for name in feed.readers:
            values[name] *= factor


def factors(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return s per channel (equation 4).

    Args:
        inputs: largest absolute input of each channel, float64 (channels,).
        weights: largest absolute weight of each channel, as ``inputs``.
        alpha: between 0 and 1.
    """
    alive = (inputs > 0) & (weights > 0)
    one = torch.ones_like(weights)
    raised = torch.where(alive, inputs, one) ** alpha / torch.where(alive, weights, one) ** (1 - alpha)
    return torch.where(alive, raised.clamp(min=LEAST), one)


def _refused(subject: Subject, chosen: set[str], evidence: Evidence) -> dict[str, str]:
    """Return the sites whose values must stay, with the reason."""
    held, reasons = subject.constraints, {}
    for site in subject.sites.values():
        if site.name not in chosen:
            reasons[site.name] = "it is excluded"
        else:
            why = _why_not(subject, site, held.get(site.name, Constraints()), evidence)
            if why is not None:
                reasons[site.name] = why
    return reasons


def _why_not(subject: Subject, site: Site, held: Constraints, evidence: Evidence) -> str | None:
    if site.kind not in {"linear", "attention", "other"}:
        return f"inputs of {site.kind.replace('_', ' ')} weights are not scaled, only those of linear layers"
    if len(site.owners) > 1:
        return "its weight is not its own"
    if held.shared or held.grid is not None or held.mixture is not None:
        return "its values are shared or on a grid already"
    if site.name in subject.activations:
        return "its inputs are on a grid already"
    if site.name not in evidence.peaks:
        return f"calibration saw no input: {evidence.unread.get(site.name, 'it is not multiplied row by row')}"
    return None


def _values(subject: Subject, feeds: tuple[Feed, ...]) -> dict[str, Tensor]:
    """Return copies of all parameters that are to be scaled, float64, by name."""
    values = {}
    for name in dict.fromkeys(name for feed in feeds for name in (*feed.makers, *feed.readers)):
        value = live_weight(subject, name).double().clone()
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name}: a weight is not finite, so its channels cannot be scaled")
        values[name] = value
    return values


def _cast(subject: Subject, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(live_weight(subject, name).dtype) for name, value in values.items()}
