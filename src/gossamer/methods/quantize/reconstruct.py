"""Learning which way to round the weights of one part of a model, so that it still makes what it made before.

The part runs on the inputs that it has once everything before it is rounded, and is to make what the model makes
without rounding: asymmetric reconstruction (Nagel et al. 2020, section 3.5). Steps of inputs may train along, by the
gradients of Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153), and rounding of inputs may be
left out at random (Wei, Gong, Li, Liu and Yu, "QDrop", ICLR 2022, arXiv 2203.05740).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gossamer.methods.quantize.rounding import Rounding, sharpness, undecided
from gossamer.methods.quantize.units import Unit
from gossamer.model import Grid
from gossamer.model.learned import positive

STEP_RATE = 1e-3
"""Learning rate of the logarithm of an input step, at first; it falls to nothing along half a cosine."""


@dataclass(frozen=True)
class Settings:
    """How the rounding of one part is learned; see the fields of the methods."""

    iterations: int
    batch: int
    lr: float
    penalty: float
    warmup: float
    drop: float
    steps: bool


@dataclass(frozen=True)
class Data:
    """What the part saw, a tensor for each call, samples along the first dimension.

    Attributes:
        inputs: after everything before the part was rounded.
        originals: before; empty if they are not needed.
        targets: what the part made of these, before the activation function.
        weights: how much each output counts; empty for all alike.
        further: arguments of the part after its input, and those by name.
    """

    inputs: Sequence[Tensor]
    originals: Sequence[Tensor]
    targets: Sequence[Tensor]
    weights: Sequence[Tensor]
    further: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})


class InputStep:
    """The input grid of a layer while its step trains: a hook for the layer, exact where nothing trains or drops.

    Args:
        grid: the grid to begin with.
        drop: share of the numbers that are left as they are.
        generator: draws which.
    """

    def __init__(self, grid: Grid, drop: float, generator: torch.Generator) -> None:
        self.start, self.drop, self.generator = grid, drop, generator
        self.log_step = nn.Parameter(grid.scale.log())

    @property
    def grid(self) -> Grid:
        """The grid with the step as it is."""
        return replace(self.start, scale=positive(self.log_step.detach()))

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs with the first one on the grid, but for what is dropped."""
        x, step = args[0], positive(self.log_step)
        low, high = self.start.codes_range
        exact = x / step
        rounded = exact + (exact.round() - exact).detach()
        snapped = ((rounded + float(self.start.zero)).clamp(low, high) - float(self.start.zero)) * step
        if self.drop:
            snapped = torch.where(torch.rand(x.shape, generator=self.generator) < self.drop, x, snapped)
        return (snapped, *args[1:])


class Part:
    """A copy of a unit that runs with weights between two codes.

    Args:
        unit: what it is.
        modules: copies of its stages, float32 on the CPU.
        roundings: of its sites.
        steps: input grids of its sites, for those that have one.
    """

    def __init__(
        self,
        unit: Unit,
        modules: Sequence[nn.Module],
        roundings: Mapping[str, Rounding],
        steps: Mapping[str, InputStep],
    ) -> None:
        self.unit, self.modules = unit, modules
        self.roundings, self.steps = roundings, steps
        names = {site: f"{path}.weight".removeprefix(unit.stages[0]).removeprefix(".") for site, path in unit.sites}
        self.names = {site: names[site] for site in roundings}
        for site, path in unit.sites:
            if site in steps:
                inner = path.removeprefix(unit.stages[0]).removeprefix(".")
                modules[0].get_submodule(inner).register_forward_pre_hook(steps[site])

    def run(self, x: Tensor, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = MappingProxyType({})) -> Tensor:
        """Return what comes out of the last stage, before the activation function."""
        weights = {self.names[site]: rounding.soft for site, rounding in self.roundings.items()}
        out: Tensor = functional_call(self.modules[0], weights, (x, *args), dict(kwargs))
        for module in self.modules[1:]:
            out = module(out)
        return out


def learn(part: Part, data: Data, settings: Settings, generator: torch.Generator, advance: Callable[[], None]) -> None:
    """Train the roundings of ``part``, and its input steps if ``settings`` say so; calls ``advance`` at each step."""
    groups: list[dict[str, Any]] = [{"params": [r.v for r in part.roundings.values()], "lr": settings.lr}]
    if settings.steps and part.steps:
        groups.append({"params": [step.log_step for step in part.steps.values()], "lr": STEP_RATE})
    optimizer = torch.optim.Adam(groups)
    waning = [lambda _: 1.0, lambda step: _half_cosine(step / settings.iterations)][: len(groups)]
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, waning)
    act = part.unit.activation or (lambda made: made)
    draw = _drawer(data, settings, generator)
    for step in range(settings.iterations):
        x, target, weight = draw()
        error = (act(part.run(x, *data.further)) - act(target)).square()
        loss = (error if weight is None else error * weight).sum(min(1, error.ndim - 1)).mean()
        beta = sharpness(step, settings.iterations, settings.warmup)
        if beta is not None:
            loss = loss + settings.penalty * sum(undecided(r.h, beta) for r in part.roundings.values())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
        advance()


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))


def _drawer(
    data: Data, settings: Settings, generator: torch.Generator
) -> Callable[[], tuple[Tensor, Tensor, Tensor | None]]:
    """Return what draws samples: inputs, targets and how much these count.

    Calls of one shape are put together; of several shapes, one is drawn by the samples that it has.
    """
    kinds: dict[tuple[int, ...], list[int]] = {}
    for i, x in enumerate(data.inputs):
        kinds.setdefault(tuple(x.shape[1:]), []).append(i)

    def joined(values: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([values[i] for i in each]) for each in kinds.values()] if values else []

    inputs, originals = joined(data.inputs), joined(data.originals)
    targets, weights = joined(data.targets), joined(data.weights)
    counts = torch.tensor([float(len(some)) for some in inputs])

    def draw() -> tuple[Tensor, Tensor, Tensor | None]:
        of = int(torch.multinomial(counts, 1, generator=generator)) if len(counts) > 1 else 0
        picked = torch.randperm(len(inputs[of]), generator=generator)[: settings.batch]
        x = inputs[of][picked]
        if originals and settings.drop:
            x = torch.where(torch.rand(x.shape, generator=generator) < settings.drop, originals[of][picked], x)
        return x, targets[of][picked], weights[of][picked] if weights else None

    return draw
