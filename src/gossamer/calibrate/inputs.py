"""Running sums and extremes of the inputs of every site, fed with uses of weights one at a time."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor

from gossamer.artifact.activations import place_of
from gossamer.calibrate.columns import convolution_rows, one_hot_counts
from gossamer.calibrate.extremes import Extremes
from gossamer.calibrate.sample import Sample
from gossamer.calibrate.uses import Image, Rows, Tokens, Unread, Use
from gossamer.errors import EvidenceError
from gossamer.model.evidence import Mean, Moment
from gossamer.model.layout import Layout, Reading

Part = tuple[Layout, Tensor, int]


class Inputs:
    """What entered each site so far.

    Args:
        needs: kinds of evidence to keep.
        samples: numbers kept per site in its sample.
    """

    def __init__(self, needs: frozenset[str], samples: int) -> None:
        self.needs = needs
        self.samples = samples
        self.batch = 0
        self.extremes: dict[str, Extremes] = {}
        self.sampled: dict[str, Sample] = {}
        self.peaks: dict[str, Tensor] = {}
        self.unread: dict[str, str] = {}
        self._moments: dict[str, dict[Layout, Tensor]] = {}
        self._sums: dict[str, dict[Layout, Tensor]] = {}
        self._counts: dict[str, dict[Layout, int]] = {}
        self._seen: set[str] = set()

    def see(self, found: Use | Unread) -> None:
        """Take in one use of a weight.

        Raises:
            EvidenceError: the input is empty or has a number that is not finite.
        """
        if isinstance(found, Unread):
            self.unread.setdefault(found.site, found.reason)
            return
        self._seen.add(found.site)
        rows = bool(self.needs & {"second_moment", "mean"})
        match found.inputs:
            case Rows(matrix):
                self._numbers(found.site, matrix)
                self._peaks(found.site, found.layouts[0], matrix)
                if rows:
                    self._add(found.site, found.layouts[0], matrix)
            case Image(x, geometry):
                self._numbers(found.site, x)
                if rows:
                    for block in convolution_rows(x, geometry):
                        for layout, matrix in zip(found.layouts, block, strict=True):
                            self._add(found.site, layout, matrix)
            case Tokens(tokens, vocabulary):
                if rows:
                    self._add_tokens(found.site, found.layouts[0], tokens, vocabulary)
            case _:
                assert_never(found.inputs)

    def see_output(self, name: str, value: Tensor) -> None:
        """Take in what a module made, or a cell state; ``name`` is what it is called among activations.

        Raises:
            EvidenceError: it is empty or has a number that is not finite.
        """
        self._numbers(name, value.detach())

    def saw(self, site: str) -> bool:
        """Return whether any use of ``site`` could be read."""
        return site in self._seen

    def _numbers(self, site: str, x: Tensor) -> None:
        if x.numel() == 0:
            raise EvidenceError(f"calibration batch {self.batch}: {place_of(site)} is empty")
        low, high = (float(value) for value in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise EvidenceError(
                f"calibration batch {self.batch}: {place_of(site)} has a number that is not finite",
                hint="look for bad values in the data, or for overflow in half precision",
            )
        if "range" in self.needs:
            self.extremes.setdefault(site, Extremes()).see(low, high, self.batch)
            numbers = x.reshape(-1).to("cpu", torch.float32).numpy()
            self.sampled.setdefault(site, Sample(self.samples)).add(numbers)

    def _peaks(self, site: str, layout: Layout, matrix: Tensor) -> None:
        if "peak" not in self.needs or layout.reading is not Reading.ROWS:
            return
        now = matrix.abs().amax(0).to("cpu", torch.float32)
        before = self.peaks.get(site)
        self.peaks[site] = now if before is None else torch.maximum(before, now)

    def _add(self, site: str, layout: Layout, matrix: Tensor) -> None:
        rows = matrix.to(torch.float32)
        if "second_moment" in self.needs:
            moments = self._moments.setdefault(site, {})
            if layout not in moments:
                moments[layout] = rows.new_zeros(rows.shape[1], rows.shape[1])
            moments[layout].addmm_(rows.T, rows)
        self._tally(site, layout, rows.sum(0, dtype=torch.float64), rows.shape[0])

    def _add_tokens(self, site: str, layout: Layout, tokens: Tensor, vocabulary: int) -> None:
        # The second moment of one-hot rows is diagonal: the vector of counts is moment and sum at once.
        counts = one_hot_counts(tokens, vocabulary)
        if "second_moment" in self.needs:
            _accumulate(self._moments.setdefault(site, {}), layout, counts)
        self._tally(site, layout, counts.to(torch.float64), tokens.numel())

    def _tally(self, site: str, layout: Layout, total: Tensor, count: int) -> None:
        counts = self._counts.setdefault(site, {})
        counts[layout] = counts.get(layout, 0) + count
        if "mean" in self.needs:
            _accumulate(self._sums.setdefault(site, {}), layout, total)

    def moments(self) -> dict[str, tuple[Moment, ...]]:
        """Return the second moments so far, on the CPU."""
        return {
            site: tuple(Moment(*part) for part in self._parts(site, found)) for site, found in self._moments.items()
        }

    def means(self) -> dict[str, tuple[Mean, ...]]:
        """Return the means so far, on the CPU."""
        return {
            site: tuple(
                Mean(layout, (total / count).to(torch.float32), count)
                for layout, total, count in self._parts(site, found)
            )
            for site, found in self._sums.items()
        }

    def _parts(self, site: str, totals: Mapping[Layout, Tensor]) -> list[Part]:
        return refine([(layout, total.cpu(), self._counts[site][layout]) for layout, total in totals.items()])


def _accumulate(sums: dict[Layout, Tensor], layout: Layout, more: Tensor) -> None:
    sums[layout] = sums[layout] + more if layout in sums else more


def refine(parts: Sequence[Part]) -> list[Part]:
    """Cut overlapping parts of one site at each other's edges and add what overlaps.

    A joint projection may be multiplied whole in one place and slice by slice in another; afterwards every row
    belongs to exactly one part. Parts of a transposed kernel are groups of inputs and stay as they are.
    """
    out: list[Part] = []
    ordered = sorted(parts, key=lambda part: part[0])
    for reading, group in itertools.groupby(ordered, key=lambda part: part[0].reading):
        members = list(group)
        if reading is Reading.TRANSPOSED_KERNEL or len(members) == 1:
            out.extend(members)
            continue
        edges = sorted({edge for layout, _, _ in members for edge in (layout.start, layout.stop)})
        for start, stop in itertools.pairwise(edges):
            over = [part for part in members if part[0].start <= start and stop <= part[0].stop]
            if over:
                total = over[0][1] if len(over) == 1 else torch.stack([part[1] for part in over]).sum(0)
                out.append((Layout(reading, start, stop), total, sum(part[2] for part in over)))
    return out
