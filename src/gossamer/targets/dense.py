"""Linear layers in integers: ``Gemm`` and ``MatMul`` between quantised inputs and weights."""

from dataclasses import replace

from gossamer.targets.levels import Weight
from gossamer.targets.quantized import Use, add_scale, quantized_bias, quantized_input
from gossamer.targets.wiring import Wiring, attribute


def lower_product(wiring: Wiring, use: Use, *, turned: bool) -> str | None:
    """Write a ``Gemm`` or ``MatMul`` for an integer operator; return why not if it cannot be.

    Args:
        wiring: the graph being written.
        use: the node and its weight.
        turned: whether the node reads the weight transposed.
    """
    node, weight = use.node, use.weight
    if weight.codes.ndim != 2:
        return f"it has {weight.codes.ndim} dimensions, wanted a matrix"
    across = 0 if turned or attribute(node, "transB", 0) else 1
    if weight.axis not in (None, across):
        return "its scales vary along the inputs that are summed over"
    if weight.axis is not None and not weight.symmetric:
        return "its zero varies along an axis"
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(
            node, "transA", 0
        )
        if not plain or turned:
            return "it enters a scaled Gemm"
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


def _matmul(wiring: Wiring, use: Use, *, turned: bool) -> None:
    node, site, weight = use.node, use.site, use.weight
    x = quantized_input(wiring, node.input[0], use.levels)
    codes = None
    if turned:
        codes = f"{site}:turned_codes"
        if not wiring.made(codes):
            wiring.add("Transpose", [wiring.constant(site, weight.codes)], codes, perm=[1, 0])
        weight = replace(weight, axis=None if weight.axis is None else 1)
    wiring.add("MatMul", [x, _dequantized(wiring, site, weight, codes)], node.output[0])


def _dequantized(wiring: Wiring, site: str, weight: Weight, codes: str | None = None) -> str:
    parts = [codes or wiring.constant(site, weight.codes), *add_scale(wiring, site, weight)]
    axis = {} if weight.axis is None else {"axis": weight.axis}
    return wiring.add("DequantizeLinear", parts, wiring.fresh(f"{site}:dequantized"), **axis)
