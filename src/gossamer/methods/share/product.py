"""Product quantization: the subvectors that weights are cut into share a few codewords.

Stock, Joulin, Gribonval, Graham and Jégou, "And the Bit Goes Down: Revisiting the Quantization of Neural Networks",
ICLR 2020 (arXiv 1907.05686). A convolution wider than 1 is cut into kernels of one input channel, or of ``kernels``
neighbouring ones, everything else into ``block`` neighbouring values of a row; all subvectors of a site share at most
2^``bits`` codewords, and no more than a fourth of the subvectors. Codewords are found to reproduce the layer's outputs,
not its weights (``measure``). Training then moves codewords by the mean of their members' gradients (the live
constraint sees to that); with ``distill.logits`` before it, towards the uncompressed network as in the paper. The paper
takes layers one after another, each with the inputs that those before it, quantized and tuned, give: several steps with
``include`` do so. It leaves the first convolution as it is (``exclude``). Statistics of batch norms are measured anew,
which the paper's training does. With ``permute``, units are first put in an order in which subvectors cluster better:
Martinez et al., "Permute, Quantize, and Fine-tune", CVPR 2021 (arXiv 2010.15703).
"""

from typing import Annotated

import msgspec
import torch
from torch import Tensor

from gossamer.errors import ModelError
from gossamer.methods.share.codebooks import shared_bits
from gossamer.methods.share.codewords import codewords
from gossamer.methods.share.errors import Errors, Measure, measured
from gossamer.methods.share.order import reordered
from gossamer.model import Codebook, Constraints, Evidence, Method, Plan, Site, Skip, Subject, live_weight

SUBVECTORS = 4
"""Subvectors that there must be for each codeword."""


class Product(Method, frozen=True, tag="share.product"):
    """Let the subvectors of each site share at most 2^bits codewords.

    Left alone are sites with zeros that must stay (of pruning), values that are shared already, a grid with several
    scales, or rows that are not whole subvectors.
    """

    bits: Annotated[int, msgspec.Meta(ge=1, le=12, description="2^bits codewords per site at most")] = 8
    block: Annotated[
        int,
        msgspec.Meta(
            ge=2,
            le=64,
            description="values of a subvector, neighbours in a row, but of convolutions wider than 1",
        ),
    ] = 4
    kernels: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=16, description="neighbouring kernels of a convolution wider than 1 that are a subvector"
        ),
    ] = 1
    measure: Annotated[
        Measure,
        msgspec.Meta(
            description="how errors of a subvector count: alike, by the second moment of inputs pooled over the site, "
            "or by that of the inputs it multiplies itself"
        ),
    ] = "pooled"
    rounds: Annotated[int, msgspec.Meta(ge=1, description="most rounds of clustering")] = 100
    seed: Annotated[
        int, msgspec.Meta(ge=0, lt=2**31, description="seed of the codewords that clustering starts at")
    ] = 0
    trained: Annotated[bool, msgspec.Meta(description="let training move the codewords")] = True
    permute: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="exchanges of two units that are tried in each group, for an order in which subvectors cluster "
            "better; 0 keeps the order, 10000 is the paper's number",
        ),
    ] = 0

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What errors are measured by."""
        return frozenset() if self.measure == "none" else frozenset({"second_moment"})

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the codewords of every chosen site that they make smaller.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight or a second moment is not finite.
            EvidenceError: second moments are wanted and were not collected.
        """
        constraints, held = {}, subject.constraints
        reasons = {site.name: self._why_not(subject, site, held.get(site.name)) for site in self.chosen(subject)}
        wanted = [subject.sites[name] for name, reason in reasons.items() if reason is None]
        widths = {site.name: self.width(site) for site in wanted}
        moved = reordered(subject, reasons, widths, self.permute, self.seed) if self.permute else {}
        for site in wanted:
            weight, source = moved.get(site.name, (live_weight(subject, site.name).cpu(), None))
            errors = measured(self.measure, evidence, site, widths[site.name], source)
            if isinstance(errors, str):
                reasons[site.name] = errors
            else:
                constraints[site.name] = self._shared(weight, errors)
        return Plan(
            self.tag,
            constraints=constraints,
            tensors={name: values for name, (values, _) in moved.items()},
            skipped=tuple(Skip(name, reason) for name, reason in reasons.items() if reason is not None),
            reset_norms=bool(constraints),
        )

    def width(self, site: Site) -> int:
        """Return how many values a subvector of ``site`` has."""
        kernel = torch.Size(site.shape[2:]).numel()
        return self.kernels * kernel if kernel > 1 else self.block

    def _why_not(self, subject: Subject, site: Site, held: Constraints | None) -> str | None:
        """Return why the subvectors of a site shall not share codewords, or None if they shall."""
        weight, held = live_weight(subject, site.name), held or Constraints()
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{site.name}: a weight is not finite, so its subvectors cannot be clustered")
        if held.keep is not None:
            return "its zeros must stay, which codewords do not know of"
        if held.shared:
            return "its values are shared already"
        if held.grid is not None and held.grid.axis is not None:
            return "it is on a grid with a scale per channel, which has no shared values"
        return self._why_not_whole(site)

    def _why_not_whole(self, site: Site) -> str | None:
        """Return why a site cannot be cut into subvectors that are worth it, or None if it can."""
        width, row = self.width(site), torch.Size(site.shape[1:]).numel()
        if row % width:
            return f"its rows of {row} values are not whole subvectors of {width}"
        count = site.numel // width
        if count < 2 * SUBVECTORS:
            return f"its {count} subvectors are too few for two codewords"
        most, each = self._most(count), 8 * site.dtype.itemsize
        if shared_bits(count, most, width * each) >= each * site.numel:
            return f"{most} codewords of {width} values for {count} subvectors would save nothing"
        return None

    def _most(self, count: int) -> int:
        """Return how many codewords ``count`` subvectors may share."""
        return min(1 << self.bits, count // SUBVECTORS)

    def _shared(self, weight: Tensor, errors: Errors) -> Codebook:
        """Return the codewords of a weight."""
        vectors = weight.double().reshape(len(errors.of), -1)
        words, table = codewords(vectors, self._most(len(vectors)), errors, rounds=self.rounds, seed=self.seed)
        return Codebook.of_words(words, table.to(weight.dtype), tuple(weight.shape), trained=self.trained)
