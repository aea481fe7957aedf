"""Sparse regularization: a penalty on the sum of absolute weights, which drives weights to zero while training.

Tibshirani, "Regression Shrinkage and Selection via the Lasso", 1996. With ``proximal`` the penalty acts after each step
of the optimizer as a soft threshold at learning rate times the penalty's weight: the iteration of Beck and Teboulle
(ISTA, SIAM J. Imaging Sciences 2009), which reaches exact zeros; the gradient then has no part of it. With SGD both
forms minimise the same function. Adam divides gradients by their size but not the threshold, so there the proximal
form wants an ``amount`` that compares with 1, not with gradients.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn

from gossamer.errors import ModelError
from gossamer.model import Evidence, Method, Plan, Skip, StepContext, Subject, trainable
from gossamer.model.live import Live, live_parts
from gossamer.model.site import owned_parameters


class L1(Method, frozen=True, tag="regularize.l1"):
    """Add ``amount`` times the sum of absolute weights to the training loss."""

    strength: ClassVar[str | None] = "amount"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"amount": 0.0})

    amount: Annotated[float, msgspec.Meta(ge=0.0, description="weight of the sum of absolute weights in the loss")] = (
        1e-5
    )
    proximal: Annotated[
        bool, msgspec.Meta(description="shrink after each step, to exact zeros, in place of a gradient")
    ] = True

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return the penalty over all chosen sites; no weight changes before training.

        Raises:
            PatternError: a pattern matches no site.
        """
        del evidence
        chosen = [site.name for site in self.chosen(subject)]
        sites = tuple(name for name in chosen if trainable(subject, name).requires_grad)
        skipped = tuple(Skip(name, "its values do not train") for name in chosen if name not in sites)
        if self.amount == 0.0 or not sites:
            return Plan(self.tag, skipped=skipped)
        return Plan(self.tag, penalties=(L1Penalty(sites, self.amount, self.proximal),), skipped=skipped)


@dataclass(frozen=True, slots=True)
class L1Penalty:
    """``amount`` times the sum of absolute live values of ``sites``, by gradient or by proximal step.

    A shared value counts once per weight that uses it; of a codeword, whose gradient is a mean, the mean counts.
    """

    sites: tuple[str, ...]
    amount: float
    with_proximal: bool

    def term(self, context: StepContext) -> Tensor | None:
        """Return the penalty, or None if the proximal step has the whole effect.

        Raises:
            ModelError: a site is no longer there.
        """
        if self.with_proximal:
            return None
        total: Tensor | None = None
        for _, parameter, live in self._found(context.subject):
            value = parameter if live is None else live(parameter)
            total = value.abs().sum() if total is None else total + value.abs().sum()
        return None if total is None else self.amount * total

    @torch.no_grad()
    def proximal(self, subject: Subject, lr: float) -> None:
        """Shrink the trained values towards zero by ``lr`` times ``amount``, not past it.

        Raises:
            ModelError: a site is no longer there.
        """
        if not self.with_proximal:
            return
        for _, parameter, live in self._found(subject):
            centers = None if live is None or live.shared is not None else live.centers
            if live is not None and live.codes is not None and centers is not None:
                if centers.requires_grad:
                    codes = live.codes if live.keep is None else live.codes[live.keep]
                    members = torch.bincount(codes.flatten().long(), minlength=len(centers)).to(centers.dtype)
                    if live.width > 1:  # their gradients are means, and so is the pull
                        every = torch.bincount(live.codes.flatten().long(), minlength=len(centers))
                        members /= every.clamp_min(1)
                    centers.copy_(soft_threshold(centers, lr * self.amount * members))
            elif parameter.requires_grad:
                parameter.copy_(soft_threshold(parameter, lr * self.amount))

    def _found(self, subject: Subject) -> Iterator[tuple[str, nn.Parameter, Live | None]]:
        parameters = {owner.name: parameter for owner, _, parameter in owned_parameters(subject.model)}
        lives = {owner.name: live for owner, _, live, _ in live_parts(subject.model)}
        for site in self.sites:
            if site not in parameters:
                raise ModelError(
                    f"regularize.l1: site {site} is no longer there",
                    hint="put regularize.l1 after the step that changed the model's structure",
                )
            yield site, parameters[site], lives.get(site)


def soft_threshold(values: Tensor, by: float | Tensor) -> Tensor:
    """Return sign(v) max(|v| - by, 0): the proximal operator of ``by`` times the absolute value. Zeros are positive."""
    bound = torch.as_tensor(by, dtype=values.dtype, device=values.device)
    return values - values.clamp(-bound, bound)
