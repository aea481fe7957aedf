"""By how much grids move the mean of what each layer makes, layer after layer.

Nagel, van Baalen, Blankevoort and Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019 (arXiv 1906.04721), section 4.2 and appendix D: rounding weights by ε moves outputs by E[ε x], which the means
of outputs before and after tell. A layer is looked at when all layers that run before it are corrected, so that what
moved its input is not counted twice, and grids of inputs are on.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from gossamer.model.activations import take_activations
from gossamer.model.copying import copy_module
from gossamer.model.hooks import hook_of
from gossamer.model.input_grid import InputGrid
from gossamer.model.live import live_parts
from gossamer.model.subject import Subject
from gossamer.task import Batch

_CONVOLUTIONS: Final = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
_LAYERS: Final[tuple[type[nn.Module], ...]] = (nn.Linear, *_CONVOLUTIONS)


class _EnoughError(Exception):
    """What was wanted of a forward pass is there."""


class _Mean:
    """Running mean per channel of what a module makes."""

    def __init__(self, order: list["_Mean"] | None = None, *, last: bool = False) -> None:
        self.order = order
        self.total: Tensor | float = 0.0
        self.count = 0
        self.calls = 0
        self.last = last

    def __call__(self, module: nn.Module, _args: Any, made: Tensor) -> None:
        dimensions = next((n for kind, n in _CONVOLUTIONS.items() if isinstance(module, kind)), 0)
        rows = made.detach().movedim(-1 - dimensions, -1).flatten(0, -2)
        self.total = self.total + rows.sum(0, dtype=torch.float64)
        self.count += len(rows)
        self.calls += 1
        if self.order is not None and self.calls == 1:
            self.order.append(self)
        if self.last:
            raise _EnoughError

    @property
    def mean(self) -> Tensor:
        """The mean so far, float64 (channels,)."""
        return torch.as_tensor(self.total) / self.count


@torch.no_grad()
def output_shifts(subject: Subject, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Return the shift of each channel of each layer on a grid, float32 (outputs,), by site.

    Linear layers and convolutions are looked at in the order in which they run first, each in a pass of its own over
    all batches that ends with it; a layer without a bias is left uncorrected for those behind it.

    Args:
        subject: left untouched; copies run in evaluation mode.
        batches: what to run, on the subject's device.
    """
    plain, rounded = without_grids(subject), copy_module(subject.model).eval()
    sites = _sites(subject)
    wanted = _means(plain, batches, sites)
    shifts = {}
    for path, mean in wanted.items():
        seen = _Mean(last=mean.calls == len(batches))
        with _watching(rounded, {path: seen}):
            _run(rounded, batches)
        shift = seen.mean - mean.mean
        shifts[sites[path]] = shift.to("cpu", torch.float32)
        bias = rounded.get_submodule(path).bias
        if isinstance(bias, nn.Parameter):
            bias.sub_(shift.to(bias.dtype))
    return shifts


def without_grids(subject: Subject) -> nn.Module:
    """Return a copy of the model in evaluation mode with neither weights nor inputs on grids.

    Weights are what they were before they were rounded, as long as that is kept; masks and shared values hold.
    """
    model = copy_module(subject.model).eval()
    for _, _, live, _ in live_parts(model):
        live.scale = live.zero = live.log_scale = None
    take_activations(model)
    return model


def _sites(subject: Subject) -> dict[str, str]:
    """Return the sites whose layers are on a grid, by the path of the module."""
    held = subject.constraints
    found: dict[str, str] = {}
    for path, module in subject.model.named_modules():
        site = next((s for s in subject.sites.values() if f"{path}.weight".lstrip(".") in s.names), None)
        if site is None or not isinstance(module, _LAYERS):
            continue
        grid = held[site.name].grid if site.name in held else None
        if grid is not None or hook_of(module, InputGrid) is not None:
            found[path] = site.name
    return found


def _means(model: nn.Module, batches: Sequence[Batch], paths: Mapping[str, str]) -> dict[str, _Mean]:
    """Return the means of what the modules at ``paths`` make, in the order in which they run first."""
    order: list[_Mean] = []
    means = {path: _Mean(order) for path in paths}
    with _watching(model, means):
        _run(model, batches)
    return dict(sorted(((p, mean) for p, mean in means.items() if mean.count), key=lambda pair: order.index(pair[1])))


@contextmanager
def _watching(model: nn.Module, means: Mapping[str, _Mean]) -> Iterator[None]:
    hooks = [model.get_submodule(path).register_forward_hook(mean) for path, mean in means.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: nn.Module, batches: Sequence[Batch]) -> None:
    for args, kwargs, _ in batches:
        try:
            model(*args, **kwargs)
        except _EnoughError:
            continue
