"""The subject: the model being compressed, with its example inputs, sites, graph and history."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from gossamer.model.constraint import Constraints, Grid
from gossamer.model.edits import Edit
from gossamer.model.graph import Graph
from gossamer.model.penalty import Penalty
from gossamer.model.plan import Skip
from gossamer.model.site import Site


@dataclass(eq=False)
class Subject:
    """A model under compression, made by :meth:`of`; only ``apply``, ``retarget`` and training change it."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    edits: tuple[Edit, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    skipped: tuple[Skip, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, *args: Any, **kwargs: Any) -> "Subject":
        """Copy ``model`` with example inputs."""
        raise NotImplementedError

    @property
    def sites(self) -> Mapping[str, Site]:
        """The distinct weights by name."""
        raise NotImplementedError

    @cached_property
    def graph(self) -> Graph:
        """The model's operators with shapes and costs."""
        raise NotImplementedError

    @property
    def constraints(self) -> Mapping[str, Constraints]:
        """The live constraints by site."""
        raise NotImplementedError

    @property
    def activations(self) -> Mapping[str, Grid]:
        """The live input grids by site."""
        raise NotImplementedError

    def copy(self) -> "Subject":
        """Return an independent copy."""
        raise NotImplementedError


def live_weight(subject: Subject, site: str) -> Tensor:
    """Return the site's values as the next forward pass will use them (detached)."""
    raise NotImplementedError


def plain_copy(subject: Subject) -> nn.Module:
    """Return a copy of the model with constraints baked in and no hooks."""
    raise NotImplementedError
