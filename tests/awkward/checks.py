"""What every method promises, as checks that fail with an assertion; ``methods/test_conformance.py`` runs them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from awkward.networks import Awkward
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gossamer import artifact
from gossamer.artifact.activations import module_of
from gossamer.calibrate import calibrate, tried
from gossamer.errors import ModelError
from gossamer.model import (
    Codebook,
    Constraints,
    Cut,
    Drop,
    Fold,
    Grid,
    Mask,
    Method,
    Owner,
    Plan,
    Split,
    StepContext,
    Subject,
    apply,
    freeze,
    live_weight,
    load,
    plain_copy,
    to_artifact,
)
from gossamer.model.coupling import kept_units, positions
from gossamer.model.resize import picked


def subject_of(network: Awkward) -> Subject:
    """Return a subject on a fresh instance."""
    args, kwargs = network.inputs()
    return Subject.of(network.build(), *args, **kwargs)


def setting(method: type[Method], **settings: Any) -> Method:
    """Return ``method`` with the settings it is shown with, and ``settings`` over them."""
    return method(**{**method.example, **settings})


def planned(method: Method, subject: Subject) -> Plan:
    """Return the plan of ``method``, with the evidence it needs from the example inputs."""
    if not method.needs:
        return method.plan(subject)
    batches = [(subject.args, subject.kwargs, None)]
    evidence = calibrate(subject, batches, method.needs, loss=_loss)
    trials = method.trials(subject, evidence)
    return method.plan(subject, tried(subject, trials, batches, evidence, loss=_loss) if trials else evidence)


def outputs(model: nn.Module, network: Awkward) -> list[Tensor]:
    """Return the tensors that ``model`` answers to the network's example inputs."""
    args, kwargs = network.inputs()
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]


def train_one_step(subject: Subject) -> None:
    """Train one step of SGD on the example inputs, with penalties as the training loop has them."""
    parameters = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    answers = subject.model(*subject.args, **subject.kwargs)
    loss = _loss(answers, None)
    context = StepContext(subject, subject.args, subject.kwargs, answers, None, loss)
    terms = [penalty.term(context) for penalty in subject.penalties]
    total = loss + sum(term for term in terms if term is not None)
    total.backward()
    optimizer.step()
    for penalty in subject.penalties:
        penalty.proximal(subject, 0.05)


def input_is_untouched(method: type[Method], network: Awkward) -> None:
    model = network.build()
    before = _state(model)
    args, kwargs = network.inputs()
    subject = Subject.of(model, *args, **kwargs)
    inside = _state(subject.model)
    plan = planned(setting(method), subject)
    assert _equal(_state(subject.model), inside), "plan changed the subject"
    result = apply(subject, plan)
    train_one_step(result)
    assert _equal(_state(subject.model), inside), "apply changed the subject"
    assert _equal(_state(model), before), "the caller's model changed"


def plan_is_deterministic(method: type[Method], network: Awkward) -> None:
    torch.manual_seed(5)
    first = planned(setting(method), subject_of(network)).to_dict()
    torch.manual_seed(6)
    second = planned(setting(method), subject_of(network)).to_dict()
    assert first[0] == second[0]
    assert first[1].keys() == second[1].keys()
    assert all(np.array_equal(first[1][name], second[1][name]) for name in first[1])


def plan_survives_saving(method: type[Method], network: Awkward) -> None:
    subject = subject_of(network)
    plan = planned(setting(method), subject)
    again = Plan.from_dict(*plan.to_dict())
    left, right = apply(subject, plan), apply(subject, again)
    assert _equal(_state(plain_copy(left)), _state(plain_copy(right)))


def excluded_sites_are_identical(method: type[Method], network: Awkward) -> None:
    subject = subject_of(network)
    name = next(iter(subject.sites))
    result = apply(subject, planned(setting(method, exclude=(name,)), subject))
    train_none = live_weight(result, name)
    assert torch.equal(train_none, live_weight(subject, name))
    assert name not in result.constraints
    assert name not in result.activations


