"""Input grids: a module's input put on uniform levels, simulated live by a forward pre-hook (Jacob et al. 2018).

Gradients pass straight through rounding, and not where the input is beyond the ends (Krishnamoorthi 2018, arXiv
1806.08342, section 2.4). The step of a grid that trains is a parameter of the module while it trains (`learned`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gossamer.model.constraint import Grid
from gossamer.model.hooks import hook_of, take_hook
from gossamer.model.learned import learned_snap, positive, step_of
from gossamer.model.site import Site
from gossamer.model.straight import straight_through_snap

_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
STEP = "input_log_scale"
"""What a module calls the logarithm of its input's step while that trains."""


class InputGrid:
    """The hook: snaps the first input of its module to a grid.

    Attributes:
        site: the weight whose input it is.
        log_scale: the logarithm of the step where that trains; the same parameter in all modules of the site.
    """

    def __init__(self, site: str, grid: Grid, log_scale: nn.Parameter | None = None) -> None:
        self.site = site
        self.log_scale = log_scale
        self._grid = grid

    @property
    def grid(self) -> Grid:
        """The grid as it is at this moment."""
        return self._grid if self.log_scale is None else replace(self._grid, scale=positive(self.log_scale.detach()))

    def settle(self) -> None:
        """Make final what training could change."""
        self._grid, self.log_scale = replace(self.grid, trained=False), None

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs with the first one on the grid."""
        if args:
            return (self._snap(args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": self._snap(kwargs["input"])}

    def _snap(self, value: Tensor) -> Tensor:
        grid, zero = self._grid, self._grid.zero.to(value.device)
        form = {"bits": grid.bits, "signed": grid.signed, "axis": grid.axis}
        if self.log_scale is None:
            return straight_through_snap(value, clips=True, scale=grid.scale.to(value.device), zero=zero, **form)
        features = value.numel() // max(len(value), 1) if value.ndim else 1
        return learned_snap(value, step_of(self.log_scale, features, grid.bits, signed=grid.signed), zero, **form)


def why_no_input_grid(model: nn.Module, site: Site) -> str | None:
    """Return why the input of ``site`` cannot be put on a grid, or None if it can."""
    for owner in site.owners:
        module = model.get_submodule(owner.module)
        parent = model.get_submodule(owner.module.rpartition(".")[0])
        if not isinstance(module, _MODULES) or owner.attribute != "weight":
            return f"the input of {type(module).__name__} cannot be put on a grid, only that of linear and convolution"
        if isinstance(parent, nn.MultiheadAttention):
            return f"{owner.module} is read by its MultiheadAttention and never called"
    return None


def put_input_grid(model: nn.Module, site: Site, grid: Grid) -> None:
    """Put the inputs of all modules that own ``site`` on ``grid``, in place of an earlier one."""
    modules = {id(m): m for m in (model.get_submodule(owner.module) for owner in site.owners)}.values()
    device = next((parameter.device for module in modules for parameter in module.parameters()), grid.scale.device)
    log_scale = nn.Parameter(grid.scale.log().to(device)) if grid.trained else None
    for module in modules:
        take_input_grid(module)
        if log_scale is not None:
            module.register_parameter(STEP, log_scale)
        module.register_forward_pre_hook(InputGrid(site.name, grid, log_scale), with_kwargs=True)


def take_input_grid(module: nn.Module) -> None:
    """Take the input grid off ``module``, if it has one."""
    if take_hook(module, InputGrid):
        module._parameters.pop(STEP, None)  # noqa: SLF001


def settle_input_grids(model: nn.Module) -> None:
    """Make final the input grids of ``model`` whose steps could train."""
    for module in model.modules():
        hook = hook_of(module, InputGrid)
        if hook is not None and hook.log_scale is not None:
            hook.settle()
            module._parameters.pop(STEP, None)  # noqa: SLF001


def name_input_grids(model: nn.Module, sites: Iterable[Site]) -> None:
    """Call the input grids of ``model`` by the names of its ``sites``; one is named anew if its first owner went."""
    names = {owner.name: site.name for site in sites for owner in site.owners}
    for path, module in model.named_modules():
        hook = hook_of(module, InputGrid)
        if hook is not None:
            hook.site = names[f"{path}.weight" if path else "weight"]


def input_grids(model: nn.Module) -> Iterator[InputGrid]:
    """Yield the input grids of ``model``, one per site."""
    found: dict[str, InputGrid] = {}
    for module in model.modules():
        hook = hook_of(module, InputGrid)
        if hook is not None:
            found.setdefault(hook.site, hook)
    yield from found.values()
