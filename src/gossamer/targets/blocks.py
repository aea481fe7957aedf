"""Weights of 4 or 8 bits in blocks: ONNX Runtime's ``MatMulNBits``, a scale and a zero for each block of inputs.

The weight stays (outputs, inputs) and is cut along the inputs into blocks of a power of two, of one scale each; scales
of larger groups are repeated. Two codes of 4 bits lie in a byte. The product quantizes its input as it comes
(``accuracy_level`` 4): each block of a row to 8 bits, symmetric about zero, with the step max|x| / 127. So what a
block adds to an output is off by at most half such a step times the sum of the block's absolute weights; on random
matrices that makes about half a percent of the largest output.

Measured on ONNX Runtime 1.32, one thread, one row: a matrix of 4096 x 4096 of 4 bits takes 0.23 ms in blocks of 128 and
0.42 ms in blocks of 32, where float takes 3.4 ms, 8-bit integers 0.82 ms, and the same operator with a float input 1.2
ms. A matrix of 2048 x 2048 of 8 bits takes 0.06 ms in blocks of 128 and 0.07 ms in blocks of 32, where float takes 0.24
ms. No product saturates on x86 without VNNI: its kernels add the products of 8-bit codes one by one.
"""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from gossamer.codings.nodes import Array
from gossamer.targets.levels import Weight
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute

LEAST = 1 << 16
"""Weights with fewer values gain nothing: 256 x 256 takes as long in float."""

