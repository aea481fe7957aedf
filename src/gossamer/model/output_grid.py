"""Output grids: what a module makes put on uniform levels, simulated live by a forward hook (Jacob et al. 2018).

They serve values that no input grid takes up: the parts of a sum, what enters an average or a smooth function. Among
the activations of a plan, a subject or a file such a grid is called ``MODULE:output``.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from gossamer.artifact.activations import output_of
from gossamer.errors import ModelError
from gossamer.model.constraint import Grid
from gossamer.model.hooks import hook_of
from gossamer.model.straight import straight_through_snap


class OutputGrid:
    """The hook: snaps the output of its module to a grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __call__(self, module: nn.Module, _args: tuple[Any, ...], result: Any) -> Tensor:
        """Return the output on the grid."""
        if not isinstance(result, Tensor):
            raise ModelError(f"{type(module).__name__}: wanted a tensor to put on a grid, got {type(result).__name__}")
        grid = self.grid
        scale, zero = grid.scale.to(result.device), grid.zero.to(result.device)
        return straight_through_snap(
            result, clips=True, scale=scale, zero=zero, bits=grid.bits, signed=grid.signed, axis=grid.axis
        )


def output_grids(model: nn.Module) -> Iterator[tuple[str, Grid]]:
    """Yield the output grids of ``model`` by the names of its activations."""
    for path, module in model.named_modules():
        hook = hook_of(module, OutputGrid)
        if hook is not None:
            yield output_of(path), hook.grid
