"""Low rank: a linear layer becomes two thin ones, by truncated singular value decomposition.

Denton, Zaremba, Bruna, LeCun and Fergus, "Exploiting Linear Structure Within Convolutional Networks", NIPS 2014 (arXiv
1404.0736). Of all matrices of rank k, the truncated decomposition is nearest in the Frobenius norm (Eckart and Young,
Psychometrika 1936). A rank k layer of m outputs and n inputs has k(m + n) weights in place of mn.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
from torch import Tensor, nn

from gossamer.errors import ModelError, SettingError
from gossamer.model import Evidence, Method, Plan, Site, Skip, Split, Subject, live_weight, plain_copy
from gossamer.model.run import run_example
from gossamer.model.surgery import why_no_split

Criterion = Literal["energy", "ratio", "rank"]


class Svd(Method, frozen=True, tag="factorize.svd"):
    """Split linear layers into two of lower rank where that saves weights.

    Raises:
        SettingError: ``amount`` is outside what ``criterion`` allows.
    """

    strength: ClassVar[str | None] = "amount"
    identity: ClassVar[Mapping[str, Any] | None] = MappingProxyType({"criterion": "energy", "amount": 1.0})
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"criterion": "ratio", "amount": 0.5})

    criterion: Annotated[
        Criterion,
        msgspec.Meta(description="what amount counts: energy of singular values, ratio of weights, or the rank"),
    ] = "energy"
    amount: Annotated[
        float, msgspec.Meta(gt=0.0, description="share of energy or weights kept (up to 1), or the rank (1, 2, ...)")
    ] = 0.9

    def __post_init__(self) -> None:
        """Check ``amount`` against ``criterion``."""
        super().__post_init__()
        if self.criterion == "rank":
            if self.amount < 1 or self.amount != int(self.amount):
                raise SettingError(f"Svd.amount: wanted a whole rank of at least 1, got {self.amount!r}")
        elif self.amount > 1:
            raise SettingError(f"Svd.amount: wanted a share up to 1 for {self.criterion!r}, got {self.amount!r}")

    def plan(self, subject: Subject, evidence: Evidence | None = None) -> Plan:
        """Return a split, with its factors, for every chosen linear layer that gets smaller by it.

        Raises:
            PatternError: a pattern matches no site.
            ModelError: a weight is not finite.
        """
        del evidence
        edits, tensors, skipped = [], {}, []
        model = plain_copy(subject)
        constrained = {*subject.constraints, *subject.activations}
        for site in self.chosen(subject):
            reason = (
                "it is constrained, and a split would lose that"
                if site.name in constrained
                else _unfit(subject, model, site)
            )
            if reason is not None:
                skipped.append(Skip(site.name, reason))
                continue
            weight = live_weight(subject, site.name)
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"{site.name}: a weight is not finite, so it has no singular values")
            U, S, V = decompose(weight)
            rank = choose_rank(S, weight.shape[0], weight.shape[1], self.criterion, self.amount)
            m, n = weight.shape
            if rank * (m + n) >= m * n:
                skipped.append(Skip(site.name, f"rank {rank} would need {rank * (m + n)} weights in place of {m * n}"))
                continue
            path = site.owners[0].module
            edits.append(Split(path, rank))
            root = S[:rank].sqrt()
            tensors[f"{path}.0.weight"] = (root[:, None] * V[:rank]).to(weight.dtype)
            tensors[f"{path}.1.weight"] = (U[:, :rank] * root).to(weight.dtype)
        return Plan(self.tag, edits=tuple(edits), tensors=tensors, skipped=tuple(skipped))


def decompose(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, r), S (r,), V (r, n) with weight = U diag(S) V, in at least float32 on the weight's device.

    The largest entry of each column of U is positive, so that the factors do not depend on the machine's routine.
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    U, S, V = torch.linalg.svd(wide, full_matrices=False)
    largest = U.gather(0, U.abs().argmax(0, keepdim=True)).squeeze(0)
    sign = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return U * sign, S, V * sign[:, None]


def choose_rank(S: Tensor, outputs: int, inputs: int, criterion: Criterion, amount: float) -> int:
    """Return how many singular values to keep, at least 1.

    Args:
        S: singular values, falling.
        outputs: rows m of the matrix.
        inputs: its columns n.
        criterion: ``energy``: the fewest whose squares add up to ``amount`` of all; ``ratio``: as many as fit into
            ``amount`` times mn weights; ``rank``: ``amount`` itself.
        amount: see ``criterion``.
    """
    match criterion:
        case "energy":
            if amount >= 1:
                return len(S)
            energy = S.double().square().cumsum(0)
            rank = int((energy < amount * energy[-1]).sum()) + 1
        case "ratio":
            rank = int(amount * outputs * inputs / (outputs + inputs))
        case "rank":
            rank = int(amount)
    return max(1, min(rank, len(S)))


def _unfit(subject: Subject, model: nn.Module, site: Site) -> str | None:
    """Return why ``site`` cannot be split, or None if it can."""
    if site.kind != "linear":
        return f"it is of kind {site.kind}; only linear layers are split"
    if len(site.owners) > 1:
        return f"it is owned by {', '.join(site.names)}"
    path = site.owners[0].module
    if not path:
        return "the layer is the whole model"
    return why_no_split(model, path) or _read_elsewhere(subject, model, path)


def _read_elsewhere(subject: Subject, model: nn.Module, path: str) -> str | None:
    """Return why the layer at ``path`` must keep its weight, if code outside the layer reads it by name."""
    parent, _, name = path.rpartition(".")
    holder, layer = model.get_submodule(parent), model.get_submodule(path)
    setattr(holder, name, nn.Sequential(layer))  # the same function, without the attribute
    try:
        run_example(model, subject.args, subject.kwargs)
    except ModelError as error:
        return f"its weight is read outside the layer: {error.message}"
    finally:
        setattr(holder, name, layer)
    return None
