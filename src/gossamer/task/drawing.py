"""Targets drawn from what a model itself believes, for evidence that wants a loss and has no labels."""

from typing import Any

import torch
from torch import Tensor

from gossamer.task.batch import IGNORE
from gossamer.task.losses import cross_entropy, nll, squared_error


def drawn(loss: Any, outputs: Any, targets: Any, generator: torch.Generator) -> Any:
    """Return targets drawn from the distribution over targets that ``outputs`` stand for under ``loss``.

    Cross entropy and negative log-likelihood stand for classes with the probabilities that the outputs give, squared
    error for a normal distribution of variance ½ about them. Then the second moment of the loss's gradient is the
    Fisher information (Kunstner, Balles and Hennig, NeurIPS 2019, arXiv 1905.12558, on why labels of the data will not
    do). For any other loss nothing is known, and ``targets`` come back as they are.

    Args:
        loss: one of :mod:`gossamer.task.losses`, or another.
        outputs: of the model.
        targets: of the data; tells which positions are padding.
        generator: of the draw.
    """
    if not isinstance(outputs, Tensor):
        return targets
    found = outputs.detach()
    if loss is squared_error:
        noise = torch.randn(found.shape, generator=generator, dtype=torch.float32).to(found)
        return found + noise * 0.5**0.5
    if loss not in (cross_entropy, nll):
        return targets
    chances = (found.exp() if loss is nll else found.softmax(-1)).float().cpu()
    picked = torch.multinomial(chances.flatten(0, -2), 1, generator=generator).view(found.shape[:-1]).to(found.device)
    if isinstance(targets, Tensor) and targets.shape == picked.shape:
        picked = torch.where(targets == IGNORE, targets, picked)
    return picked
