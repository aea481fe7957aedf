"""Curvature of the loss in the outputs of every site: the output factor of a Kronecker-factored Fisher information.

Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015 (arXiv
1503.05671): the Fisher information of a matrix W of weights is near G ⊗ H, with H = E[x xᵀ] the second moment of its
inputs. Of G the diagonal g is kept: what an error of one output does to the loss. It is taken from gradients of the
weights themselves, so any layer will do, recurrent ones included: if F = G ⊗ H then E[‖∇W_r‖²] = g_r tr H. Targets are
drawn from the model's outputs (`task.drawing`), so no label is read.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.calibrate.uses import Use
from gossamer.errors import EvidenceError
from gossamer.model.evidence import Moment
from gossamer.model.layout import Layout
from gossamer.task.batch import IGNORE
from gossamer.task.drawing import drawn

Loss = Callable[[Any, Any], Tensor]


class Curvatures:
    """Running sums of squared gradients: of the rows of each part of every site, and of all other parameters.

    Args:
        model: the model that runs.
        sites: the names of its weights that are sites.
        loss: maps (outputs, targets) to the mean loss over the targets.
    """

    def __init__(self, model: nn.Module, sites: Collection[str], loss: Loss) -> None:
        self._parameters = {
            name: parameter.requires_grad_()
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point() and parameter.numel()
        }
        self._loss = loss
        self._layouts: dict[str, dict[Layout, None]] = {site: {} for site in sites}
        self._totals: dict[tuple[str, Layout], Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._batches = 0
        self._generator = torch.Generator().manual_seed(0)

    def see(self, found: Use) -> None:
        """Note how one use reads its site."""
        self._layouts[found.site].update(dict.fromkeys(found.layouts))

    def add(self, outputs: Any, targets: Any, batch: int) -> None:
        """Add the gradients for one batch of outputs; the graph of the outputs stays.

        The gradient of a mean over n independent targets has 1/n of the second moment that the gradient for one has.

        Raises:
            EvidenceError: an output or the loss is not finite, or the loss is not one number.
        """
        if isinstance(outputs, Tensor) and not bool(torch.isfinite(outputs).all()):
            raise EvidenceError(f"calibration batch {batch}: an output of the model is not finite")
        found = drawn(self._loss, outputs, targets, self._generator)
        count = _count(found)
        if not count:
            return
        loss = one_finite(self._loss(outputs, found), batch)
        self._batches += 1
        if not loss.requires_grad:
            return
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True, retain_graph=True)
        for name, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is None:
                continue
            plain = gradient.detach().to("cpu", torch.float32)
            if name not in self._layouts:
                self._squares.setdefault(name, torch.zeros_like(plain)).addcmul_(plain, plain, value=count)
            for layout in self._layouts.get(name, ()):
                squares = layout.matrix(plain).double().square().sum(1) * count
                self._totals[name, layout] = self._totals.get((name, layout), 0) + squares

    def curvatures(self, moments: Mapping[str, tuple[Moment, ...]]) -> dict[str, tuple[Tensor, ...]]:
        """Return g of the parts of each site, in the order of ``moments``, where gradients reached all of them."""
        return {
            site: tuple(self._factor(self._totals[site, part.layout], part) for part in parts)
            for site, parts in moments.items()
            if parts and all((site, part.layout) in self._totals for part in parts)
        }

    def _factor(self, total: Tensor, part: Moment) -> Tensor:
        trace = float(part.diagonal.sum()) / max(part.count, 1)
        return (total / (max(self._batches, 1) * (trace or 1.0))).float()

    def sensitivities(self) -> dict[str, Tensor]:
        """Return the diagonal of the Fisher information of each parameter that is no site."""
        return {name: total / max(self._batches, 1) for name, total in self._squares.items()}


def one_finite(loss: Tensor, batch: int) -> Tensor:
    """Return the loss of a batch if it is one finite number.

    Raises:
        EvidenceError: it is not.
    """
    if loss.numel() != 1 or not bool(torch.isfinite(loss).all()):
        got = f"shape {tuple(loss.shape)}" if loss.numel() != 1 else str(float(loss.detach()))
        raise EvidenceError(f"calibration batch {batch}: wanted the loss to be one finite number, got {got}")
    return loss


def _count(targets: Any) -> int:
    """Return how many targets the loss of a batch is the mean of."""
    if not isinstance(targets, Tensor):
        return 1
    return targets.numel() if targets.is_floating_point() else int((targets != IGNORE).sum())
