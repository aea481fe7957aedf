"""Input grids for training: the levels of a layer's inputs, from an earlier grid or from what calibration saw."""

from dataclasses import replace
from functools import partial

from gossamer.errors import EvidenceError
from gossamer.methods.quantize.ranges import InputRange, Range, choose_input_levels
from gossamer.methods.quantize.uniform import affine, symmetric
from gossamer.methods.quantize.weights import grid_of
from gossamer.model import Evidence, Grid, Site, Subject, why_no_input_grid


def first_input_grid(
    subject: Subject, site: Site, evidence: Evidence | None, bits: int, how: Range, *, trained: bool = False
) -> Grid | str:
    """Return the grid that the inputs of ``site`` start with, unsigned codes, or why they get none.

    A grid of as many bits that is there already is taken as it is.

    Args:
        subject: the model.
        site: whose inputs are meant.
        evidence: with ``range``.
        bits: width of the codes.
        how: how the range is chosen.
        trained: whether training moves the step.

    Raises:
        EvidenceError: the ranges of inputs were not collected.
    """
    reason = why_no_input_grid(subject.model, site)
    if reason is not None:
        return reason
    before = subject.activations.get(site.name)
    if before is not None and before.bits < bits:
        return f"they are on {before.bits} bits already"
    if before is not None and before.bits == bits:
        return Grid(before.scale, before.zero, bits, before.signed, trained=trained)
    if evidence is None:
        raise EvidenceError(
            f"{site.name}: wanted the range of its inputs, got no evidence",
            hint="calibrate with needs including 'range', or leave inputs as they are",
        )
    if site.name in evidence.unread and site.name not in evidence.ranges:
        return f"calibration saw none: {evidence.unread[site.name]}"
    return replace(seen_grid(evidence, site.name, bits, how), trained=trained)


def seen_grid(
    evidence: Evidence, site: str, bits: int, how: InputRange, *, signed: bool = False, powers: bool = False
) -> Grid:
    """Return the grid of the inputs that calibration saw.

    Args:
        evidence: with ``range`` of the site.
        site: whose inputs are meant.
        bits: width of the codes.
        how: how the range is chosen.
        signed: codes about zero, not unsigned ones with a zero of their own.
        powers: whether the scale is a power of two.
    """
    make = partial(symmetric if signed else affine, bits=bits, powers=powers)
    ends = evidence.average_range(site) if how == "average" else evidence.range(site)
    return grid_of(choose_input_levels(evidence.samples(site), how, make, ends), bits, signed=signed)
