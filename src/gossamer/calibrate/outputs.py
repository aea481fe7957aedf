"""The outputs of modules that want a grid of their own, watched while calibration runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from gossamer.artifact.activations import output_of
from gossamer.calibrate.inputs import Inputs
from gossamer.model.ends import possible_ends
from gossamer.model.hooks import watched
from gossamer.model.subject import Subject


class Outputs:
    """What the modules made whose outputs want a grid (`possible_ends`).

    A module that runs more than once for one batch is named in ``unread``, and so is one that makes no tensor.

    Args:
        subject: what is calibrated.
        model: the plain copy that runs.
        inputs: where ranges and samples are kept.
    """

    def __init__(self, subject: Subject, model: nn.Module, inputs: Inputs) -> None:
        convolves = any(site.kind == "conv" for site in subject.sites.values())
        self.paths = possible_ends(subject.graph, subject.sites) if convolves else ()
        self.model, self.inputs = model, inputs
        self.unread: dict[str, str] = {}
        self._runs = Counter[str]()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch one batch."""
        self._runs.clear()
        with watched(self.model, {path: partial(self._see, output_of(path)) for path in self.paths}):
            yield

    def _see(self, name: str, _module: nn.Module, _args: Any, _kwargs: Any, result: Any) -> None:
        self._runs[name] += 1
        if not isinstance(result, Tensor) or not result.is_floating_point():
            self.unread[name] = "it is not one tensor of floats"
        elif self._runs[name] > 1:
            self.unread[name] = "its module runs more than once"
        else:
            self.inputs.see_output(name, result)
