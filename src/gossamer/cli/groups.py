"""``gossamer groups``: the units of a model that must be cut together."""

from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.options import Data, Json, Model, Weights

if TYPE_CHECKING:
    from gossamer.model import Group, Subject


def groups(
    model: Model,
    *,
    data: Data = None,
    weights: Weights = None,
    stuck: Annotated[
        bool, typer.Option("--all", help="Also list the groups that cannot be cut, with the reasons.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which units of a model can be cut, and what goes with them.

    A unit is a filter, a neuron, a hidden unit of a recurrent layer or an attention head, with all positions of all
    tensors that must go with it. Operators that the analysis does not know are named with their source line.
    """
    from gossamer.cli.models import model_of
    from gossamer.cli.output import print_json, stdout, table
    from gossamer.cli.tasks import inputs_for
    from gossamer.model import Subject

    args, kwargs = inputs_for(model, data)
    subject = Subject.of(model_of(model, weights), *args, **kwargs)
    found, unseen = subject.coupling
    if as_json:
        print_json({"groups": [_plain(subject, group) for group in found], "unseen": unseen})
        return
    free = [group for group in found if not group.stuck]
    console = stdout()
    columns = ("group", "units", "lanes", "parameters/unit", "made by", "read by")
    console.print(table(columns, (_row(subject, group) for group in free), left=("made by", "read by")))
    if stuck and len(free) < len(found):
        rows = ((group.name, group.size, group.stuck) for group in found if group.stuck)
        console.print(table(("cannot be cut", "units", "why"), rows, left=("why",)))
    for one in unseen:
        console.print(f"not followed: {one.what} at {one.where or 'a line of torch'}: {one.why}", markup=False)
    fixed = len(found) - len(free)
    hidden = f"; {fixed} cannot be cut (--all lists them)" if fixed and not stuck else ""
    console.print(f"{len(free)} groups, {sum(group.size for group in free)} units{hidden}", markup=False)


def _row(subject: "Subject", group: "Group") -> tuple[object, ...]:
    lanes = "" if group.lanes is None else len(group.lanes)
    made, read = (
        (part.tensor for part in side if part.tensor in subject.sites) for side in (group.makers, group.readers)
    )
    return group.name, group.size, lanes, f"{_per_unit(subject, group):,.0f}", ", ".join(made), ", ".join(read)


def _per_unit(subject: "Subject", group: "Group") -> float:
    """Return the parameters that a unit takes with it, on average."""
    from gossamer.model.resize import stored_tensors

    tensors = stored_tensors(subject.model)
    total = 0.0
    for part in group.slices:
        shape = tensors[part.tensor].shape
        total += (part.units >= 0).sum() / part.units.size * prod(shape)
    return float(total / group.size)


def _plain(subject: "Subject", group: "Group") -> dict[str, Any]:
    parts = [
        {"tensor": part.tensor, "dim": part.dim, "makes": part.makes, "reads": part.reads, "units": part.units}
        for part in group.slices
    ]
    return {
        "name": group.name,
        "units": group.size,
        "parameters_per_unit": _per_unit(subject, group),
        "lanes": group.lanes,
        "stuck": group.stuck,
        "constants": [[constant.module, constant.attribute] for constant in group.constants],
        "slices": parts,
    }
