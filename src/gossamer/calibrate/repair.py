"""Closed-form repair without labels: batch-norm statistics measured anew on calibration data.

Compressed weights shift the statistics that batch norms remember; putting the true ones back recovers much accuracy at
the cost of one forward pass (Sun et al., "Hybrid 8-bit floating point training", NeurIPS 2019; Jordan et al., "REPAIR",
arXiv 2211.08403).
"""

from collections.abc import Iterable

import torch
from rich.progress import Progress
from torch import nn

from gossamer.calibrate.collect import checked_batches
from gossamer.errors import EvidenceError
from gossamer.model.subject import Subject
from gossamer.task import Batch


def reset_batch_norm(subject: Subject, batches: Iterable[Batch], *, progress: Progress | None = None) -> Subject:
    """Return a copy of ``subject`` whose batch norms hold the mean and variance of ``batches``.

    Statistics are the averages of the batches' own, each batch counting alike, so batches should be of equal size and
    not tiny. All other modules run in evaluation mode. A subject without batch norms comes back as a plain copy.

    Args:
        subject: left untouched.
        batches: (args, kwargs, targets) per batch; targets are not used.
        progress: bars to add one of this pass to.

    Raises:
        EvidenceError: no batches, a batch of the wrong form, or statistics that are not finite.
    """
    out = subject.copy()
    norms = {
        name: module
        for name, module in out.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats  # noqa: SLF001
    }
    modes = {module: module.training for module in out.model.modules()}
    momenta = {norm: norm.momentum for norm in norms.values()}
    device = next((parameter.device for parameter in out.model.parameters()), torch.device("cpu"))
    out.model.eval()
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # torch's name for the plain average over batches
        norm.train()
    count = 0
    with torch.no_grad():
        for args, kwargs, _ in checked_batches(batches, device, "measuring batch norms", progress):
            out.model(*args, **kwargs)
            count += 1
    if not count:
        raise EvidenceError("batch-norm repair was given no batches", hint="an iterator can be run through only once")
    for module, training in modes.items():
        module.training = training
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    for name, norm in norms.items():
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None and not bool(torch.isfinite(statistic).all()):
                raise EvidenceError(f"batch-norm repair: the statistics of {name} are not finite")
    return out
