"""Linear layers in integers: ``Gemm`` and ``MatMul`` between quantised inputs and weights.

ONNX Runtime does not fuse a ``Gemm`` that a ReLU or a clip follows, unless their result is quantised again; there
``MatMulInteger`` multiplies the codes and the result is scaled to floating point.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from gossamer.targets.integers import why_scales
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.quantized import Use, add_scale, quantized_bias, quantized_input, zero_of
from gossamer.targets.wiring import Wiring, attribute

_CLIPPING = frozenset({"Relu", "Clip"})


def lower_product(wiring: Wiring, use: Use, ends: Mapping[str, Levels], *, turned: bool) -> str | None:
    """Write a ``Gemm`` or ``MatMul`` for an integer operator; return why not if it cannot be.

    Args:
        wiring: the graph being written.
        use: the node and its weight.
        ends: values that will be quantised where they are read, with their levels.
        turned: whether the node reads the weight transposed.
    """
    node, weight = use.node, use.weight
    if weight.codes.ndim != 2:
        return f"it has {weight.codes.ndim} dimensions, wanted a matrix"
    across = 0 if turned or attribute(node, "transB", 0) else 1
    why = why_scales(weight.axis, symmetric=weight.symmetric, outputs=across)
    if why is not None:
        return why
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(
            node, "transA", 0
        )
        if not plain or turned:
            return "it enters a scaled Gemm"
        reader = wiring.only_reader(node.output[0])
        clipped = reader is not None and reader.op_type in _CLIPPING
        if clipped and node.output[0] not in ends:
            _codes_to_float(wiring, use)
        else:
            _gemm(wiring, use)
        return None
    _matmul(wiring, use, turned=turned)
    return None


def _gemm(wiring: Wiring, use: Use) -> None:
    node, weight = use.node, use.weight
    x = quantized_input(wiring, node.input[0], use.levels)
    w = _dequantized(wiring, use.site, weight)
    turn = {"transB": 1} if attribute(node, "transB", 0) else {}
    if len(node.input) < 3 or not node.input[2]:
        wiring.add("Gemm", [x, w], node.output[0], **turn)
        return
    bias = wiring.constants.get(node.input[2])
    width = weight.codes.shape[0 if turn else 1]
    coded = None
    if bias is not None and bias.shape == (width,):
        coded = quantized_bias(wiring, wiring.fresh(f"{use.site}:bias"), bias, weight, use.levels)
    if coded is not None:
        wiring.add("Gemm", [x, w, coded], node.output[0], **turn)
    else:
        inner = wiring.add("Gemm", [x, w], f"{node.output[0]}:product", **turn)
        wiring.add("Add", [inner, node.input[2]], node.output[0])


def _codes_to_float(wiring: Wiring, use: Use) -> None:
    node, weight, stem = use.node, use.weight, use.node.output[0]
    parts = [quantized_input(wiring, node.input[0], use.levels, back=False)]
    turned = attribute(node, "transB", 0)
    parts.append(_turned_codes(wiring, use) if turned else wiring.constant(use.site, weight.codes))
    parts.append(zero_of(wiring, use.levels))
    if not weight.symmetric:
        parts.append(add_scale(wiring, use.site, weight)[1])
    total = wiring.add("MatMulInteger", parts, f"{stem}:total")
    cast = wiring.add("Cast", [total], f"{stem}:cast", to=onnx.TensorProto.FLOAT)
    scale = wiring.constant(f"{stem}:scale", (weight.scale * np.float32(use.levels.scale)).astype(np.float32))
    if len(node.input) < 3 or not node.input[2]:
        wiring.add("Mul", [cast, scale], stem)
    else:
        wiring.add("Add", [wiring.add("Mul", [cast, scale], f"{stem}:scaled"), node.input[2]], stem)


def _turned_codes(wiring: Wiring, use: Use) -> str:
    name = f"{use.site}:turned_codes"
    if not wiring.made(name):
        wiring.add("Transpose", [wiring.constant(use.site, use.weight.codes)], name, perm=[1, 0])
    return name


def _matmul(wiring: Wiring, use: Use, *, turned: bool) -> None:
    node, site, weight = use.node, use.site, use.weight
    x = quantized_input(wiring, node.input[0], use.levels)
    codes = None
    if turned:
        codes = _turned_codes(wiring, use)
        weight = replace(weight, axis=None if weight.axis is None else 1)
    wiring.add("MatMul", [x, _dequantized(wiring, site, weight, codes)], node.output[0])


def _dequantized(wiring: Wiring, site: str, weight: Weight, codes: str | None = None) -> str:
    parts = [codes or wiring.constant(site, weight.codes), *add_scale(wiring, site, weight)]
    axis = {} if weight.axis is None else {"axis": weight.axis}
    return wiring.add("DequantizeLinear", parts, wiring.fresh(f"{site}:dequantized"), **axis)
