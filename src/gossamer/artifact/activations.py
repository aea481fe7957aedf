"""Names of grids among a file's activations: a site's own for what it multiplies, an input or the hidden state of a
recurrent layer, and ``MODULE:output`` for what a module makes."""

from typing import Final

_ENDING: Final = ":output"


def output_of(path: str) -> str:
    """Return what the output of the module at ``path`` is called."""
    return f"{path}{_ENDING}"


def module_of(name: str) -> str | None:
    """Return the path of the module whose output ``name`` stands for, or None if it stands for a site's input."""
    return name.removesuffix(_ENDING) if name.endswith(_ENDING) else None
