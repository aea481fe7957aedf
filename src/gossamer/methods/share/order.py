"""The order of units in which subvectors cluster best, found without changing what the network computes.

Martinez, Shewakramani, Liu, Bârsan, Zeng and Urtasun, "Permute, Quantize, and Fine-tune: Efficient Compression of
Neural Networks", CVPR 2021 (arXiv 2010.15703). Channels may stand in any order, if those that make them and those that
read them agree. What codewords must lose grows with the determinant of the covariance of subvectors, so that is made
small: first units are dealt out by falling variance, the largest to the first place of all subvectors and so on (the
product of variances bounds the determinant); then pairs drawn at random are exchanged where that lowers it. Where
several weights read the same units, the paper looks at the first; here at all, each by its subvectors times the
determinant to the power of 1 / width, the least error that rate and distortion allow up to a factor.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from gossamer.model import Group, Plan, Slice, Subject, apply, live_weight
from gossamer.model.resize import picked, stored_tensors
from gossamer.model.run import run_example

Index = dict[tuple[str, int], NDArray[np.int64]]
"""By tensor and dimension: the old position of what stands at each new one."""
MOST = 8192
"""Weights with longer rows have no say in the order of units."""
_TOLERANCE, _ROUNDING = 1e-4, 1e-9


def reordered(
    subject: Subject, chosen: Collection[str], widths: Mapping[str, int], swaps: int, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return new values of all tensors whose positions change, and the old flat position of each value.

    A group keeps its order where that order matters to the network (which is tried out), where something holds for its
    tensors already, where one of its weights is not chosen, or where no order found is better.

    Args:
        subject: untouched.
        chosen: sites whose values may change places.
        widths: values of a subvector, by site; their rows are whole subvectors.
        swaps: pairs of units of each group that are tried.
        seed: of these.
    """
    index: Index = {}
    before = _answers(subject)
    for group in subject.groups:
        spreads = _spreads(subject, group, widths, index) if _free(subject, group, chosen) else []
        order = searched(spreads, swaps, seed) if spreads else None
        if order is None:
            continue
        wider = _moved(subject, group, order, index)
        tensors = {name: values for name, (values, _) in _taken(subject, wider).items()}
        if _alike(before, _answers(apply(subject, Plan("share.product", tensors=tensors)))):
            index = wider
    return _taken(subject, index)


