"""Every use of every weight, seen below autograd and above the kernels.

A ``TorchDispatchMode`` sees each operation that a forward pass really runs, so one rule per operation reads linear
layers, recurrent cells of every kind (packed or not), attention, tied and shared weights and functional code alike.
A weight is known by its storage: an operand that is a view of a parameter is that parameter.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gossamer.calibrate.columns import Geometry
from gossamer.model.layout import Layout, Reading

aten = torch.ops.aten


@dataclass(frozen=True)
class Rows:
    """Inputs as a matrix (rows, inputs)."""

    matrix: Tensor


@dataclass(frozen=True)
class Image:
    """Inputs (N, C, spatial...) of a convolution that stands as ``geometry`` says."""

    x: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Tokens:
    """Integer inputs of a look-up in a table of ``vocabulary`` rows."""

    tokens: Tensor
    vocabulary: int


@dataclass(frozen=True)
class Use:
    """One use of parts of a site: ``layouts`` has one entry, or one per group of a convolution."""

    site: str
    layouts: tuple[Layout, ...]
    inputs: Rows | Image | Tokens


@dataclass(frozen=True)
class Unread:
    """A use of a site whose inputs cannot be read, and why."""

    site: str
    reason: str


Found = list[Use | Unread]


class Weights:
    """Finds the site that a tensor is a view of.

    Args:
        parameters: the weight of every site.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = {}
        for site, weight in parameters.items():
            if weight.numel():
                self._by_storage.setdefault(weight.untyped_storage().data_ptr(), []).append((site, weight))

    def find(self, x: object) -> tuple[str, Tensor] | None:
        """Return (site, weight) if the tensor ``x`` looks into a site's storage."""
        if not isinstance(x, Tensor) or x.layout is not torch.strided:
            return None
        for site, weight in self._by_storage.get(x.untyped_storage().data_ptr(), ()):
            first = weight.storage_offset()
            if first <= x.storage_offset() < first + weight.numel():
                return site, weight
        return None

    @staticmethod
    def part(site: str, weight: Tensor, operand: Tensor, inner: int, outer: int) -> Layout | Unread:
        """Return which part of ``weight`` a matrix operand is; ``inner`` is the axis that the product sums over."""
        flat = weight.ndim == 2
        if not flat and not weight.is_contiguous():
            return Unread(site, "it is used as a matrix but does not lie row by row in memory")
        rows, columns = weight.shape[0], weight.numel() // weight.shape[0]
        row_step, column_step = weight.stride(0), weight.stride(1) if flat else 1
        offset = operand.storage_offset() - weight.storage_offset()

        def lies(axis: int, step: int) -> bool:
            return operand.shape[axis] == 1 or operand.stride(axis) == step

        if operand.shape[inner] == columns and lies(inner, column_step) and lies(outer, row_step):
            start = offset // row_step
            return Layout(Reading.ROWS if flat else Reading.KERNEL, start, start + operand.shape[outer])
        if flat and operand.shape[inner] == rows and lies(inner, row_step) and lies(outer, column_step):
            start = offset // column_step
            return Layout(Reading.COLUMNS, start, start + operand.shape[outer])
        return Unread(site, "a part of it is used that is neither a range of whole rows nor of whole columns")


def _product(weights: Weights, left: Tensor, right: Tensor) -> Found:
    """Read left @ right, matrices or stacks of matrices, one of which is a weight."""
    at_left, at_right = weights.find(left), weights.find(right)
    if at_left and at_right:
        return [Unread(site, "it is multiplied with another weight") for site, _ in (at_left, at_right)]
    if at_left:
        (site, whole), operand, x, axes = at_left, left, right.mT, (1, 0)
    elif at_right:
        (site, whole), operand, x, axes = at_right, right, left, (0, 1)
    else:
        return []
    if operand.ndim == 3:
        if operand.shape[0] != 1 and operand.stride(0) != 0:
            return [Unread(site, "its slices are multiplied with separate inputs")]
        operand = operand[0]
    part = weights.part(site, whole, operand, *axes)
    return [part] if isinstance(part, Unread) else [Use(site, (part,), Rows(x.reshape(-1, x.shape[-1])))]


def _matrix_vector(weights: Weights, matrix: Tensor, vector: Tensor) -> Found:
    return _product(weights, matrix, vector.unsqueeze(1)) if weights.find(matrix) else []


