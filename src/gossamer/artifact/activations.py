"""Names of grids among a file's activations: a site's own for what it multiplies, ``MODULE:output`` for what one makes.

A site multiplies the input of its layer, or the hidden state if it is the recurrent matrix of one.
"""

from typing import Final

_ENDING: Final = ":output"


def output_of(path: str) -> str:
    """Return what the output of the module at ``path`` is called."""
    return f"{path}{_ENDING}"


def module_of(name: str) -> str | None:
    """Return the path of the module whose output ``name`` stands for, or None if it stands for a site's input."""
    return name.removesuffix(_ENDING) if name.endswith(_ENDING) else None
