"""The subject: the model being compressed, with its example inputs, sites, graph and history."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gossamer.errors import ModelError
from gossamer.model.activations import activations, take_activations
from gossamer.model.constraint import Constraints, Grid, Mask
from gossamer.model.copying import copy_inputs, copy_module
from gossamer.model.coupling import Group, Unseen, find_groups
from gossamer.model.edits import Edit
from gossamer.model.graph import Graph
from gossamer.model.live import Live, bake, live_parts, stub
from gossamer.model.parts import all_finite
from gossamer.model.penalty import Penalty
from gossamer.model.plan import Skip
from gossamer.model.run import run_example
from gossamer.model.site import Site, find_sites, owned_parameters
from gossamer.model.surgery import parametrized_folds, perform
from gossamer.model.trace import trace


@dataclass(eq=False)
class Subject:
    """A model under compression, made by :meth:`of`; only ``apply``, ``retarget`` and training change it.

    Attributes:
        model: the subject's own module, with live constraints.
        args: positional example inputs.
        kwargs: keyword example inputs.
        edits: what was changed in the structure, in order, since the caller's model.
        penalties: terms of the training loss.
        skipped: what the methods applied so far left alone, with reasons.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    edits: tuple[Edit, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    skipped: tuple[Skip, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, *args: Any, **kwargs: Any) -> "Subject":
        """Return a subject on a deep copy of ``model``; the inputs are what its forward takes.

        Weights take memory anew once torch writes to them, here or in ``model``; an array that shares memory with a
        weight of ``model`` is not to be written to after. Mode, dtype, device and ``requires_grad`` stay as they are.
        Re-parametrised weights (weight norm of both styles, spectral norm) are folded into plain ones on the copy; the
        folds are recorded in ``edits``.

        Raises:
            ModelError: no module, no parameters, uninitialised or non-finite weights, or inputs that do not run.
        """
        if not isinstance(model, nn.Module):
            raise ModelError(f"wanted a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError(
                "a TorchScript module cannot be compressed: its code cannot be changed",
                hint="give the torch.nn.Module that it was scripted or traced from, with its state_dict",
            )
        _check_weights(model)
        own = copy_module(model, lazy=True)
        folds = parametrized_folds(own)
        own_args, own_kwargs = copy_inputs((args, kwargs))
        run_example(own, *copy_inputs((args, kwargs)))
        for fold in folds:
            perform(own, fold)
        return cls(own, own_args, own_kwargs, edits=folds)

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """The distinct weights by name."""
        return find_sites(self.model)

    @cached_property
    def graph(self) -> Graph:
        """The model's operators with shapes and costs, traced on a plain copy the first time it is asked for."""
        return trace(plain_copy(self), *copy_inputs((self.args, self.kwargs)))

    @cached_property
    def coupling(self) -> tuple[tuple[Group, ...], tuple[Unseen, ...]]:
        """The groups of units that must be cut together, and the operators that could not be followed."""
        args, kwargs = copy_inputs((self.args, self.kwargs))
        return find_groups(lambda: plain_copy(self), args, kwargs)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of units that must be cut together, those that cannot be cut included.

        A hashed site cannot be cut: which values it shares depends on their positions. Nor can one with a scale for
        each group of values: what is left would not be whole groups.
        """
        fixed = {owner.name: why for owner, _, live, _ in live_parts(self.model) if (why := live.why_no_cut)}
        if not fixed:
            return self.coupling[0]
        found = []
        for group in self.coupling[0]:
            touched = next((part.tensor for part in group.slices if part.tensor in fixed), None)
            reason = group.stuck or (f"{touched} {fixed[touched]}" if touched else "")
            found.append(replace(group, stuck=reason))
        return tuple(found)

    @property
    def constraints(self) -> Mapping[str, Constraints]:
        """The live constraints by site, read at this moment."""
        parts = {id(parameter): live for _, _, live, parameter in live_parts(self.model)}
        names: dict[int, str] = {}
        for owner, _, parameter in owned_parameters(self.model):
            names.setdefault(id(parameter), owner.name)
        return {names[key]: live.constraints for key, live in parts.items()}

    @property
    def activations(self) -> Mapping[str, Grid]:
        """The live grids of inputs and hidden states, by site, and of outputs of modules (`activations`)."""
        return dict(activations(self.model))

    def copy(self) -> "Subject":
        """Return an independent copy; penalties are shared, for they may hold a whole teacher.

        Weights take memory anew only once one of the two writes to its own.
        """
        args, kwargs = copy_inputs((self.args, self.kwargs))
        new = Subject(copy_module(self.model, lazy=True), args, kwargs, self.edits, self.penalties, self.skipped)
        vars(new).update({name: vars(self)[name] for name in ("sites", "graph", "coupling") if name in vars(self)})
        return new


def owner_of(subject: Subject, site: str) -> tuple[nn.Module, str]:
    """Return the first module that owns ``site`` and the attribute it holds it under.

    Raises:
        ModelError: the subject has no such site.
    """
    found = subject.sites.get(site)
    owner = found.owners[0] if found else None
    if owner is None:
        every = find_sites(subject.model, every=True)
        if site not in every:
            raise ModelError(f"no site {site!r}", hint=f"the sites are: {', '.join(subject.sites) or 'none'}")
        owner = every[site].owners[0]
    return subject.model.get_submodule(owner.module), owner.attribute


def live_weight(subject: Subject, site: str) -> Tensor:
    """Return the values of ``site`` as the next forward pass will use them: its shape and dtype, detached.

    Raises:
        ModelError: the subject has no such site.
    """
    module, attribute = owner_of(subject, site)
    with torch.no_grad():
        value: Tensor = getattr(module, attribute)
    return value.detach()


def trainable(subject: Subject, site: str) -> nn.Parameter:
    """Return the parameter that training moves for ``site``: its centers or buckets if values are shared, else its own.

    Raises:
        ModelError: the subject has no such site.
    """
    module, attribute = owner_of(subject, site)
    found = _live_at(subject, module, attribute)
    if found is not None:
        live, original = found
        return original if live.centers is None or live.shared is not None else live.centers
    parameter = getattr(module, attribute)
    if not isinstance(parameter, nn.Parameter):
        raise ModelError(f"{site}: wanted a parameter, got {type(parameter).__name__}")
    return parameter


def trains(subject: Subject, site: str) -> bool:
    """Return whether training may move the values of ``site``, whatever constraints hold it now.

    Raises:
        ModelError: the subject has no such site.
    """
    found = _live_at(subject, *owner_of(subject, site))
    return trainable(subject, site).requires_grad if found is None else found[0].trains


def hidden_weight(subject: Subject, site: str) -> Tensor:
    """Return what trains behind a mask of ``site`` that can be taken back, else its live values; detached.

    What another mask zeroes is zero.

    Raises:
        ModelError: the subject has no such site.
    """
    found = _live_at(subject, *owner_of(subject, site))
    if found is None or found[0].splice is None:
        return live_weight(subject, site)
    hidden, keep = trainable(subject, site).detach(), found[0].keep
    return hidden if keep is None else hidden * keep


def kept_values(subject: Subject, site: str) -> Tensor | None:
    """Return the values that a mask keeps, flat and detached, of a site that nothing else holds; None for others.

    They take no memory for the zeros, which `live_weight` does.

    Raises:
        ModelError: the subject has no such site.
    """
    found = _live_at(subject, *owner_of(subject, site))
    if found is None:
        return None
    match list(found[0].constraints):
        case [Mask() as mask]:
            return found[1].detach()[mask.keep.to(found[1].device)]
        case _:
            return None


def _live_at(subject: Subject, module: nn.Module, attribute: str) -> tuple[Live, nn.Parameter] | None:
    """Return the constraints on an attribute of a module with the original under them; None if there are none."""
    parts = live_parts(subject.model)
    return next((part[2:] for part in parts if part[1] is module and part[0].attribute == attribute), None)


def plain_copy(subject: Subject) -> nn.Module:
    """Return a copy of the subject's model with its constraints baked in and no grids of activations."""
    model = copy_module(subject.model, lazy=True)
    bake(model)
    take_activations(model)
    return model


def bare_copy(subject: Subject) -> nn.Module:
    """Return `plain_copy` but for the values of constrained weights, which take no memory and are to be set."""
    model = copy_module(subject.model, lazy=True)
    bake(model, stub)
    take_activations(model)
    return model


def _check_weights(model: nn.Module) -> None:
    count = 0
    for owner, _, parameter in owned_parameters(model):
        count += 1
        if is_lazy(parameter):
            raise ModelError(f"{owner.name}: the parameter is not initialised", hint="run the lazy module once before")
        if parameter.is_meta:
            raise ModelError(f"{owner.name}: the parameter is on the meta device and has no values")
        if parameter.is_floating_point() and not all_finite(parameter):
            raise ModelError(f"{owner.name}: wanted finite values, got NaN or infinity")
    if not count:
        raise ModelError(f"{type(model).__name__}: the model has no parameters, so there is nothing to compress")
