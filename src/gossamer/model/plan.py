"""Plans: what a method decided, as plain data that can be printed, costed, saved and replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gossamer.artifact.activations import cell_of, place_of
from gossamer.errors import PlanError
from gossamer.model.codebook import Codebook
from gossamer.model.constraint import Constraint, Grid, Hash, Mask, Splice
from gossamer.model.edits import Cut, Drop, Edit, Fold, Resize, Split, Unclip, edit_from_dict, edit_to_dict
from gossamer.model.latent import (
    Binary,
    Bucketed,
    Latent,
    Points,
    Tanh,
    Ternary,
    latent_from_dict,
    latent_to_dict,
    level_count,
)
from gossamer.model.mixture import Mixture, Rates
from gossamer.model.penalty import Penalty


@dataclass(frozen=True, slots=True)
class Skip:
    """A site that a method left alone, and why."""

    site: str
    reason: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Constraints by site, edits, input grids, penalties and what was skipped.

    Attributes:
        method: tag of the method that made the plan.
        constraints: the constraint to put on each site, or several of different kinds.
        edits: changes of structure, in order; made before the constraints are put on.
        tensors: values of parameters and buffers, by ``state_dict`` name in the edited model: of those that an edit
            creates, and new ones for those that are there (compensation, repair). What holds already goes on holding
            for them.
        activations: grid of what each named site multiplies, an input or a hidden state, or of the output of a
            module (`activations`).
        penalties: terms of the training loss for the training that follows.
        skipped: sites left alone, with reasons.
        reset_norms: whether batch norms want their statistics measured anew once the plan is carried out.
    """

    method: str
    constraints: Mapping[str, Constraint | tuple[Constraint, ...]] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    activations: Mapping[str, Grid] = field(default_factory=dict)
    penalties: tuple[Penalty, ...] = ()
    skipped: tuple[Skip, ...] = ()
    reset_norms: bool = False

    def on(self, site: str) -> tuple[Constraint, ...]:
        """Return the constraints planned for ``site``."""
        found = self.constraints.get(site, ())
        return found if isinstance(found, tuple) else (found,)

    def only(self, site: str) -> "Plan":
        """Return what it decides for the values of ``site``, its input and a cell state beside it, and nothing else."""
        return Plan(
            self.method,
            constraints={site: self.constraints[site]} if site in self.constraints else {},
            tensors={site: self.tensors[site]} if site in self.tensors else {},
            activations={name: self.activations[name] for name in (site, cell_of(site)) if name in self.activations},
        )

    @property
    def edited(self) -> tuple[str, ...]:
        """What the edits change: paths of modules and names of groups."""
        names: list[str] = []
        for edit in self.edits:
            match edit:
                case Split() | Fold() | Drop() | Unclip():
                    names.append(edit.module)
                case Cut():
                    names += [name for name, _ in edit.keep]
                case Resize():
                    names += [name for name, _ in edit.shapes]
        return tuple(dict.fromkeys(names))

    def to_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return a JSON-able document and the arrays it refers to by flat names.

        Penalties are live objects (a teacher network, say) and are not saved; their names are, for reading.
        """
        arrays: dict[str, np.ndarray] = {}

        def many(group: str, entries: Mapping[str, tuple[Constraint, ...]]) -> dict[str, Any]:
            return {
                site: [_constraint_to_dict(part, f"{group}/{site}/{i}", arrays) for i, part in enumerate(parts)]
                for site, parts in entries.items()
            }

        document = {
            "method": self.method,
            "constraints": many("constraints", {site: self.on(site) for site in self.constraints}),
            "edits": [edit_to_dict(edit) for edit in self.edits],
            "tensors": list(self.tensors),
            "activations": many("activations", {site: (grid,) for site, grid in self.activations.items()}),
            "penalties": [type(penalty).__name__ for penalty in self.penalties],
            "skipped": [[skip.site, skip.reason] for skip in self.skipped],
            "reset_norms": self.reset_norms,
        }
        arrays |= {f"tensors/{name}": _to_numpy(value) for name, value in self.tensors.items()}
        return document, arrays

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Plan":
        """Return the plan that :meth:`to_dict` wrote, without its penalties.

        Raises:
            PlanError: a part is missing or of the wrong form.
        """
        try:
            grids = {
                site: _constraint_from_dict(parts[0], f"activations/{site}/0", arrays)
                for site, parts in document["activations"].items()
            }
            return cls(
                method=document["method"],
                constraints={
                    site: tuple(
                        _constraint_from_dict(part, f"constraints/{site}/{i}", arrays) for i, part in enumerate(parts)
                    )
                    for site, parts in document["constraints"].items()
                },
                edits=tuple(edit_from_dict(edit) for edit in document["edits"]),
                tensors={name: torch.from_numpy(np.array(arrays[f"tensors/{name}"])) for name in document["tensors"]},
                activations={site: grid for site, grid in grids.items() if isinstance(grid, Grid)},
                skipped=tuple(Skip(site, reason) for site, reason in document["skipped"]),
                reset_norms=document.get("reset_norms", False),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PlanError(f"saved plan: {error!r}") from error

    def __str__(self) -> str:
        """Return a summary, one line per decision."""
        lines = [f"plan of {self.method}"]
        lines += [f"  edit {edit}" for edit in self.edits]
        lines += [f"  {site}: " + ", ".join(_describe(part) for part in self.on(site)) for site in self.constraints]
        lines += [f"  {name}: new values" for name in self.tensors]
        lines += [
            f"  {place_of(name).removeprefix('the ')}: {_describe(grid)}" for name, grid in self.activations.items()
        ]
        lines += [f"  penalty {type(penalty).__name__}" for penalty in self.penalties]
        lines += [f"  {skip.site}: skipped, {skip.reason}" for skip in self.skipped]
        return "\n".join(lines)


def _to_numpy(values: Tensor) -> np.ndarray:
    """Return floats as float32 or wider: numpy has no bfloat16, and float32 holds it exactly."""
    plain = values.detach().cpu()
    return (plain if plain.dtype == torch.float64 else plain.float()).numpy()


def _describe(constraint: Constraint) -> str:
    match constraint:
        case Mask() | Splice():
            for_now = " for now" if isinstance(constraint, Splice) else ""
            return f"keep {int(constraint.keep.sum())} of {constraint.keep.numel()}{for_now}"
        case Codebook():
            return _describe_codebook(constraint)
        case Hash():
            return f"hash into {constraint.size} buckets, seed {constraint.seed}"
        case Binary() | Ternary() | Tanh() | Bucketed() | Points():
            return _describe_levels(constraint)
        case Mixture():
            tied = ", with other sites" if constraint.tie else ""
            return f"mixture of {len(constraint.log_precisions)} components while training{tied}"
        case Grid():
            along = "one scale" if constraint.axis is None else f"{constraint.scale.numel()} scales"
            along += f", {constraint.groups} in each row" if constraint.groups and len(constraint.scale) > 1 else ""
            how = f", trained{' with noise' if constraint.noise else ''}" if constraint.trained else ""
            return f"{constraint.bits}-bit {'signed' if constraint.signed else 'unsigned'} grid, {along}{how}"


def _describe_levels(rule: Latent) -> str:
    what = "points, trained" if isinstance(rule, Points) else "levels while training"
    buckets = f", in buckets of about {rule.size}" if isinstance(rule, Bucketed | Points) and rule.size else ""
    return f"{level_count(rule)} {what}{buckets}"


def _describe_codebook(codebook: Codebook) -> str:
    how = "" if codebook.trained else ", fixed"
    if codebook.width > 1:
        return f"share {codebook.size // codebook.width} codewords of {codebook.width} values{how}"
    so_far = "" if codebook.shared is None else f", {int(codebook.shared.sum())} weights so far"
    pages = f" in {len(codebook.pages)} parts" if codebook.starts is not None else ""
    tied = ", those of other sites too" if codebook.tie else ""
    return f"share {codebook.size} values{pages}{tied}{how}{so_far}"


def _constraint_to_dict(constraint: Constraint, at: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    match constraint:
        case Mask() | Splice():
            arrays[f"{at}/keep"] = constraint.keep.numpy()
            return {"kind": type(constraint).__name__.lower()}
        case Codebook():
            arrays[f"{at}/codes"] = constraint.codes.numpy()
            arrays[f"{at}/centers"] = _to_numpy(constraint.centers)
            if constraint.shared is not None:
                arrays[f"{at}/shared"] = constraint.shared.numpy()
            if constraint.starts is not None:
                arrays[f"{at}/starts"] = constraint.starts.numpy()
            return {
                "kind": "codebook",
                "trained": constraint.trained,
                "tie": constraint.tie,
                "width": constraint.width,
            }
        case Hash():
            arrays[f"{at}/buckets"] = _to_numpy(constraint.buckets)
            return {"kind": "hash", "seed": constraint.seed, "shape": list(constraint.shape)}
        case Binary() | Ternary() | Tanh() | Bucketed() | Points():
            return latent_to_dict(constraint, at, arrays)
        case Mixture():
            for name in Rates._fields:
                arrays[f"{at}/{name}"] = _to_numpy(getattr(constraint, name))
            rates = list(constraint.rates)
            return {"kind": "mixture", "zero": constraint.zero, "rates": rates, "tie": constraint.tie}
        case Grid():
            arrays[f"{at}/scale"] = constraint.scale.numpy()
            arrays[f"{at}/zero"] = constraint.zero.numpy()
            plain = {"bits": constraint.bits, "signed": constraint.signed, "axis": constraint.axis}
            return {"kind": "grid", **plain, "trained": constraint.trained, "noise": constraint.noise}


def _constraint_from_dict(data: Mapping[str, Any], at: str, arrays: Mapping[str, np.ndarray]) -> Constraint:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(np.array(arrays[f"{at}/{name}"]))

    match data["kind"]:
        case "mask" | "splice":
            return Mask(tensor("keep")) if data["kind"] == "mask" else Splice(tensor("keep"))
        case "codebook":
            shared, starts = (tensor(n) if f"{at}/{n}" in arrays else None for n in ("shared", "starts"))
            named = {"tie": data.get("tie", ""), "width": data.get("width", 1)}
            return Codebook(tensor("codes"), tensor("centers"), data["trained"], shared, starts, **named)
        case "hash":
            return Hash(tensor("buckets"), data["seed"], tuple(data["shape"]))
        case "binary" | "ternary" | "tanh" | "bucketed" | "points":
            return latent_from_dict(data, at, arrays)
        case "mixture":
            means, precisions, shares = (tensor(name) for name in Rates._fields)
            return Mixture(means, precisions, shares, data["zero"], Rates(*data["rates"]), data["tie"])
        case "grid":
            trained, noise = data.get("trained", False), data.get("noise", False)
            return Grid(tensor("scale"), tensor("zero"), data["bits"], data["signed"], data["axis"], trained, noise)
        case kind:
            raise PlanError(f"saved plan: wanted the kind of a constraint at {at}, got {kind!r}")
