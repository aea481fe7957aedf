"""Sites: each distinct parameter once, with every module that owns it.

A tied weight (one ``Parameter`` reachable under several names) is one site with several owners; so is the weight of a
module that sits at two paths. A site is named after its first owner as in the plain model's ``state_dict``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal[
    "linear",
    "conv",
    "conv_transpose",
    "embedding",
    "recurrent_input",
    "recurrent_hidden",
    "attention",
    "norm",
    "bias",
    "other",
]

_KINDS: tuple[tuple[tuple[type[nn.Module], ...], Kind], ...] = (
    ((nn.MultiheadAttention,), "attention"),
    ((nn.Linear,), "linear"),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "conv"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "conv_transpose"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (
    nn.modules.batchnorm._BatchNorm,  # noqa: SLF001  # torch gives the family no public name
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A place that holds a parameter: the module's path (empty for the root) and the attribute's name."""

    module: str
    attribute: str

    @property
    def name(self) -> str:
        """The name in the plain model's ``state_dict``."""
        return f"{self.module}.{self.attribute}" if self.module else self.attribute


@dataclass(frozen=True, slots=True)
class Site:
    """One distinct parameter and everything that owns it.

    Attributes:
        name: the ``state_dict`` name of the first owner in the plain model.
        owners: every place that holds the parameter, in the order of ``named_modules``.
        kind: the role the parameter plays in its first owner.
        shape: the parameter's shape.
        dtype: the parameter's dtype.
        weight: true for weights (floating, two dimensions or more, no norm or bias), false for everything else.
    """

    name: str
    owners: tuple[Owner, ...]
    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype
    weight: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The ``state_dict`` names of all owners."""
        return tuple(owner.name for owner in self.owners)

    @property
    def bias(self) -> str | None:
        """The name that a bias beside it would have in the first owner: that of ``weight_hh_l0`` is ``bias_hh_l0``."""
        head = self.owners[0]
        named = "weight" in head.attribute
        return Owner(head.module, head.attribute.replace("weight", "bias")).name if named else None

    @property
    def numel(self) -> int:
        """How many values the site has."""
        return int(torch.Size(self.shape).numel())


def owned_parameters(model: nn.Module) -> Iterator[tuple[Owner, nn.Module, nn.Parameter]]:
    """Yield every parameter with its owner, looking through parametrizations, shared modules at each of their paths."""
    paths = list(model.named_modules(remove_duplicate=False))
    inside = {id(part) for _, module in paths for part in _parametrizations(module)}
    for path, module in paths:
        if id(module) in inside:
            continue
        for attribute, parametrization in _parametrized(module).items():
            original = getattr(parametrization, "original", None)
            if isinstance(original, nn.Parameter):
                yield Owner(path, attribute), module, original
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield Owner(path, attribute), module, parameter


def find_sites(model: nn.Module, *, every: bool = False) -> Mapping[str, Site]:
    """Find the sites of ``model``, weights only unless ``every`` is set.

    Returns:
        sites by name, in the order of the model's modules.
    """
    owners: dict[int, list[Owner]] = {}
    first: dict[int, tuple[nn.Module, nn.Parameter]] = {}
    for owner, module, parameter in owned_parameters(model):
        owners.setdefault(id(parameter), []).append(owner)
        first.setdefault(id(parameter), (module, parameter))
    sites = {}
    for key, (module, parameter) in first.items():
        head = owners[key][0]
        kind = kind_of(module, head.attribute, parameter)
        weight = parameter.ndim >= 2 and parameter.is_floating_point() and kind not in {"norm", "bias"}
        if not (weight or every):
            continue
        sites[head.name] = Site(
            head.name, tuple(owners[key]), kind, tuple(parameter.shape), parameter.dtype, weight=weight
        )
    return sites


def kind_of(module: nn.Module, attribute: str, parameter: Tensor) -> Kind:
    """Return the role that ``parameter`` plays as ``attribute`` of ``module``."""
    if isinstance(module, _NORMS):
        return "norm"
    if "bias" in attribute:
        return "bias"
    if isinstance(module, _RECURRENT):
        return "recurrent_input" if attribute.startswith("weight_ih") else "recurrent_hidden"
    if parameter.ndim < 2:
        return "other"
    return next((kind for types, kind in _KINDS if isinstance(module, types)), "other")


def _parametrized(module: nn.Module) -> dict[str, nn.Module]:
    lists = getattr(module, "parametrizations", None)
    return dict(lists.items()) if isinstance(lists, nn.ModuleDict) else {}


def _parametrizations(module: nn.Module) -> Iterator[nn.Module]:
    lists = getattr(module, "parametrizations", None)
    if isinstance(lists, nn.ModuleDict):
        yield from lists.modules()
