"""Evidence of groups of units, taken where other weights read them.

How active a unit is follows from the inputs of its readers. The product of a unit's activation and its gradient, summed
over all positions of a feature map, needs no activation at all: for a linear reader it equals the sum of weight times
gradient over the weights that read the unit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gossamer.calibrate.uses import Image, Rows, Use
from gossamer.model.coupling import Group, Slice, rows_of
from gossamer.model.evidence import Activity
from gossamer.model.layout import Reading


@dataclass
class _Tally:
    """Sums over what entered one dimension of a site, by position."""

    size: Tensor
    nonzero: Tensor
    count: int = 0


@dataclass
class UnitActivity:
    """Running sums of absolute values and of values that are not zero."""

    groups: tuple[Group, ...]
    _tallies: dict[tuple[str, int], _Tally] = field(default_factory=dict)

    def see(self, found: Use) -> None:
        """Take in one use of a weight."""
        match found.inputs:
            case Rows(matrix):
                dim = 0 if found.layouts[0].reading is Reading.COLUMNS else 1
                self._add(found.site, dim, matrix)
            case Image(x, geometry):
                channels = x.transpose(0, 1).flatten(1).T
                self._add(found.site, 0 if geometry.transposed else 1, channels)
            case _:
                pass

    def _add(self, site: str, dim: int, rows: Tensor) -> None:
        zeros = torch.zeros(rows.shape[1], dtype=torch.float64)
        tally = self._tallies.setdefault((site, dim), _Tally(zeros, zeros.clone()))
        tally.size += rows.abs().sum(0, dtype=torch.float64).cpu()
        tally.nonzero += rows.count_nonzero(0).cpu()
        tally.count += len(rows)

    def activities(self) -> dict[str, Activity]:
        """Return the activity of each group of which a reader was seen; every reader counts alike."""
        found = {}
        for group in self.groups:
            seen = [
                (part, tally)
                for part in group.readers
                if (tally := self._tallies.get((part.tensor, part.dim))) is not None
            ]
            if seen:
                sizes = [_by_unit(part, tally.size / tally.count, group.size) for part, tally in seen]
                shares = [_by_unit(part, tally.nonzero / tally.count, group.size) for part, tally in seen]
                found[group.name] = Activity(torch.stack(sizes).mean(0).float(), torch.stack(shares).mean(0).float())
        return found


@dataclass
class UnitTaylor:
    """Running sums of ``abs(sum of weight times gradient)`` over the weights that read each unit.

    Molchanov, Tyree, Karras, Aila and Kautz, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    ICLR 2017 (arXiv 1611.06440), equation 8; the division by the size of the feature map is undone by the layer-wise
    normalisation that follows (section 2.2).
    """

    groups: tuple[Group, ...]
    totals: dict[str, Tensor] = field(default_factory=dict)

    def add(self, products: Mapping[str, Tensor]) -> None:
        """Add one batch: ``products`` is weight times gradient, by site."""
        for group in self.groups:
            readers = [part for part in group.readers if part.tensor in products]
            if readers:
                parts = [sum_by_unit(part, products[part.tensor], group.size) for part in readers]
                value = torch.stack(parts).sum(0).abs()
                self.totals[group.name] = self.totals.get(group.name, torch.zeros_like(value)) + value


def sum_by_unit(part: Slice, values: Tensor, size: int) -> Tensor:
    """Return the sum of ``values``, shaped as the tensor of ``part``, over what belongs to each of ``size`` units."""
    units = torch.from_numpy(part.units)
    known = units >= 0
    return values.new_zeros(size).index_add_(0, units[known], rows_of(part, values).sum(1)[known])


def _by_unit(part: Slice, values: Tensor, size: int) -> Tensor:
    """Return the mean over the positions of each unit."""
    units = torch.from_numpy(part.units)
    known = units >= 0
    total = values.new_zeros(size).index_add_(0, units[known], values[known])
    return total / torch.bincount(units[known], minlength=size).clamp_min(1)
