"""Pieces that integer products share: quantised inputs, scales and biases."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from gossamer.codings.nodes import Array
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.wiring import Wiring, attribute, attributes

_ORDER_KEEPING = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"})
_CLIPS = frozenset({"Relu", "Clip"})

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
    """Return ``value`` on its levels: as codes, or dequantised again (the pair a runtime fuses) with ``back``.

    Codes of fewer bits than 8 are those of 8 bits, clipped.
    """
    stem = _stem(wiring, value, levels)
    if not wiring.made(f"{stem}:q"):
        codes = wiring.add(
            "QuantizeLinear", [value, *_grid(wiring, levels)], f"{stem}:{'q' if levels.every_byte else 'byte'}"
        )
        if not levels.every_byte:
            wiring.add("Clip", [codes, *_limits(wiring, levels.low, levels.high)], f"{stem}:q")
    if back and not wiring.made(f"{stem}:d"):
        wiring.add("DequantizeLinear", [f"{stem}:q", *_grid(wiring, levels)], f"{stem}:d")
    return f"{stem}:d" if back else f"{stem}:q"


def rounded_input(wiring: Wiring, value: str, levels: Levels) -> str:
    """Return ``value`` rounded to levels of any number of bits, in floating point where a byte does not do."""
    if levels.bytes_do:
        return quantized_input(wiring, value, levels)
    stem = _stem(wiring, value, levels)
    if not wiring.made(f"{stem}:d"):
        for node in rounding(wiring, value, f"{stem}:d", levels):
            wiring.append(node)
    return f"{stem}:d"


def rounding(wiring: Wiring, value: str, result: str, levels: Levels) -> list[onnx.NodeProto]:
    """Return nodes that round ``value`` to levels of any number of bits in floating point, and add their constants."""
    ends = {"step": levels.scale, "low": levels.low - levels.zero, "high": levels.high - levels.zero}
    step, low, high = (wiring.constant(f"{result}:{name}", np.array(end, np.float32)) for name, end in ends.items())
    return [
        helper.make_node("Div", [value, step], [f"{result}:steps"]),
        helper.make_node("Round", [f"{result}:steps"], [f"{result}:rounded"]),
        helper.make_node("Clip", [f"{result}:rounded", low, high], [f"{result}:clipped"]),
        helper.make_node("Mul", [f"{result}:clipped", step], [result]),
    ]


def _stem(wiring: Wiring, value: str, levels: Levels) -> str:
    ends = "" if levels.every_byte else f":{levels.low}:{levels.high}"
    return f"{wiring.origin(value, levels)}:{levels.scale!r}:{levels.zero}{ends}"


def _grid(wiring: Wiring, levels: Levels) -> list[str]:
    """Add scale and zero of ``levels`` as constants and return their names."""
    scale = wiring.constant(f"input:{levels.scale!r}", np.array(levels.scale, np.float32))
    return [scale, zero_of(wiring, levels)]


def _limits(wiring: Wiring, *codes: float) -> list[str]:
    """Add codes as constants and return their names."""
    return [wiring.constant(f"input:code{code:.0f}", np.array(code, np.uint8)) for code in codes]


def zero_of(wiring: Wiring, levels: Levels) -> str:
    """Add the zero of ``levels`` as a constant and return its name."""
    return wiring.constant(f"input:zero{levels.zero}", np.array(levels.zero, np.uint8))


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


def quantized_output(wiring: Wiring, mark: onnx.NodeProto, levels: Levels) -> str:
    """Put ``levels`` in the place of a mark and return the name of the codes; who wants the same levels gets these."""
    wiring.alias(mark.output[0], mark.input[0], levels)
    back = quantized_input(wiring, mark.input[0], levels)
    wiring.add("Identity", [back], mark.output[0])
    return quantized_input(wiring, mark.input[0], levels, back=False)


def keeps_codes(wiring: Wiring, node: onnx.NodeProto) -> bool:
    """Return whether ``node`` gives the same codes if what it reads is put on levels in place of what it makes.

    A ReLU or a clip does, as rounding keeps the order of numbers, if its bounds are known: see :func:`clip_codes`.
    """
    if node.op_type in _CLIPS:
        return not np.isnan(_bounds(wiring, node)).any()
    return node.op_type == "Concat" or node.op_type in _ORDER_KEEPING


def clip_codes(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> bool:
    """Write a ReLU or clip between values on ``levels``: codes are clipped at the codes of its bounds.

    Where they end there anyhow, rounding to codes does all of it.

    Returns:
        whether that is done; a ReLU that rounding to codes does is left to the runtime, which takes it in.
    """
    low, high = _clipped_ends(wiring, node, levels)
    if (low, high) == (levels.low, levels.high):
        if node.op_type == "Clip":
            wiring.add("Identity", [node.input[0]], node.output[0])
        return node.op_type == "Clip"
    clipped = _done_on_codes(wiring, node, levels)
    if any(reader.op_type in _ORDER_KEEPING | _CLIPS for reader in wiring.readers(node.output[0])):
        wiring.add("DequantizeLinear", [clipped, *_grid(wiring, levels)], node.output[0])
    return True


def hands_on(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> bool:
    """Return whether what ``node`` makes of numbers on ``levels`` is on these too."""
    if len(node.output) > 1 and any(node.output[1:]):
        return False
    if node.op_type == "Pad":
        filled = node.input[2] if len(node.input) > 2 else ""
        known = wiring.constants.get(filled)
        constant = attribute(node, "mode", b"constant") == b"constant"
        return not constant or not filled or (known is not None and not known.any())
    if node.op_type in _CLIPS:
        return all(_is_code(levels, bound) for bound in _bounds(wiring, node))
    return node.op_type == "Slice" or node.op_type in _ORDER_KEEPING


def _is_code(levels: Levels, bound: float) -> bool:
    """Return whether there is nothing between ``bound`` and a code that ends there; not so for one that is computed."""
    code = levels.code(bound)
    if np.isnan(code):
        return False
    beyond = not levels.low < code < levels.high
    return beyond or bool(np.isclose((code - levels.zero) * levels.scale, bound, rtol=1e-6, atol=0))


def hand_on(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> None:
    """Write ``node``, which reads a value on ``levels``, on codes; what it makes is that value and has these codes."""
    made = _done_on_codes(wiring, node, levels)
    wiring.add("DequantizeLinear", [made, *_grid(wiring, levels)], node.output[0])


def _done_on_codes(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> str:
    """Write what ``node`` does to a value on ``levels`` for its codes and return the codes of what it makes."""
    codes, made = quantized_input(wiring, node.input[0], levels, back=False), _stem(wiring, node.output[0], levels)
    if node.op_type in _CLIPS:
        return wiring.add("Clip", [codes, *_limits(wiring, *_clipped_ends(wiring, node, levels))], f"{made}:q")
    further = list(node.input[1:])
    if node.op_type == "Pad":
        further = [node.input[1], zero_of(wiring, levels), *node.input[3:]]
    return wiring.add(node.op_type, [codes, *further], f"{made}:q", **attributes(node))


def _clipped_ends(wiring: Wiring, node: onnx.NodeProto, levels: Levels) -> tuple[float, float]:
    """Return the codes at which a ReLU or clip ends."""
    low, high = (min(max(levels.code(bound), levels.low), levels.high) for bound in _bounds(wiring, node))
    return low, high


def _bounds(wiring: Wiring, node: onnx.NodeProto) -> tuple[float, float]:
    """Return the ends of a ReLU or clip, NaN for one that is computed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    ends = [-np.inf, np.inf]
    for index, name in enumerate(node.input[1:3]):
        if name:
            known = wiring.constants.get(name)
            ends[index] = np.nan if known is None or known.size != 1 else known.item()
    return ends[0], ends[1]