@dataclass(eq=False)
class Spread:
    """How far the subvectors of a weight spread, as its columns change places.

    Attributes:
        gram: products of columns, (columns, columns).
        sums: of columns, (columns,).
        rows: how many rows there are.
        columns: the column at each place, (subvectors of a row, width).
        places: for each unit the places of its columns, (units, any).
    """

    gram: NDArray[np.float64]
    sums: NDArray[np.float64]
    rows: int
    columns: NDArray[np.int64]
    places: NDArray[np.int64]

    def __post_init__(self) -> None:
        self._second, self._first = self._moments(np.arange(len(self.columns)))

    @classmethod
    def of(cls, matrix: NDArray[np.float64], width: int, places: NDArray[np.int64]) -> "Spread":
        """Return that of the rows of ``matrix`` cut into subvectors of ``width``."""
        columns = np.arange(matrix.shape[1]).reshape(-1, width)
        return cls(matrix.T @ matrix, matrix.sum(0), len(matrix), columns, places)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance of the subvectors, (width, width)."""
        count = self.rows * len(self.columns)
        return np.asarray((self._second - np.outer(self._first, self._first) / count) / max(count - 1, 1))

    @property
    def loss(self) -> float:
        """Subvectors times the determinant of their covariance to the power of 1 / width."""
        sign, log = np.linalg.slogdet(self.covariance)
        return float(self.rows * len(self.columns) * np.exp(log / self.columns.shape[1])) if sign > 0 else 0.0

    def swap(self, one: int, other: int) -> None:
        """Let two units change places."""
        here, there = self.places[one], self.places[other]
        blocks = np.unique(np.concatenate([here, there]) // self.columns.shape[1])
        second, first = self._moments(blocks)
        flat = self.columns.reshape(-1)
        flat[here], flat[there] = flat[there], flat[here]
        new_second, new_first = self._moments(blocks)
        self._second = self._second - second + new_second
        self._first = self._first - first + new_first

    def put(self, order: NDArray[np.int64]) -> None:
        """Let unit ``order[u]`` stand where unit ``u`` does."""
        flat = self.columns.reshape(-1)
        flat[self.places] = flat[self.places[order]]
        self._second, self._first = self._moments(np.arange(len(self.columns)))

    def dealt(self) -> NDArray[np.int64] | None:
        """Return the order by falling variance, or None where subvectors are not made of whole units."""
        units, each = self.places.shape
        width = self.columns.shape[1]
        whole = np.arange(units * each).reshape(units, each)
        at = np.argsort(self.places[:, 0])
        if (
            width % each
            or width == each
            or not np.array_equal(self.places[at], whole)
            or whole.size != self.columns.size
        ):
            return None
        spread = np.array([self._alone(unit) for unit in at])
        falling = at[np.argsort(-spread, kind="stable")]
        order = np.empty(units, np.int64)
        order[at] = falling.reshape(width // each, -1).T.reshape(-1)
        return order

    def _alone(self, unit: int) -> float:
        """Return the determinant of the covariance of a unit's columns."""
        columns = self.columns.reshape(-1)[self.places[unit]]
        mean = self.sums[columns] / self.rows
        return float(np.linalg.det(self.gram[np.ix_(columns, columns)] / self.rows - np.outer(mean, mean)))

    def _moments(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        columns = self.columns[blocks]
        return self.gram[columns[:, :, None], columns[:, None, :]].sum(0), self.sums[columns].sum(0)


def searched(spreads: list[Spread], swaps: int, seed: int) -> NDArray[np.int64] | None:
    """Return the best order found: at each unit's place the unit to stand there; None if none is better.

    Args:
        spreads: of all weights that have a say, of the same units; they end in some order.
        swaps: pairs that are tried.
        seed: of their draw.
    """
    units = len(spreads[0].places)
    first = sum(spread.loss for spread in spreads)
    order = next((found for spread in spreads if (found := spread.dealt()) is not None), np.arange(units))
    for spread in spreads:
        spread.put(order)
    order, best = order.copy(), sum(spread.loss for spread in spreads)
    for one, other in np.random.default_rng(seed).integers(units, size=(swaps, 2)).tolist():
        for spread in spreads:
            spread.swap(one, other)
        loss = sum(spread.loss for spread in spreads)
        if loss < best * (1 - _ROUNDING):
            best = loss
            order[one], order[other] = order[other], order[one]
        else:
            for spread in spreads:
                spread.swap(one, other)
    return order if best < first * (1 - _ROUNDING) else None


def _free(subject: Subject, group: Group, chosen: Collection[str]) -> bool:
    """Return whether the units of ``group`` may stand in another order, as far as one can see."""
    held = subject.constraints
    closed = {*held, *subject.sites} - (set(chosen) - set(held))
    return not (
        group.stuck
        or group.lanes is not None
        or any(part.tensor in closed or part.parts > 1 or _positions(part, group) is None for part in group.slices)
    )


def _spreads(subject: Subject, group: Group, widths: Mapping[str, int], index: Index) -> list[Spread]:
    """Return the spread of each weight that has a say in the order of the units of ``group``."""
    spreads = []
    for part in group.slices:
        places = _positions(part, group)
        if part.dim != 1 or part.tensor not in widths or places is None:
            continue
        kernel = torch.Size(subject.sites[part.tensor].shape[2:]).numel()
        weight = live_weight(subject, part.tensor).double().cpu()
        if widths[part.tensor] == kernel or weight[0].numel() > MOST:
            continue
        matrix = picked(weight, (None, index.get((part.tensor, 1)))).flatten(1).numpy()
        wide = (places[:, :, None] * kernel + np.arange(kernel)).reshape(group.size, -1)
        spreads.append(Spread.of(matrix, widths[part.tensor], wide))
    return spreads


def _positions(part: Slice, group: Group) -> NDArray[np.int64] | None:
    """Return the positions of each unit along a slice, or None where units have different numbers of them."""
    counts = np.bincount(part.units[part.units >= 0], minlength=group.size)
    if counts.min() != counts.max():
        return None
    there = np.flatnonzero(part.units >= 0)
    return there[np.argsort(part.units[there], kind="stable")].reshape(group.size, -1)


def _moved(subject: Subject, group: Group, order: NDArray[np.int64], index: Index) -> Index:
    """Return ``index`` with the units of ``group`` in ``order`` as well."""
    stored = stored_tensors(subject.model)
    wider = dict(index)
    for part in group.slices:
        places = _positions(part, group)
        key = (part.tensor, part.dim)
        old = wider.get(key, np.arange(stored[part.tensor].shape[part.dim]))
        new = old.copy()
        new[places] = old[places[order]] if places is not None else old[places]
        wider[key] = new
    return wider


def _taken(subject: Subject, index: Index) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the values of each tensor in the order of ``index``, and the old flat position of each."""
    stored = stored_tensors(subject.model)
    found = {}
    for name in dict.fromkeys(name for name, _ in index):
        value = stored[name].detach().cpu()
        along = tuple(index.get((name, dim)) for dim in range(value.ndim))
        place = picked(torch.arange(value.numel()).view(value.shape), along)
        found[name] = value.flatten()[place], place
    return found


def _answers(subject: Subject) -> list[Tensor]:
    answers = run_example(subject.model, subject.args, subject.kwargs)
    return [leaf.double() for leaf in pytree.tree_leaves(answers) if isinstance(leaf, Tensor)]


def _alike(before: list[Tensor], after: list[Tensor]) -> bool:
    """Return whether the network answers the same, up to the order in which sums are taken."""
    return len(before) == len(after) and all(
        one.shape == other.shape and float((one - other).abs().max()) <= _TOLERANCE * (1e-6 + float(one.abs().max()))
        for one, other in zip(before, after, strict=True)
        if one.numel()
    )