_SIZES = (128, 64, 32, 16)
_WIDTHS = (4, 8)
_AS_BYTES = 4  # accuracy_level: the input in 8 bits


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix as ``(codes - zero) * scale``, with scale and zero the same in each group along the inputs.

    Attributes:
        codes: (outputs, inputs), of at most 8 bits, signed or not.
        scale: float32 (outputs, groups); the groups are equally long, but for the last.
        zero: of integers, (outputs, groups).
        size: inputs in one group.
    """

    codes: Array
    scale: Array
    zero: Array
    size: int

    @classmethod
    def of_rows(cls, weight: Weight) -> "Blocks | str":
        """Return the one group of each output, or why ``weight`` is none."""
        if weight.codes.ndim != 2:
            return f"it has {weight.codes.ndim} dimensions, wanted a matrix"
        if weight.axis not in (None, 0):
            return "its scales vary along the inputs that are summed over"
        rows, columns = weight.codes.shape
        scale, zero = (np.broadcast_to(part.reshape(-1, 1), (rows, 1)) for part in (weight.scale, weight.zero))
        return cls(weight.codes, scale, zero, max(columns, 1))


def few_bits(weight: Weight) -> bool:
    """Return whether ``weight`` has at most 4 bits."""
    return block_bits(weight) == _WIDTHS[0]


def block_bits(blocks: "Blocks | Weight") -> int | None:
    """Return the least width of a code that the operator has and that holds codes and zeros, or None if none does."""
    low, high = _limits(blocks)
    return next((bits for bits in _WIDTHS if high - low < 1 << bits), None)


def why_no_blocks(blocks: Blocks) -> str | None:
    """Return why ``blocks`` cannot be multiplied by ``MatMulNBits``, or None if they can."""
    bits = block_bits(blocks)
    if bits is None:
        low, high = _limits(blocks)
        return f"its codes and zeros span {low} to {high}, more than {_WIDTHS[-1]} bits"
    return why_no_layout(blocks.codes.size, bits, blocks.size if blocks.scale.shape[1] > 1 else None)


def why_no_layout(values: int, bits: int, group: int | None) -> str | None:
    """Return why a weight of so many values cannot be cut into blocks, or None if it can.

    Args:
        values: how many it has.
        bits: of a code.
        group: inputs that have one scale, or None where each output has one.
    """
    if bits > _WIDTHS[-1]:
        return f"its codes have {bits} bits, wanted {_WIDTHS[-1]} or less"
    if group is not None and group % _SIZES[-1]:
        return f"its groups of {group} inputs are no blocks of 16, 32, 64 or 128"
    if values < LEAST:
        return f"{values} values are too few for blocks of {_WIDTHS[0] if bits <= _WIDTHS[0] else _WIDTHS[-1]} bits"
    return None


def why_no_product(node: NodeProto, blocks: Blocks, *, turned: bool) -> str | None:
    """Return why ``node`` cannot become ``MatMulNBits``, or None if it can; see :func:`lower_blocks`."""
    if node.op_type not in {"Gemm", "MatMul"}:
        return f"it enters {node.op_type}, which has no integer operator here"
    if not (turned or attribute(node, "transB", 0)):
        return "it is read with its inputs first"
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    if not plain or (turned and node.op_type == "Gemm"):
        return "it enters a scaled Gemm"
    return why_no_blocks(blocks)


def block_size(blocks: Blocks) -> int | None:
    """Return how many inputs a block has, or None if the groups cannot be cut into blocks."""
    columns = blocks.codes.shape[1]
    if blocks.scale.shape[1] == 1:
        return next((size for size in _SIZES if -(-columns // size) * size <= 1.1 * columns), _SIZES[-1])
    return next((size for size in _SIZES if blocks.size % size == 0), None)


def lower_blocks(wiring: Wiring, node: NodeProto, site: str, blocks: Blocks, *, turned: bool) -> str | None:
    """Write ``node``, a ``Gemm`` or ``MatMul`` with the weight as its second input; return why not if it cannot be.

    Args:
        wiring: the graph being written.
        node: the product.
        site: name of the weight.
        blocks: its codes.
        turned: whether the node reads the weight transposed.
    """
    why = why_no_product(node, blocks, turned=turned)
    if why is not None:
        return why
    size, bits = block_size(blocks) or _SIZES[0], block_bits(blocks) or _WIDTHS[-1]
    rows, columns = blocks.codes.shape
    parts = [node.input[0], *_stored(wiring, site, blocks, size, bits)]
    options = {"K": columns, "N": rows, "bits": bits, "block_size": size, "accuracy_level": _AS_BYTES}
    bias = node.input[2] if len(node.input) > 2 else ""
    stem = node.output[0]
    product = wiring.add("MatMulNBits", parts, f"{stem}:product" if bias else stem, domain=MICROSOFT, **options)
    if bias:
        wiring.add("Add", [product, bias], stem)
    return None


def pack(codes: Array, size: int, fill: Array, bits: int = 4) -> Array:
    """Return unsigned codes (outputs, inputs) as bytes (outputs, blocks, bytes of a block).

    Args:
        codes: uint8.
        size: inputs in a block.
        fill: what stands beyond the last input, (outputs,).
        bits: of a code: 8, or 4, of which two lie in a byte, the earlier one lower.
    """
    rows, columns = codes.shape
    count = -(-columns // size)
    whole = np.broadcast_to(fill.reshape(-1, 1), (rows, count * size)).astype(np.uint8)
    whole[:, :columns] = codes
    return _bytes(whole, bits).reshape(rows, count, size * bits // 8)


def _bytes(codes: Array, bits: int) -> Array:
    """Return each row of ``codes``, an even number of them, as bytes."""
    return np.asarray(codes if bits == 8 else codes[:, 0::2] | codes[:, 1::2] << 4, np.uint8)


def _stored(wiring: Wiring, site: str, blocks: Blocks, size: int, bits: int) -> list[str]:
    """Add the packed codes, scales and zeros as constants and return their names."""
    columns = blocks.codes.shape[1]
    count = -(-columns // size)
    shift = _shift(blocks, bits)
    group = np.minimum(np.arange(count) * size // blocks.size, blocks.scale.shape[1] - 1)
    zero = (blocks.zero.astype(np.int16) + shift).astype(np.uint8)[:, group]
    codes = (blocks.codes.astype(np.int16) + shift).astype(np.uint8)
    names = [
        wiring.constant(f"{site}:block:codes", pack(codes, size, zero[:, -1], bits)),
        wiring.constant(f"{site}:block:scale", np.ascontiguousarray(blocks.scale[:, group], np.float32)),
    ]
    if (zero == 1 << bits - 1).all():  # the operator's own zero
        return names
    whole = zero if bits == 8 else np.pad(zero, ((0, 0), (0, count % 2)))
    return [*names, wiring.constant(f"{site}:block:zero", _bytes(whole, bits))]


def _shift(blocks: Blocks, bits: int) -> int:
    """Return what makes codes unsigned: half their range, so that the zero is the operator's own, where that fits."""
    low, high = _limits(blocks)
    half = 1 << bits - 1
    return half if low < 0 and -half <= low and high < half else max(-low, 0)


def _limits(blocks: Blocks | Weight) -> tuple[int, int]:
    low = min(blocks.codes.min(initial=0), blocks.zero.min(initial=0))
    return int(low), int(max(blocks.codes.max(initial=0), blocks.zero.max(initial=0)))
