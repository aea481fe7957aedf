"""Load: from an artifact to a filled instance of the user's own class, without pickle."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gossamer import artifact, codings
from gossamer.artifact import Artifact
from gossamer.errors import ArtifactError, CodingError, ModelError, PlanError, about
from gossamer.model.arrays import to_tensor
from gossamer.model.constraint import Grid
from gossamer.model.edits import Edit, edit_from_dict
from gossamer.model.freeze import entries
from gossamer.model.surgery import perform

_MOST_NAMES = 5
"""Names that an error lists."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A read artifact, ready to fill a fresh model.

    Args:
        artifact: what was read.
        source: the file it was read from, which errors name.
    """

    artifact: Artifact
    source: str | Path | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The changes of structure that :meth:`into` replays."""
        return tuple(edit_from_dict(edit) for edit in self.artifact.edits)

    @property
    def activations(self) -> Mapping[str, Grid]:
        """The grids by name (see `gossamer.artifact.activations`); :meth:`into` does not put them on."""
        return {
            site: Grid(torch.tensor(data["scale"]), torch.tensor(data["zero"]), data["bits"], data["signed"])
            for site, data in self.artifact.activations.items()
        }

    def into(self, model: nn.Module) -> nn.Module:
        """Replay the edits on ``model``, a fresh instance of the class that was compressed, fill it and return it.

        Input grids are not put on: a model whose inputs are quantized (int8) gives outputs here that differ slightly
        from those of ONNX Runtime, which applies them; see :attr:`activations`.

        The weights take the stored dtype and stay on the model's device. Weights that were tied are tied again, and
        those that did not train do not.

        Raises:
            ModelError: names are missing or too many, shapes differ, or an edit does not fit; names the first ones.
            ArtifactError: a tensor's coding is not consistent.
        """
        with about(self.source):
            return self._filled(model)

    def _filled(self, model: nn.Module) -> nn.Module:
        try:
            for edit in self.edits:
                perform(model, edit)
        except PlanError as error:
            raise ModelError(f"the file's edits: {error.message}") from error
        problems = [*self._names(model), *self._shapes(model)]
        if problems:
            raise ModelError(
                f"{type(model).__name__} does not fit the file: {_few(problems, '; ')}",
                hint="give a fresh instance of the class that was compressed, built with the same arguments",
            )
        copies = self.artifact.meta.get("copies", {})
        for name, stored in self.artifact.aliases.items():
            if name not in copies:
                _set(model, name, _get(model, stored))
        fixed = set(self.artifact.meta.get("fixed", ()))
        for names, tensor in entries(model):
            tensor.data = self._tensor(self._stored(names[0])).to(tensor.device)
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(tensor.is_floating_point() and fixed.isdisjoint(names))
        return model

    def _tensor(self, name: str) -> Tensor:
        try:
            return to_tensor(self.artifact.tensors[name])
        except CodingError as error:
            raise ArtifactError(str(error), f"tensor {name}") from None

    def _stored(self, name: str) -> str:
        return self.artifact.aliases.get(name, name)

    def _names(self, model: nn.Module) -> Iterator[str]:
        have = set(model.state_dict())
        want = {*self.artifact.tensors, *self.artifact.aliases}
        if want - have:
            yield f"the model lacks {_few(sorted(want - have))}"
        if have - want:
            yield f"the file lacks {_few(sorted(have - want))}"

    def _shapes(self, model: nn.Module) -> Iterator[str]:
        for names, tensor in entries(model):
            stored = {self._stored(name) for name in names}
            if len(stored) > 1:
                yield f"the model ties {', '.join(names)}, the file does not"
            for name in stored & set(self.artifact.tensors):
                shape = codings.shape(self.artifact.tensors[name])
                if shape != tuple(tensor.shape):
                    yield f"{names[0]} has shape {tuple(tensor.shape)} in the model and {shape} in the file"


def load(path: str | Path) -> Loaded:
    """Read a ``.goss`` file.

    Raises:
        ArtifactError: the file is missing or not a valid artifact.
    """
    return Loaded(artifact.load(path), path)


def _few(names: Sequence[str], between: str = ", ") -> str:
    """Return the first of ``names``, and how many there are beside these."""
    beside = len(names) - _MOST_NAMES
    return between.join(names[:_MOST_NAMES]) + (f"{between}and {beside} more" if beside > 0 else "")


def _get(model: nn.Module, name: str) -> object:
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def _set(model: nn.Module, name: str, value: object) -> None:
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, value)
