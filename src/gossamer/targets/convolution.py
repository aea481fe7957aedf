"""Convolutions in integers, with the batch norm that follows folded into the weight's scales.

The output must reach a grid, its own or the next layer's, through operators that keep order (ReLU, max pooling,
reshaping): the quantise-dequantise form then lets the runtime go from codes to codes. Elsewhere the convolution stays
in floating point, for ``ConvInteger`` takes three to four times as long as that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from gossamer.codings.nodes import Array
from gossamer.targets.integers import why_scales
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.quantized import Use, add_scale, quantized_bias, quantized_input, with_room
from gossamer.targets.wiring import Wiring, attribute, attributes


@dataclass(frozen=True, eq=False)
class _Product:
    """A convolution after folding.

    Attributes:
        codes: name of its codes.
        stem: how the names of its scale and zero begin.
        weight: its levels.
        bias: its bias, or None.
        output: the value it makes.
        norm: the batch norm it took in, or None.
    """

    codes: str
    stem: str
    weight: Weight
    bias: Array | None
    output: str
    norm: onnx.NodeProto | None = None


def lower_convolution(wiring: Wiring, use: Use, ends: Mapping[str, Levels]) -> tuple[str, ...] | str:
    """Write a ``Conv`` for an integer operator.

    Args:
        wiring: the graph being written.
        use: the node and its weight.
        ends: values that will be quantised where they are read, with their levels.

    Returns:
        the outputs of further nodes that this one has taken in; or why it cannot be done.
    """
    node, weight = use.node, use.weight
    why = why_scales(weight.axis, symmetric=weight.symmetric)
    if why is not None:
        return why
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = wiring.constants.get(node.input[2])
        if bias is None:
            return "its bias is computed"
    product = _fold_norm(wiring, _Product(use.site, use.site, weight, bias, node.output[0]), node)
    if product.output not in ends:
        return "what it makes is on no grid, so it is multiplied in float, which is faster then"
    if not _codes_to_codes(wiring, use, product):
        return "its bias does not fit in 32 bits"
    return (product.norm.output[0],) if product.norm is not None else ()


def _fold_norm(wiring: Wiring, product: _Product, node: onnx.NodeProto) -> _Product:
    """Take in a batch norm that is the only reader: its factor scales the levels, its shift moves the bias."""
    norm = wiring.only_reader(node.output[0])
    if norm is None or norm.op_type != "BatchNormalization" or not product.weight.symmetric:
        return product
    known = [wiring.constants.get(name) for name in norm.input[1:5]]
    if any(array is None for array in known):
        return product
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in known)
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weight = product.weight
    codes = weight.codes
    if (factor < 0).any():
        if codes.dtype != np.int8 or codes.min() == -128:
            return product
        sign = np.where(factor < 0, -1, 1).astype(np.int8).reshape(-1, *[1] * (codes.ndim - 1))
        codes = codes * sign
    if (factor == 0).any():
        codes = np.where((factor == 0).reshape(-1, *[1] * (codes.ndim - 1)), np.zeros_like(codes), codes)
    scale = np.broadcast_to(weight.scale, factor.shape) * np.where(factor == 0, 1.0, np.abs(factor))
    bias = 0.0 if product.bias is None else product.bias.astype(np.float64)
    folded = replace(
        weight,
        codes=codes,
        scale=scale.astype(np.float32),
        zero=np.zeros(factor.shape, codes.dtype),
        axis=0,
    )
    stem = f"{product.codes}:{norm.output[0]}"
    name = product.codes if codes is weight.codes else stem
    return _Product(name, stem, folded, ((bias - mean) * factor + beta).astype(np.float32), norm.output[0], norm)


def _codes_to_codes(wiring: Wiring, use: Use, product: _Product) -> bool:
    bias, inputs = product.bias, []
    if bias is not None:
        weight = with_room(product.weight, bias, use.levels)
        if weight is not product.weight:
            stem = f"{product.stem}:coarse"
            product = replace(product, codes=stem, stem=stem, weight=weight)
        coded = quantized_bias(wiring, wiring.fresh(f"{use.site}:bias"), bias, weight, use.levels)
        if coded is None:
            return False
        inputs = [coded]
    weight = product.weight
    x = quantized_input(wiring, use.node.input[0], use.levels)
    parts = [wiring.constant(product.codes, weight.codes), *add_scale(wiring, product.stem, weight)]
    axis = {} if weight.axis is None else {"axis": 0}
    w = wiring.add("DequantizeLinear", parts, wiring.fresh(f"{use.site}:dequantized"), **axis)
    wiring.add("Conv", [x, w, *inputs], product.output, **attributes(use.node))
    return True
