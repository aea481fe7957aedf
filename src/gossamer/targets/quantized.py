"""Pieces that integer products share: quantised inputs, scales and biases."""

from dataclasses import dataclass

import numpy as np
import onnx

from gossamer.artifact.activations import output_of
from gossamer.codings.nodes import Array
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.marks import module_of_mark
from gossamer.targets.wiring import Wiring

_ORDER_KEEPING = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})


_ROOM = 1 << 30
"""Largest code of a bias that leaves as much for the sum of products."""


@dataclass(frozen=True, eq=False)
class Use:
    """A node that multiplies its first input, on ``levels``, with the weight ``site`` as its second."""

    node: onnx.NodeProto
    site: str
    weight: Weight
    levels: Levels


def quantized_input(wiring: Wiring, value: str, levels: Levels, *, back: bool = True) -> str:
    """Return ``value`` on its levels: as codes, or dequantised again (the pair a runtime fuses) with ``back``."""
    code = f"{'s' if levels.signed else 'u'}{levels.zero}"
    scale = wiring.constant(f"input:{levels.scale!r}", np.array(levels.scale, np.float32))
    zero = zero_of(wiring, levels)
    stem = f"{wiring.origin(value)}:{levels.scale!r}:{code}"
    if not wiring.made(f"{stem}:q"):
        wiring.add("QuantizeLinear", [value, scale, zero], f"{stem}:q")
    if back and not wiring.made(f"{stem}:d"):
        wiring.add("DequantizeLinear", [f"{stem}:q", scale, zero], f"{stem}:d")
    return f"{stem}:d" if back else f"{stem}:q"


def zero_of(wiring: Wiring, levels: Levels) -> str:
    """Add the zero of ``levels`` as a constant and return its name."""
    name = f"input:{'s' if levels.signed else 'u'}{levels.zero}"
    return wiring.constant(name, np.array(levels.zero, levels.dtype))


def add_scale(wiring: Wiring, stem: str, weight: Weight) -> list[str]:
    """Add the weight's scale and zero as constants and return their names."""
    return [wiring.constant(f"{stem}:scale", weight.scale), wiring.constant(f"{stem}:zero", weight.zero)]


def quantized_bias(wiring: Wiring, name: str, bias: Array, weight: Weight, levels: Levels) -> str | None:
    """Return the bias as int32 codes of scale input * weight, dequantised; None if it does not fit in int32."""
    scale = np.broadcast_to(weight.scale * np.float32(levels.scale), bias.shape).astype(np.float32)
    codes = np.rint(bias.astype(np.float64) / scale)
    if np.abs(codes).max(initial=0) > _ROOM:
        return None
    parts = [
        wiring.constant(f"{name}:codes", codes.astype(np.int32)),
        wiring.constant(f"{name}:scale", scale),
        wiring.constant(f"{name}:zero", np.zeros(bias.shape, np.int32)),
    ]
    return wiring.add("DequantizeLinear", parts, f"{name}:value", axis=0)


def with_room(weight: Weight, bias: Array, levels: Levels) -> Weight:
    """Return ``weight``, with coarser scales of the outputs whose bias would take more than half of 32 bits.

    Such an output is all but its bias, as behind a batch norm whose factor is next to nothing. What its weights lose
    is less than a billionth of the bias for each product.
    """
    least = np.abs(bias.astype(np.float64)) / (float(_ROOM) * levels.scale)
    scale = np.broadcast_to(weight.scale, bias.shape).astype(np.float64)
    if not weight.symmetric or (scale >= least).all():
        return weight
    wider = np.maximum(scale, least).astype(np.float32)
    share = (scale / wider).reshape(-1, *[1] * (weight.codes.ndim - 1))
    codes = np.rint(weight.codes * share).astype(weight.codes.dtype)
    return Weight(codes, wider, np.zeros(bias.shape, weight.codes.dtype), 0)


def quantized_output(wiring: Wiring, mark: onnx.NodeProto, levels: Levels) -> None:
    """Put ``levels`` in the place of a mark, under its name; who reads them on the same levels gets the codes."""
    wiring.alias(mark.output[0], mark.input[0])
    back = quantized_input(wiring, mark.input[0], levels)
    wiring.add("Identity", [back], mark.output[0], name=output_of(module_of_mark(mark)))


def keeps_codes(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> bool:
    """Return whether ``node`` gives the same codes if what it reads is put on ``levels`` in place of what it makes.

    A ReLU or a clip does where the codes end at its bounds or before: rounding to codes saturates there.
    """
    if node.op_type in {"Relu", "Clip"}:
        low, high = _bounds(wiring, node)
        return levels.code(low) <= levels.lowest and levels.code(high) >= levels.highest
    return node.op_type == "Concat" or node.op_type in _ORDER_KEEPING


def _bounds(wiring: Wiring, node: onnx.NodeProto) -> tuple[float, float]:
    """Return the ends of a ReLU or clip; an end that is computed is one that no code is beyond."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [-np.inf, np.inf]
    for index, name in enumerate(node.input[1:3]):
        if name:
            known = wiring.constants.get(name)
            ends[index] = np.nan if known is None else float(known)
    return ends[0], ends[1]
