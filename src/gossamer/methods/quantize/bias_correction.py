"""Bias correction: what rounding adds to the mean of each output is taken off its bias.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019 (arXiv 1906.04721), section 4.2: rounding errors ε of a channel's weights do not cancel out, and outputs move
by E[ε x]. Here that is measured, layer after layer (their appendix D; `calibrate.shift`); `data_free` takes it from
batch norms.
"""

from typing import ClassVar

from torch import Tensor, nn

from gossamer.errors import EvidenceError
from gossamer.model import Evidence, Method, Owner, Plan, Site, Skip, Subject, find_sites


class BiasCorrection(Method, frozen=True, tag="quantize.bias_correction"):
    """Let the mean of each output channel be what it was before weights and inputs were put on grids.

    Comes after the grids, of weights that are still known as they were before: in the same run, not from a file.
    Evidence is inputs only, run once for each layer. A layer without a bias has nothing that could be corrected; one
    whose batch norm is folded has one. Not meant to come after weights were rounded to keep outputs, as error feedback
    does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"shift"})

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return new biases of the chosen layers that are on grids.

        Raises:
            PatternError: a pattern matches no site.
            EvidenceError: the shifts of outputs were not collected.
        """
        if evidence is None or not evidence.has("shift"):
            raise EvidenceError(
                f"{self.tag} needs the shifts of outputs, got {'no' if evidence is None else 'other'} evidence",
                hint="calibrate with needs including 'shift', after weights or inputs were put on grids",
            )
        biases: dict[str, Tensor] = {}
        skipped = []
        for site in self.chosen(subject):
            reason = why_no_bias(subject, site)
            if reason is None and site.name not in evidence.shifts:
                reason = "neither it nor its input is on a grid, or its layer never ran"
            if reason is not None:
                skipped.append(Skip(site.name, reason))
                continue
            name, bias = bias_of(subject, site)
            biases[name] = (bias.double() - evidence.shift(site.name).to(bias.device)).to(bias.dtype)
        return Plan(self.tag, tensors=biases, skipped=tuple(skipped))


def why_no_bias(subject: Subject, site: Site) -> str | None:
    """Return why the outputs of ``site`` have no bias of their own to correct, or None if they have."""
    path = site.owners[0].module
    if site.kind not in {"linear", "conv", "conv_transpose"} or site.owners[0].attribute != "weight":
        return f"the bias of {type(subject.model.get_submodule(path)).__name__} is not corrected"
    if not isinstance(getattr(subject.model.get_submodule(path), "bias", None), nn.Parameter):
        return "its layer has no bias to correct"
    if not owns_bias(subject, site) or site.bias in subject.constraints:
        return "its weight or bias is not its own, or constrained"
    return None


def owns_bias(subject: Subject, site: Site) -> bool:
    """Return whether neither the weight of ``site`` nor the bias beside it, if there is one, has another owner."""
    owners = next((one.owners for one in find_sites(subject.model, every=True).values() if site.bias in one.names), ())
    return len(owners) <= 1 and len(site.owners) == 1


def bias_of(subject: Subject, site: Site) -> tuple[str, Tensor]:
    """Return the name and the values of the bias beside ``site``, which has one."""
    name = Owner(site.owners[0].module, "bias").name
    return name, subject.model.get_parameter(name).detach()
