"""The cell states of LSTM layers, computed anew beside them while calibration runs."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.artifact.activations import cell_of
from gossamer.calibrate.inputs import Inputs
from gossamer.model.hooks import watched
from gossamer.model.site import Site
from gossamer.model.state_grid import cell_state, computed_anew, why_no_cell_grid


class Cells:
    """The cell states that can be put on a grid, every one that is made.

    Args:
        model: the plain copy that runs.
        sites: its sites.
        inputs: where ranges and samples are kept.
    """

    def __init__(self, model: nn.Module, sites: Iterable[Site], inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        self.names: dict[str, dict[str, str]] = {}
        for site in sites:
            for owner in site.owners if why_no_cell_grid(model, site) is None else ():
                self.names.setdefault(owner.module, {})[cell_state(owner.attribute)] = cell_of(site.name)

    def watched(self) -> AbstractContextManager[None]:
        """Watch one batch."""
        return watched(self.model, {path: partial(self._see, names) for path, names in self.names.items()})

    def _see(
        self, names: dict[str, str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _result: Any
    ) -> None:
        def note(what: str, value: Tensor) -> Tensor:
            if what in names:
                self.inputs.see_output(names[what], value)
            return value

        with torch.no_grad():
            computed_anew(module, args, kwargs, note)
