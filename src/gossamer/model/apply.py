"""Apply: the only place where a model changes."""

from collections.abc import Mapping

import torch

from gossamer.artifact.activations import beside_cell, module_of
from gossamer.errors import ModelError, PlanError
from gossamer.model.activations import name_activations, put_activation, why_no_activation
from gossamer.model.blocks import why_no_drop
from gossamer.model.codebook import Codebook
from gossamer.model.constraint import Constraints, Grid, Hash
from gossamer.model.coupling import constants, kept_units, positions
from gossamer.model.edits import Cut, Drop, Edit, Fold, Split
from gossamer.model.folding import foldable
from gossamer.model.input_grid import settle_input_grids
from gossamer.model.latent import Binary, Bucketed, Points, Tanh, Ternary
from gossamer.model.live import constrain, live_parts
from gossamer.model.merge import merge
from gossamer.model.mixture import Mixture
from gossamer.model.plan import Plan
from gossamer.model.resize import stored_tensors, take
from gossamer.model.run import run_example
from gossamer.model.site import Site, find_sites, owned_parameters
from gossamer.model.subject import Subject
from gossamer.model.surgery import perform


def apply(subject: Subject, plan: Plan) -> Subject:
    """Return a copy of ``subject`` with ``plan`` carried out and merged with what holds already.

    Raises:
        PlanError: the plan names what the subject does not have, does not fit it, or would undo what holds.
    """
    new = subject.copy()
    edits: tuple[Edit, ...] = ()
    if plan.edits or plan.tensors:
        edits = _edit(new, plan)
        if edits:
            for name in ("sites", "graph", "coupling"):
                vars(new).pop(name, None)
    _constrain(new, plan)
    _activate(new, plan)
    new.edits = (*subject.edits, *edits)
    new.penalties = (*subject.penalties, *plan.penalties)
    new.skipped = (*subject.skipped, *plan.skipped)
    return new


def retarget(subject: Subject, plan: Plan) -> None:
    """Change the constraints of ``subject`` in place, for a schedule that owns it during training.

    Parameters keep their identity, so an optimizer goes on working.

    Raises:
        PlanError: the plan changes more than constraints, or would need a new parameter (a codebook where there was
            none of that size, a hash or a trained grid where there was none, a mixture, binary or ternary levels).
    """
    if plan.edits or plan.tensors or plan.activations or plan.penalties:
        raise PlanError(f"plan of {plan.method}: only constraints can change during training")
    if not plan.constraints:
        return
    held = subject.constraints
    for site in plan.constraints:
        for part in plan.on(site):
            before = held.get(site, Constraints())
            if isinstance(part, Codebook) and (before.codebook is None or before.codebook.size != part.size):
                raise PlanError(f"{site}: a codebook of {part.size} values cannot appear during training")
            if isinstance(part, Hash) and before.hash is None:
                raise PlanError(f"{site}: a hash cannot appear during training")
            if isinstance(part, Mixture | Binary | Ternary | Tanh | Bucketed | Points):
                raise PlanError(f"{site}: {type(part).__name__.lower()} cannot appear during training")
            if isinstance(part, Grid) and part.trained != (before.grid is not None and before.grid.trained):
                raise PlanError(f"{site}: whether the scale of its grid trains cannot change during training")
    _constrain(subject, plan)


def settle(subject: Subject) -> None:
    """Make splices and unfinished codebooks of ``subject`` final, in place, once the training they live for is over.

    Mixtures, which live for it too, go; the steps of input grids stay as they have trained.
    """
    settle_input_grids(subject.model)
    for _, _, live, parameter in live_parts(subject.model):
        live.settle(parameter)


def _activate(subject: Subject, plan: Plan) -> None:
    """Put inputs, states and outputs on the plan's grids."""
    sites = find_sites(subject.model, every=True) if plan.activations else {}
    modules = dict(subject.model.named_modules(remove_duplicate=False)) if plan.activations else {}
    for name, grid in plan.activations.items():
        path, beside = module_of(name), beside_cell(name)
        if path is None:
            reason = why_no_activation(subject.model, _site(sites, beside or name), grid, cell=beside is not None)
        else:
            reason = None if path in modules else f"the subject has no module {path!r}"
        if reason is not None:
            raise PlanError(f"{name}: {reason}")
        if grid.axis is not None:
            raise PlanError(f"{name}: wanted one scale for the grid of activations, got {grid.scale.numel()}")
        put_activation(subject.model, sites, name, grid)


