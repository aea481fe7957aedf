"""A subject on disk: state dict, live constraints, edits and input grids, as one safetensors file with a JSON head."""

from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch
from safetensors.torch import load_file

from gossamer.errors import GossamerError, RecipeError
from gossamer.model import Edit, Plan, Subject, apply, edit_from_dict, edit_to_dict
from gossamer.model.surgery import perform
from gossamer.train.checkpoint import write_safetensors
from gossamer.train.state import weights_of

NAME = "state.safetensors"
_STATE, _PLAN = "state/", "plan/"


def save_subject(folder: Path, subject: Subject, original: Subject) -> None:
    """Write to ``folder`` what makes ``original`` into ``subject`` again; penalties are not kept."""
    plan = Plan(
        method="journal",
        constraints={site: tuple(constraints) for site, constraints in subject.constraints.items()},
        activations=subject.activations,
    )
    document, arrays = plan.to_dict()
    tensors = {_STATE + name: tensor for name, tensor in weights_of(subject.model).items()}
    tensors |= {_PLAN + name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    document["edits"] = [edit_to_dict(edit) for edit in subject.edits[len(original.edits) :]]
    write_safetensors(folder / NAME, tensors, {"plan": msgspec.json.encode(document).decode()})


def load_subject(folder: Path, original: Subject) -> Subject:
    """Return the subject that :func:`save_subject` wrote.

    Raises:
        RecipeError: the file is missing, damaged or does not fit ``original``.
    """
    path = folder / NAME
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            document: Any = msgspec.json.decode((file.metadata() or {}).get("plan", ""))
        tensors = load_file(path)
        arrays = {name[len(_PLAN) :]: value.numpy() for name, value in tensors.items() if name.startswith(_PLAN)}
        edits = tuple(edit_from_dict(edit) for edit in document.pop("edits"))
        subject = apply(_edited(original, edits), Plan.from_dict(document | {"edits": []}, arrays))
        subject.model.load_state_dict(
            {name[len(_STATE) :]: value for name, value in tensors.items() if name.startswith(_STATE)}
        )
    except (safetensors.SafetensorError, msgspec.MsgspecError, OSError, RuntimeError, GossamerError) as error:
        raise RecipeError(f"{path}: cannot be read back: {error}", hint="delete the folder to start anew") from error
    return subject


def _edited(original: Subject, edits: tuple[Edit, ...]) -> Subject:
    """Return ``original`` with the structure of ``edits``; the values of new weights are not set."""
    if not edits:
        return original
    copy = original.copy()
    for edit in edits:
        perform(copy.model, edit)
    return Subject(copy.model, copy.args, copy.kwargs, (*original.edits, *edits))