def _convolution(weights: Weights, args: tuple[Any, ...]) -> Found:
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = args
    found = weights.find(weight)
    if found is None:
        return []
    site, whole = found
    if weight.shape != whole.shape or weight.stride() != whole.stride():
        return [Unread(site, "a reshaped part of it is used as a kernel")]
    kernel = tuple(weight.shape[2:])

    def full(sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sizes) * len(kernel) if len(sizes) == 1 else tuple(sizes)

    geometry = Geometry(kernel, full(stride), full(padding), full(dilation), groups, transposed, full(output_padding))
    per_group = weight.shape[0] // groups
    reading = Reading.TRANSPOSED_KERNEL if transposed else Reading.KERNEL
    layouts = tuple(Layout(reading, g * per_group, (g + 1) * per_group) for g in range(groups))
    return [Use(site, layouts, Image(x, geometry))]


def _lookup(weights: Weights, table: Tensor, tokens: Tensor) -> Found:
    found = weights.find(table)
    if found is None:
        return []
    site, whole = found
    if table.shape != whole.shape or table.stride() != whole.stride():
        return [Unread(site, "a reshaped part of it is used as a table")]
    return [Use(site, (Layout(Reading.TABLE, 0, whole.shape[1]),), Tokens(tokens, whole.shape[0]))]


_RULES: dict[Any, Callable[[Weights, tuple[Any, ...]], Found]] = {
    aten.mm: lambda w, a: _product(w, a[0], a[1]),
    aten.bmm: lambda w, a: _product(w, a[0], a[1]),
    aten.addmm: lambda w, a: _product(w, a[1], a[2]),
    aten.baddbmm: lambda w, a: _product(w, a[1], a[2]),
    aten.mv: lambda w, a: _matrix_vector(w, a[0], a[1]),
    aten.addmv: lambda w, a: _matrix_vector(w, a[1], a[2]),
    aten.convolution: _convolution,
    aten.embedding: lambda w, a: _lookup(w, a[0], a[1]),
    aten._embedding_bag: lambda w, a: _lookup(w, a[0], a[1]),  # noqa: SLF001  its public name
    aten._embedding_bag_forward_only: lambda w, a: _lookup(w, a[0], a[1]),  # noqa: SLF001
}
_SHAPE_ONLY = frozenset({aten.is_same_size, aten.sym_size, aten.sym_numel, aten.sym_stride})


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """While active, calls ``see`` with every use of a weight before the operation's result goes on.

    Args:
        weights: the sites' weights.
        see: called with each ``Use`` or ``Unread``, outside autograd.
    """

    def __init__(self, weights: Weights, see: Callable[[Use | Unread], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = weights
        self._see = see

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and report what it does with a weight."""
        del types
        # A convolution is seen before its kernel is chosen, so it may use the fast one.
        fast = func.overloadpacket is aten.convolution
        with one_dnn(enabled=True) if fast else nullcontext():
            out = func(*args, **(kwargs or {}))
        touched = [x for x in (*args, *(kwargs or {}).values()) if self._weights.find(x)]
        touched += [x for arg in args if isinstance(arg, (list, tuple)) for x in arg if self._weights.find(x)]
        if touched:
            with torch.no_grad():
                for found in self._read(func, args, out, touched):
                    self._see(found)
        return out

    def _read(self, func: Any, args: tuple[Any, ...], out: Any, touched: list[Tensor]) -> Found:
        packet = func.overloadpacket
        rule = _RULES.get(packet)
        if rule is not None:
            return rule(self._weights, args)
        outs = out if isinstance(out, (list, tuple)) else (out,)
        if packet in _SHAPE_ONLY or all(self._weights.find(x) for x in outs):
            return []  # a view: its own uses will be seen
        sites = dict.fromkeys(found[0] for x in touched if (found := self._weights.find(x)))
        return [Unread(site, f"{func.name()} is not an operation whose inputs are read") for site in sites]


@contextmanager
def one_dnn(*, enabled: bool) -> Iterator[None]:
    """Switch the fused kernels of oneDNN on or off."""
    with warnings.catch_warnings():
        # Reading its flags warns about TF32 on Intel graphics cards, which concerns nobody here.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=enabled):
            yield


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Switch off fused recurrent and attention kernels, which hide the products inside them."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with one_dnn(enabled=False), torch.backends.cudnn.flags(enabled=False):
        torch.backends.mha.set_fastpath_enabled(value=False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(value=fast)
