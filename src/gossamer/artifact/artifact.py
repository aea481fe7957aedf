"""The artifact: everything a compressed model is, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gossamer.codings import Coding, decode
from gossamer.codings.nodes import Array
from gossamer.errors import ArtifactError, CodingError

JSON = Any
"""None, bool, int (64 bits), float, str, list or dict with str keys, nested at most 16 deep."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compressed model.

    Args:
        tensors: the coding of every entry of the state dict, by name, in the order they are stored.
        aliases: further names of stored tensors (tied weights): name to stored name.
        edits: changes of structure, in the order they are replayed.
        activations: grids of inputs and hidden states by the name of the site that multiplies them, of outputs as
            ``MODULE:output``.
        graph: the model's graph without weights; with it the file is self-contained.
        meta: what else a reader wants to know: task, recipe, bytes of the dense model, versions.
    """

    tensors: Mapping[str, Coding]
    aliases: Mapping[str, str] = field(default_factory=dict)
    edits: Sequence[Mapping[str, JSON]] = ()
    activations: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    graph: bytes | None = None
    meta: Mapping[str, JSON] = field(default_factory=dict)

    def array(self, name: str) -> Array:
        """Return the decoded tensor or alias ``name``; ``bfloat16`` comes back as ``uint16`` bit patterns.

        Raises:
            ArtifactError: there is no such tensor, or its coding is not consistent.
        """
        stored = self.aliases.get(name, name)
        if stored not in self.tensors:
            raise ArtifactError("there is no such tensor", f"tensor {name}")
        try:
            return decode(self.tensors[stored])
        except CodingError as error:
            raise ArtifactError(str(error), f"tensor {name}") from None
