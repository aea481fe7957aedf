"""Which activation grids a target still uses once some sites are left in floating point."""

from collections.abc import Mapping

from gossamer.model.constraint import Grid
from gossamer.model.ends import without_idle
from gossamer.model.state_grid import without_halves
from gossamer.model.subject import Subject


def used_grids(subject: Subject, activations: Mapping[str, Grid]) -> dict[str, Grid]:
    """Return ``activations`` without those of half a recurrent layer and without outputs in which no product ends.

    Args:
        subject: with the grids that it has already.
        activations: grids by name, of inputs, states and outputs.
    """
    have = subject.activations.keys()
    whole = without_halves(subject.model, subject.sites.values(), activations, activations.keys() | have)
    return without_idle(subject.graph, whole, whole.keys() | have)
