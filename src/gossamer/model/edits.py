"""Edits: changes of structure recorded as plain data, so that they can be replayed on a fresh instance of the class.

``Split`` puts two thin layers in place of one ``nn.Linear`` (low rank); ``Fold`` dissolves a re-parametrised or
normalising layer into the weights it acts on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gossamer.errors import PlanError


@dataclass(frozen=True, slots=True)
class Split:
    """Replace the ``nn.Linear`` at ``module`` by ``Sequential(Linear(in, rank, bias=False), Linear(rank, out))``.

    The new weights are ``<module>.0.weight`` of shape ``(rank, in)`` and ``<module>.1.weight`` of shape
    ``(out, rank)``; a plan gives their values in ``Plan.tensors`` under these names. The bias moves to
    ``<module>.1.bias``.
    """

    module: str
    rank: int


@dataclass(frozen=True, slots=True)
class Fold:
    """Dissolve a layer into a weight.

    Attributes:
        kind: ``weight_norm`` (both styles of torch), ``parametrization`` (any other one the model came with) or
            ``batch_norm`` (into the convolution or linear layer before it).
        module: path of the module whose weight takes the layer in.
        attribute: the parameter that is re-parametrised; ``weight`` for a batch norm.
        norm: path of the batch norm, replaced by ``nn.Identity``; empty for the other kinds.
    """

    kind: Literal["weight_norm", "parametrization", "batch_norm"]
    module: str
    attribute: str = "weight"
    norm: str = ""


Edit = Split | Fold


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """Return ``edit`` as JSON-able data."""
    return {"edit": type(edit).__name__.lower(), **asdict(edit)}


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """Return the edit that :func:`edit_to_dict` wrote.

    Raises:
        PlanError: the data names no known edit or has wrong fields.
    """
    kinds: dict[str, type[Split] | type[Fold]] = {"split": Split, "fold": Fold}
    fields = {key: value for key, value in data.items() if key != "edit"}
    kind = kinds.get(str(data.get("edit")))
    if kind is None or not set(fields) <= set(kind.__dataclass_fields__):
        raise PlanError(f"edit: wanted one of {sorted(kinds)} with its own fields, got {dict(data)}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise PlanError(f"edit {data.get('edit')}: {error}") from error