def _constrain(subject: Subject, plan: Plan) -> None:
    if not plan.constraints:
        return
    sites = find_sites(subject.model, every=True)
    parameters = {owner.name: parameter for owner, _, parameter in owned_parameters(subject.model)}
    held = subject.constraints
    for name in plan.constraints:
        site = _site(sites, name)
        merged = held.get(name, Constraints())
        for part in plan.on(name):
            merged = merge(site, merged, part)
        changed = {type(part) for part in plan.on(name)}
        constrain(subject.model, parameters[name], [part for part in merged if type(part) in changed])


def _site(sites: Mapping[str, Site], name: str) -> Site:
    if name not in sites:
        raise PlanError(f"the subject has no site {name!r}", hint=f"the sites are: {', '.join(sites)}")
    return sites[name]


def _edit(subject: Subject, plan: Plan) -> tuple[Edit, ...]:
    """Carry out the plan's edits and return them as they are recorded."""
    wanted = {f"{e.module}.{i}.weight" for e in plan.edits if isinstance(e, Split) for i in (0, 1)}
    if not wanted <= set(plan.tensors):
        raise PlanError(f"plan of {plan.method}: its edits need tensors {sorted(wanted - set(plan.tensors))}")
    possible = foldable(subject) if any(isinstance(e, Fold) and e.kind == "batch_norm" for e in plan.edits) else ()
    done: list[Edit] = []
    try:
        for edit in plan.edits:
            if isinstance(edit, Fold) and edit.kind == "batch_norm" and edit not in possible:
                raise PlanError(
                    f"{edit}: {edit.norm} does not follow {edit.module} alone, or one of them is constrained"
                )
            done.append(_carried_out(subject, edit))
        _fill(subject, plan)
        run_example(subject.model, subject.args, subject.kwargs)
    except ModelError as error:
        raise PlanError(f"plan of {plan.method}: {error.message}") from error
    return tuple(done)


def _carried_out(subject: Subject, edit: Edit) -> Edit:
    """Carry out ``edit`` and return it as it is recorded."""
    match edit:
        case Cut():
            return _cut(subject, edit)
        case Drop():
            reason = why_no_drop(subject, edit.module)
            if reason is not None:
                raise PlanError(f"{edit.module or 'the model'} cannot be dropped: {reason}")
            perform(subject.model, edit)
            name_activations(subject.model, find_sites(subject.model, every=True).values())
        case _:
            perform(subject.model, edit)
    return edit


def _cut(subject: Subject, edit: Cut) -> Edit:
    """Cut units of the subject's groups, which must be those of its structure before the plan."""
    groups = subject.groups
    kept = kept_units(groups, edit.keep)
    index = positions(groups, kept)
    gone = sorted(set(index) - set(stored_tensors(subject.model)))
    if gone:
        raise PlanError(
            f"{', '.join(kept)}: an edit before it took {gone[0]} away", hint="cut in a plan of its own, made after it"
        )
    return take(subject.model, index, constants(groups, kept))


def _fill(subject: Subject, plan: Plan) -> None:
    stored = stored_tensors(subject.model)
    held = subject.constraints
    for name, value in plan.tensors.items():
        if name not in stored:
            raise PlanError(f"plan of {plan.method}: the model has no parameter or buffer {name!r} to give values to")
        if name in held and held[name].shared:
            raise PlanError(f"{name}: its values are shared, so it cannot be given others")
        parameter = stored[name]
        if value.shape != parameter.shape or not bool(torch.isfinite(value).all()):
            raise PlanError(f"{name}: wanted finite values of shape {tuple(parameter.shape)}, got {tuple(value.shape)}")
        if not parameter.is_floating_point():
            raise PlanError(f"{name}: holds {parameter.dtype}, so it cannot be given new values")
        parameter.data = value.detach().to(parameter.device, parameter.dtype, copy=True).contiguous()
