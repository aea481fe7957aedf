"""GRU and RNN in integers: the input product for all steps at once, the recurrent one inside a ``Scan``.

ONNX Runtime has no quantized operator for them. The equations are those of the ONNX operators ``GRU`` (with
``linear_before_reset``, as torch has it; Cho et al. 2014, arXiv 1406.1078) and ``RNN``:

    z, r = sigmoid(x Wz' + bz + h Rz' + cz), the same with r
    n = tanh(x Wn' + bn + r * (h Rn' + cn))
    h = n + z * (h - n)

Both products are ``DynamicQuantizeMatMul``. Other forms were measured on ONNX Runtime 1.32 (two layers of 650 units, 32
steps, batch 1, one thread; the float operator takes 14.8 ms): this one 2.7 ms, ``MatMulNBits`` of 8 bits inside the
loop 2.6 ms, either unrolled over the steps 2.9 to 3.0 ms. ``MatMulNBits`` computes row by row, so it falls behind
as soon as there are several sequences or steps (8.1 ms with the input product in it), and unrolling needs a fixed
number of steps. The loop itself takes 7 microseconds per step: at 128 units twice the time of the float operator.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from gossamer.targets.stacked import Stacked
from gossamer.targets.wiring import MICROSOFT, Wiring, attribute

_FLOAT, _BOOL = TensorProto.FLOAT, TensorProto.BOOL


class _Way:
    """One direction of a recurrent operator."""

    def __init__(self, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked], way: int) -> None:
        self.kind = node.op_type
        self.inputs, self.recurrent = matrices
        self.way = way
        direction = attribute(node, "direction", b"forward")
        self.backward = direction == b"reverse" or way == 1
        self.hidden = self.recurrent.codes.shape[2]
        self.stem = f"{node.output[0] or node.output[1]}:{way}"
        names = attribute(node, "activations", [b"Tanh"])
        self.activation = names[way if len(names) > way else 0].decode().capitalize()
        given = [*node.input, *[""] * (6 - len(node.input))]
        self.x, self.bias, self.lengths, self.first = given[0], *given[3:6]


def lower_loop(wiring: Wiring, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked]) -> None:
    """Write the ``GRU`` or ``RNN`` ``node`` with integer products.

    Args:
        wiring: the graph being written.
        node: the operator; x is (time, batch, inputs), y (time, directions, batch, hidden).
        matrices: the input and the recurrent matrix.
    """
    ways = matrices[0].codes.shape[0]
    ends = [_one_way(wiring, _Way(node, matrices, way)) for way in range(ways)]
    outputs = [*node.output, ""]
    for name, axis, parts in ((outputs[0], 1, [y for y, _ in ends]), (outputs[1], 0, [h for _, h in ends])):
        if name:
            at = wiring.constant(f"gossamer:axis{axis}", np.array([axis], np.int64))
            apart = [wiring.add("Unsqueeze", [part, at], f"{part}:row") for part in parts]
            wiring.add("Concat", apart, name, axis=axis)


def _one_way(wiring: Wiring, way: _Way) -> tuple[str, str]:
    """Write one direction and return the names of y (time, batch, hidden) and of the last h (batch, hidden)."""
    x, stem = way.x, way.stem
    turn = way.backward and bool(way.lengths)
    if turn:
        lengths = wiring.add("Cast", [way.lengths], f"{stem}:lengths", to=TensorProto.INT64)
        x = wiring.add("ReverseSequence", [x, lengths], f"{stem}:turned", time_axis=0, batch_axis=1)
    parts = _matrix(wiring, way, way.inputs, 0)
    total = wiring.add("DynamicQuantizeMatMul", [x, *parts], f"{stem}:x", domain=MICROSOFT)
    scanned = _split(wiring, way, total) if way.kind == "GRU" else [total]
    if way.lengths:
        scanned.append(_inside(wiring, way))
    flags = [int(way.backward and not turn)]
    y, last = f"{stem}:y", f"{stem}:h"
    wiring.append(
        helper.make_node(
            "Scan",
            [_first(wiring, way), *scanned],
            [last, y],
            num_scan_inputs=len(scanned),
            scan_input_directions=flags * len(scanned),
            scan_output_directions=flags,
            body=_body(way, _matrix(wiring, way, way.recurrent, 1), scanned),
        )
    )
    if turn:
        y = wiring.add("ReverseSequence", [y, f"{stem}:lengths"], f"{stem}:back", time_axis=0, batch_axis=1)
    return y, last


def _matrix(wiring: Wiring, way: _Way, matrix: Stacked, half: int) -> list[str]:
    """Add one matrix, turned, and return the inputs of a product after the first: codes, scale, zero, bias."""
    site = matrix.sites[way.way if len(matrix.sites) > 1 else 0]
    codes, scale = matrix.codes[way.way], matrix.scale[way.way]
    parts = [
        wiring.constant(f"{site}:codes", np.ascontiguousarray(codes.T)),
        wiring.constant(f"{site}:scale", scale),
        wiring.constant(f"{site}:zero", np.full(scale.shape, matrix.zero, codes.dtype)),
    ]
    if not way.bias:
        return parts
    rows = len(scale)
    begin, end = (np.array([way.way, rows * side], np.int64) for side in (half, half + 1))
    end[0] += 1
    both = wiring.constant("gossamer:axes01", np.array([0, 1], np.int64))
    ends = [wiring.constant(f"gossamer:at{'x'.join(map(str, place))}", place) for place in (begin, end)]
    piece = wiring.add("Slice", [way.bias, *ends, both], f"{way.stem}:bias{half}")
    flat = wiring.constant("gossamer:last", np.array([-1], np.int64))
    return [*parts, wiring.add("Reshape", [piece, flat], f"{way.stem}:bias{half}:flat")]


def _split(wiring: Wiring, way: _Way, total: str) -> list[str]:
    """Take gates z and r of the input product apart from n."""
    sizes = wiring.constant(f"gossamer:gates{way.hidden}", np.array([2 * way.hidden, way.hidden], np.int64))
    names = [f"{total}:zr", f"{total}:n"]
    wiring.append(helper.make_node("Split", [total, sizes], names, axis=-1))
    wiring.constant(f"gossamer:halves{way.hidden}", np.array([way.hidden, way.hidden], np.int64))
    return names


def _first(wiring: Wiring, way: _Way) -> str:
    """Return the hidden state before the first step: (batch, hidden)."""
    if way.first:
        index = wiring.constant(f"gossamer:way{way.way}", np.array(way.way, np.int64))
        return wiring.add("Gather", [way.first, index], f"{way.stem}:first", axis=0)
    batch = wiring.add("Shape", [way.x], f"{way.stem}:batch", start=1, end=2)
    hidden = wiring.constant(f"gossamer:hidden{way.hidden}", np.array([way.hidden], np.int64))
    shape = wiring.add("Concat", [batch, hidden], f"{way.stem}:shape", axis=0)
    nothing = helper.make_tensor("value", _FLOAT, [1], [0.0])
    return wiring.add("ConstantOfShape", [shape], f"{way.stem}:first", value=nothing)


def _inside(wiring: Wiring, way: _Way) -> str:
    """Return which steps lie inside each sequence: bool (time, batch, 1)."""
    stem = f"{way.stem}:inside"
    steps = wiring.add("Shape", [way.x], f"{stem}:steps", start=0, end=1)
    zero, one = (wiring.constant(f"gossamer:{n}", np.array(n, np.int64)) for n in (0, 1))
    scalar = wiring.add("Squeeze", [steps], f"{stem}:count")
    counted = wiring.add("Range", [zero, scalar, one], f"{stem}:range")
    tall = wiring.constant("gossamer:tall", np.array([-1, 1], np.int64))
    column = wiring.add("Reshape", [counted, tall], f"{stem}:column")
    lengths = wiring.add("Cast", [way.lengths], f"{stem}:lengths", to=TensorProto.INT64)
    within = wiring.add("Less", [column, lengths], f"{stem}:less")
    last = wiring.constant("gossamer:last", np.array([-1], np.int64))
    return wiring.add("Unsqueeze", [within, last], stem)


def _body(way: _Way, matrix: list[str], scanned: list[str]) -> onnx.GraphProto:
    """Return one step: h and the slices of what is scanned go in, the next h and y of the step come out."""
    stem, hidden = f"{way.stem}:step", way.hidden
    h, after = f"{stem}:h", f"{stem}:next"
    slices = [f"{stem}:{index}" for index in range(len(scanned))]
    product = [h, *matrix]
    nodes = [helper.make_node("DynamicQuantizeMatMul", product, [f"{stem}:total"], domain=MICROSOFT)]
    nodes += _gru(stem, hidden, slices, after) if way.kind == "GRU" else _rnn(stem, way.activation, slices, after)
    y = f"{stem}:y"
    if way.lengths:
        nodes[-1].output[0] = f"{stem}:new"
        nodes.append(helper.make_node("Where", [slices[-1], f"{stem}:new", h], [after]))
        nodes.append(helper.make_node("Where", [slices[-1], after, f"{stem}:none"], [y]))
        nothing = helper.make_tensor("value", _FLOAT, [], [0.0])
        nodes.insert(0, helper.make_node("Constant", [], [f"{stem}:none"], value=nothing))
    else:
        nodes.append(helper.make_node("Identity", [after], [y]))
    widths = [2 * hidden, hidden] if way.kind == "GRU" else [hidden]
    infos = [helper.make_tensor_value_info(name, _FLOAT, None) for name in (h, *slices[: len(widths)])]
    infos += [helper.make_tensor_value_info(name, _BOOL, None) for name in slices[len(widths) :]]
    outputs = [helper.make_tensor_value_info(name, _FLOAT, None) for name in (after, y)]
    return helper.make_graph(nodes, "step", infos, outputs)


def _gru(stem: str, hidden: int, slices: list[str], after: str) -> list[onnx.NodeProto]:
    def name(short: str) -> str:
        return f"{stem}:{short}"

    gates, halves = f"gossamer:gates{hidden}", f"gossamer:halves{hidden}"
    return [
        helper.make_node("Split", [name("total"), gates], [name("hzr"), name("hn")], axis=-1),
        helper.make_node("Add", [slices[0], name("hzr")], [name("zr")]),
        helper.make_node("Sigmoid", [name("zr")], [name("open")]),
        helper.make_node("Split", [name("open"), halves], [name("z"), name("r")], axis=-1),
        helper.make_node("Mul", [name("r"), name("hn")], [name("reset")]),
        helper.make_node("Add", [slices[1], name("reset")], [name("sum")]),
        helper.make_node("Tanh", [name("sum")], [name("n")]),
        helper.make_node("Sub", [name("h"), name("n")], [name("gap")]),
        helper.make_node("Mul", [name("z"), name("gap")], [name("part")]),
        helper.make_node("Add", [name("n"), name("part")], [after]),
    ]


def _rnn(stem: str, activation: str, slices: list[str], after: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", [slices[0], f"{stem}:total"], [f"{stem}:sum"]),
        helper.make_node(activation, [f"{stem}:sum"], [after]),
    ]
