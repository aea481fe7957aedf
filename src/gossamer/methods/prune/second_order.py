"""What second-order pruning of a layer rests on: its matrix, the Hessian of its squared output error, what is skipped.

With inputs X the outputs of a layer change by ‖(W - Ŵ)X‖² = Σ_rows (w - ŵ) H (w - ŵ)ᵀ, H = XXᵀ, the second moment of
its inputs, which is the same for every row (Hassibi and Stork, "Second order derivatives for network pruning: Optimal
Brain Surgeon", NIPS 1992; Dong, Chen and Pan, NIPS 2017, for layers). A convolution has one H per group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from gossamer.errors import EvidenceError
from gossamer.methods.prune.pattern import Few, Pattern
from gossamer.methods.prune.ranked import above_zero, weight_of
from gossamer.methods.prune.ranking import keep_largest
from gossamer.model import Constraints, Evidence, Layout, Mask, Method, Moment, Plan, Reading, Site, Skip, Subject

FewText = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(unstructured|\d+:\d+)$",
        description="unstructured, or N:M (N of M neighbours along the inputs stay)",
    ),
]
Damping = Annotated[
    float, msgspec.Meta(ge=0.0, description="added to the diagonal of the second moment, in shares of its mean")
]


@dataclass(frozen=True, eq=False)
class Part:
    """One matrix of a site with the second moment of its inputs.

    Attributes:
        weight: W, float64 (outputs, inputs); what is zero in it stays so.
        moment: the second moment.
        damping: share of the mean diagonal of H that is added to the diagonal.
    """

    weight: Tensor
    moment: Moment
    damping: float

    def hessian(self) -> Tensor:
        """Return H, damped, float64 (inputs, inputs)."""
        return damped(self.moment.total.double(), self.damping)

    def inverse(self) -> Tensor:
        """Return H⁻¹.

        Raises:
            EvidenceError: H is singular.
        """
        factor, failed = torch.linalg.cholesky_ex(self.hessian())
        if int(failed):
            raise EvidenceError(
                f"the second moment of {len(factor)} inputs over {self.moment.count} rows has no inverse",
                hint="raise the damping, or calibrate with more samples",
            )
        return torch.cholesky_inverse(factor)

    def energy(self) -> float:
        """Return the sum of squared outputs over the calibration, tr(W H Wᵀ)."""
        return float(((self.weight @ self.moment.total.double()) * self.weight).sum())


Pruned = Mapping[str, Sequence[tuple[Tensor, Tensor]]]
"""The new values and what is kept of each part of every site."""
Solve = Callable[[Mapping[str, Sequence[Part]]], Pruned]


def compensated(
    method: Method,
    subject: Subject,
    evidence: Evidence | None,
    solve: Solve,
    *,
    sparsity: float,
    damping: float,
    pattern: Pattern,
    most_inputs: int | None = None,
) -> Plan:
    """Return masks with new values for every chosen site whose inputs are known.

    Args:
        method: whose sites.
        subject: the model.
        evidence: second moments.
        solve: prunes the parts of all sites.
        sparsity: share of zeros.
        damping: see :class:`Part`.
        pattern: the pattern of zeros that ``solve`` makes.
        most_inputs: sites with more inputs are skipped.

    Raises:
        PatternError: a pattern of names matches no site.
        ModelError: a weight is not finite.
        EvidenceError: no second moments were collected.
    """
    if evidence is None:
        raise EvidenceError(f"{method.tag} was given no evidence", hint="calibrate with needs={'second_moment'}")
    held = subject.constraints
    masks, skipped = {}, []
    weights: dict[str, Tensor] = {}
    layers: dict[str, list[Part]] = {}
    for site in method.chosen(subject):
        reason = _why_not(site, held.get(site.name), evidence, pattern, most_inputs)
        if reason is not None:
            skipped.append(Skip(site.name, reason))
            continue
        weight, moments = weight_of(subject, site.name), evidence.second_moment(site.name)
        if moments[0].layout.reading is Reading.TABLE:
            masks[site.name] = Mask(_best(weight, moments[0], sparsity))
            continue
        weights[site.name] = weight
        layers[site.name] = [Part(moment.layout.matrix(weight).double(), moment, damping) for moment in moments]
    tensors = {}
    for name, pruned in solve(layers).items():
        values, keep = weights[name], torch.ones(weights[name].shape, dtype=torch.bool)
        for part, (new, kept) in zip(layers[name], pruned, strict=True):
            values = part.moment.layout.put(values, new.to(values.dtype))
            keep = part.moment.layout.put(keep, kept)
        masks[name], tensors[name] = Mask(keep), values
    return Plan(method.tag, masks, tensors=tensors, skipped=tuple(skipped))


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return H with ``damping`` times its mean diagonal added to the diagonal.

    An input that was always zero is tied to no other. It gets next to nothing, so its weights go first and at no cost.
    """
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    return hessian + torch.diag(torch.where(diagonal == 0, 1e-9 * mean, damping * mean))


def _why_not(
    site: Site, held: Constraints | None, evidence: Evidence, pattern: Pattern, most_inputs: int | None
) -> str | None:
    """Return why the weights of ``site`` cannot make up for each other, or None if they can."""
    if not site.numel:
        return "it has no weights"
    if held is not None and held.shared:
        return "its values are shared, so they cannot make up for others"
    if site.name in evidence.unread:
        return f"its inputs are not known: {evidence.unread[site.name]}"
    layouts = sorted(moment.layout for moment in evidence.second_moment(site.name))
    overlap = any(one.stop > other.start for one, other in pairwise(layouts))
    if overlap or len({layout.reading for layout in layouts}) > 1:
        return "it is tied: its weights multiply different inputs, and no change makes up for both"
    return _why_no_matrix(site, layouts[0], pattern, most_inputs)


def _why_no_matrix(site: Site, layout: Layout, pattern: Pattern, most_inputs: int | None) -> str | None:
    inputs = layout.inputs(site.shape)
    if layout.reading is Reading.TABLE:
        return "a table's inputs are tokens, which no pattern counts" if isinstance(pattern, Few) else None
    if most_inputs is not None and inputs > most_inputs:
        return f"it has {inputs} inputs, more than {most_inputs}"
    return pattern.why_not(1, inputs)


def _best(weight: Tensor, moment: Moment, sparsity: float) -> Tensor:
    """Return what stays of an embedding's table: its H is diagonal, so w² H_jj is the whole loss, and nothing helps."""
    scores = above_zero(weight.double().square() * moment.diagonal.double()[:, None], weight)
    return torch.from_numpy(keep_largest([scores.flatten().numpy()], sparsity)[0]).reshape(weight.shape)
