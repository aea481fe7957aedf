"""The cell states of LSTM layers, computed anew beside them while calibration runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.artifact.activations import cell_of
from gossamer.calibrate.inputs import Inputs
from gossamer.model.site import Site
from gossamer.model.state_grid import cell_state, recurrent, why_no_cell_grid


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

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch one batch."""
        handles = [
            self.model.get_submodule(path).register_forward_hook(partial(self._see, names), with_kwargs=True)
            for path, names in self.names.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(
        self, names: dict[str, str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _result: Any
    ) -> None:
        def note(what: str, value: Tensor) -> Tensor:
            if what in names:
                self.inputs.see_output(names[what], value)
            return value

        named = dict(zip(("input", "hx"), args, strict=False)) | kwargs
        if isinstance(module, nn.LSTM):
            with torch.no_grad():
                recurrent(module, named["input"], named.get("hx"), note)
