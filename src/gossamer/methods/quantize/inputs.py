"""Input grids for training: the levels of a layer's inputs, from an earlier grid or from what calibration saw."""

from functools import partial

import numpy as np
import torch

from gossamer.errors import EvidenceError
from gossamer.methods.quantize.ranges import Range, choose_levels
from gossamer.methods.quantize.uniform import affine
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
    sample, ends = evidence.samples(site.name), evidence.range(site.name)
    levels = choose_levels(np.asarray(sample, np.float32).reshape(1, -1), how, partial(affine, bits=bits), ends)
    scale, zero = torch.from_numpy(levels.scale)[0], torch.from_numpy(levels.zero)[0]
    return Grid(scale, zero, bits, signed=False, trained=trained)
