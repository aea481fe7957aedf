"""Names of grids among a file's activations: a site's own for what it multiplies, ``MODULE:output`` for what one makes.

A site multiplies the input of its layer, or the hidden state if it is the recurrent matrix of one. The cell state that
stands beside that hidden state in an LSTM is called ``SITE:cell``.
"""

from typing import Final

_ENDING: Final = ":output"
_CELL: Final = ":cell"


def output_of(path: str) -> str:
    """Return what the output of the module at ``path`` is called."""
    return f"{path}{_ENDING}"


def cell_of(site: str) -> str:
    """Return what the cell state beside the hidden state that ``site`` multiplies is called."""
    return f"{site}{_CELL}"


def beside_cell(name: str) -> str | None:
    """Return the recurrent matrix whose cell state ``name`` stands for, or None if it stands for no cell state."""
    return name.removesuffix(_CELL) if name.endswith(_CELL) else None


def place_of(name: str) -> str:
    """Return in words what ``name`` stands for."""
    path, site = module_of(name), beside_cell(name)
    if path is not None:
        return f"the output of {path or 'the model'}"
    return f"the input of {name}" if site is None else f"the cell state beside {site}"


def module_of(name: str) -> str | None:
    """Return the path of the module whose output ``name`` stands for, or None if it stands for another value."""
    return name.removesuffix(_ENDING) if name.endswith(_ENDING) else None
