"""Edits: changes of structure recorded as plain data, so that they can be replayed on a fresh instance of the class.

``Split`` puts two thin layers in place of one ``nn.Linear`` (low rank); ``Fold`` dissolves a re-parametrised or
normalising layer into the weights it acts on; ``Cut`` takes units (channels, hidden units, heads) away, and what it
came to is recorded as ``Resize``; ``Drop`` takes a whole module out, whose input goes on in place of its output;
``Unclip`` takes the upper bound off a ReLU6.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec

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


@dataclass(frozen=True, slots=True)
class Cut:
    """Take units out of groups of the subject (see :mod:`gossamer.model.coupling`).

    A plan says ``Cut``; applied, it is recorded as the :class:`Resize` it came to, which needs no analysis to replay.

    Attributes:
        keep: for each group that loses units, its name and the numbers of the units that stay, rising.
    """

    keep: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Resize:
    """Give tensors of the model smaller shapes; their values come from elsewhere (a file, a plan).

    Attributes:
        shapes: name and new shape of each parameter and buffer that shrinks.
        constants: module path, attribute and new value of each integer that code keeps of a size.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    constants: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Take the module at ``module`` out of the model: its first input goes on where its output went.

    Every path that leads to the module loses it. Its parameters go with it, but for those that a module which stays
    owns too. Names of other modules stay as they are.
    """

    module: str


@dataclass(frozen=True, slots=True)
class Unclip:
    """Replace the ``nn.ReLU6`` at ``module`` by an ``nn.ReLU``, at every path that leads to it."""

    module: str


Edit = Split | Fold | Cut | Resize | Drop | Unclip


def edit_to_dict(edit: Edit) -> dict[str, Any]:
    """Return ``edit`` as JSON-able data."""
    return {"edit": type(edit).__name__.lower(), **asdict(edit)}


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """Return the edit that :func:`edit_to_dict` wrote.

    Raises:
        PlanError: the data names no known edit or has wrong fields.
    """
    kinds: dict[str, type[Edit]] = {kind.__name__.lower(): kind for kind in (Split, Fold, Cut, Resize, Drop, Unclip)}
    fields = {key: value for key, value in data.items() if key != "edit"}
    kind = kinds.get(str(data.get("edit")))
    if kind is None or not set(fields) <= set(kind.__dataclass_fields__):
        raise PlanError(f"edit: wanted one of {sorted(kinds)} with its own fields, got {dict(data)}")
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise PlanError(f"edit {data.get('edit')}: {error}") from error