def ties_survive(method: type[Method], network: Awkward) -> None:
    subject = subject_of(network)
    result = apply(subject, planned(setting(method), subject))
    train_one_step(result)
    gone = {f"{edit.module}.{part}" for edit in result.edits if isinstance(edit, Split) for part in ("weight", "bias")}
    state = plain_copy(result).state_dict()
    aliases = freeze(result).aliases
    for site in subject.sites.values():
        left = [owner.name for owner in site.owners if not dropped(result, owner)]
        if left and gone.isdisjoint(left):
            assert all(torch.equal(state[name], state[left[0]]) for name in left)
            assert len({aliases.get(name, name) for name in left}) == 1


def dtype_mode_and_training_flags_survive(method: type[Method], network: Awkward) -> None:
    model = network.build()
    modules = [module for _, module in model.named_modules()]
    for module in modules[::2]:
        module.training = True
    frozen_name, frozen = list(model.named_parameters())[-1]
    frozen.requires_grad_(requires_grad=False)
    args, kwargs = network.inputs()
    subject = Subject.of(model, *args, **kwargs)
    result = plain_copy(apply(subject, planned(setting(method), subject)))
    modes = {path: module.training for path, module in result.named_modules()}
    for path, module in model.named_modules():
        assert modes.get(path, module.training) == module.training, path
    parameters = dict(result.named_parameters())
    for name, parameter in model.named_parameters():
        if name in parameters:
            assert parameters[name].dtype == parameter.dtype, name
            assert parameters[name].device == parameter.device, name
            assert parameters[name].requires_grad == (name != frozen_name), name
    for parameter in parameters.values():
        assert parameter.dtype in {p.dtype for p in model.parameters()}


def strength_zero_is_the_identity(method: type[Method], network: Awkward) -> None:
    assert method.identity is not None
    subject = subject_of(network)
    result = apply(subject, planned(setting(method, **method.identity), subject))
    assert _equal(_state(plain_copy(result)), _state(plain_copy(subject)))


def cut_sites(subject: Subject, plan: Plan) -> set[str]:
    """Return the sites that lose units by the plan's cuts."""
    return set(positions_of(subject, plan)) & set(subject.sites)


def positions_of(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Return the positions that stay, by tensor, when the plan's cut is made; nothing if it has none."""
    cuts = [edit for edit in plan.edits if isinstance(edit, Cut)]
    return positions(subject.groups, kept_units(subject.groups, cuts[0].keep)) if cuts else {}


def dropped(changed: Subject | Plan, owner: Owner) -> bool:
    """Return whether the module of ``owner`` is dropped, alone or with one around it."""
    outer = [f"{edit.module}." for edit in changed.edits if isinstance(edit, Drop)]
    return f"{owner.module}.".startswith(tuple(outer))


def every_site_is_treated_or_skipped(method: type[Method], network: Awkward) -> None:
    subject = subject_of(network)
    plan = planned(setting(method), subject)
    split = {edit.module for edit in plan.edits if isinstance(edit, Split)}
    folded = {edit.module for edit in plan.edits if isinstance(edit, Fold)}
    reasons = {skip.site: skip.reason for skip in plan.skipped}
    cut = cut_sites(subject, plan)
    for name, site in subject.sites.items():
        treated = (
            name in plan.constraints
            or name in plan.activations
            or name in plan.tensors
            or any(f"{owner.module}.bias" in plan.tensors for owner in site.owners)
            or name in cut
            or any(name in getattr(penalty, "sites", subject.sites) for penalty in plan.penalties)
            or any(owner.module in split | folded for owner in site.owners)
            or all(dropped(plan, owner) for owner in site.owners)
        )
        assert treated or reasons.get(name, "").strip(), f"{name} is left alone without a word"
    assert set(reasons) <= set(subject.sites)


def file_gives_equal_bits(method: type[Method], network: Awkward, folder: Path) -> None:
    subject = subject_of(network)
    result = apply(subject, planned(setting(method), subject))
    train_one_step(result)
    frozen = freeze(result)
    for name in result.sites:
        assert torch.equal(live_weight(result, name), frozen.model.get_parameter(name)), name
    artifact.save(folder / "a.goss", to_artifact(frozen))
    loaded = load(folder / "a.goss")
    filled = loaded.into(network.build(seed=9))
    assert _equal(_state(filled), _state(frozen.model))
    assert all(
        torch.equal(*pair) for pair in zip(outputs(filled, network), outputs(frozen.model, network), strict=True)
    )
    assert set(loaded.activations) == set(result.activations)


def earlier_constraints_survive(first: type[Method], second: type[Method], network: Awkward) -> None:
    subject = subject_of(network)
    once = apply(subject, planned(setting(first), subject))
    held = once.constraints
    silent = {*subject.sites} - {skip.site for skip in once.skipped}
    did = held or once.activations or once.edits or once.penalties or not silent
    assert did or not _equal(_state(once.model), _state(subject.model)), "the first method did nothing"
    plan = planned(setting(second), once)
    twice = apply(once, plan)
    held = {name: _cut(one, positions_of(once, plan).get(name)) for name, one in held.items()}
    held = {left: one for name, one in held.items() if (left := _left(once, plan, name))}
    _hold(twice, held)
    if all(set(getattr(penalty, "sites", ())) <= set(twice.sites) for penalty in twice.penalties):
        train_one_step(twice)
    else:  # a structure that a penalty no longer fits is told
        with pytest.raises(ModelError, match="no longer there"):
            train_one_step(twice)
    _hold(twice, held)
    assert {_left(once, plan, name) for name in once.activations} - {None} <= set(twice.activations)
    assert twice.edits[: len(once.edits)] == once.edits
    assert all(penalty in twice.penalties for penalty in once.penalties)


def _cut(held: Constraints, kept: Any) -> Constraints:
    """Return what must hold for the part of a site that a cut leaves."""
    if kept is None:
        return held
    mask = held.mask and Mask(picked(held.mask.keep, kept))
    book = held.codebook and Codebook(picked(held.codebook.codes, kept), held.codebook.centers)
    grid = held.grid
    if grid is not None and grid.axis is not None and len(kept) > grid.axis and kept[grid.axis] is not None:
        along = (kept[grid.axis],)
        grid = Grid(picked(grid.scale, along), picked(grid.zero, along), grid.bits, grid.signed, grid.axis)
    assert held.hash is None, "a hashed site was cut"
    return Constraints(mask, book, grid)


def _left(subject: Subject, plan: Plan, name: str) -> str | None:
    """Return the name that a site or an output has after the drops of ``plan``, None if it goes."""
    path = module_of(name)
    if path is not None:
        gone = tuple(f"{edit.module}." for edit in plan.edits if isinstance(edit, Drop | Fold))
        return None if f"{path}.".startswith(gone) else name
    return next((owner.name for owner in subject.sites[name].owners if not dropped(plan, owner)), None)


def _hold(subject: Subject, held: dict[str, Constraints]) -> None:
    """Check that zeros are zero, shared values shared, and values on a grid still on one with no more bits."""
    now = subject.constraints
    for name, constraints in held.items():
        value = live_weight(subject, name)
        keep = torch.ones_like(value, dtype=torch.bool)
        if constraints.mask is not None:
            keep = constraints.mask.keep
            assert not value[~keep].any(), f"{name}: a zero came back"
        if constraints.codebook is not None:
            alive = keep & (value != 0)
            for code in range(constraints.codebook.size):
                members = value[alive & (constraints.codebook.codes == code)]
                assert members.unique().numel() <= 1, f"{name}: shared values parted"
        if constraints.hash is not None:
            codes, flipped = constraints.hash.places
            signed = torch.where(flipped, -value, value)
            alive = keep & (value != 0)
            for bucket in range(constraints.hash.size):
                assert signed[alive & (codes == bucket)].unique().numel() <= 1, f"{name}: a bucket parted"
        if constraints.grid is not None:
            grid = now[name].grid
            assert grid is not None, f"{name}: the grid is gone"
            assert grid.bits <= constraints.grid.bits
            assert torch.equal(torch.where(value != 0, grid.snap(value), value), value), f"{name}: off its grid"


def _loss(answers: Any, targets: Any) -> Tensor:
    del targets
    leaves = [leaf for leaf in pytree.tree_leaves(answers) if isinstance(leaf, Tensor)]
    return sum((leaf.float() - 0.3).square().mean() for leaf in leaves)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        value.dtype == right[name].dtype and torch.equal(value, right[name]) for name, value in left.items()
    )
