"""Recurrent layers in integers as loops: the input product for all steps at once, the recurrent one inside a ``Scan``.

The equations are those of the ONNX operators ``GRU`` (with ``linear_before_reset``, as torch has it; Cho et al. 2014,
arXiv 1406.1078), ``LSTM`` (Hochreiter and Schmidhuber 1997, with forget gates and without peepholes) and ``RNN``:

    z, r = sigmoid(x Wz' + bz + h Rz' + cz), the same with r
    n = tanh(x Wn' + bn + r * (h Rn' + cn))
    h = n + z * (h - n)

    i, o, f = sigmoid(x Wi' + bi + h Ri' + ci), the same with o and f
    c = f * c + i * tanh(x Wc' + bc + h Rc' + cc)
    h = o * tanh(c)

How a product is written, `dynamic_loop` and `static_loop` say.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper

from gossamer.targets.cells import cell_body, split_sizes
from gossamer.targets.levels import Levels
from gossamer.targets.quantized import rounding
from gossamer.targets.stacked import Stacked
from gossamer.targets.wiring import Wiring, attribute


class Way:
    """One direction of a recurrent operator.

    Attributes:
        wiring: the graph being written.
        kind: the operator.
        matrices: the input and the recurrent matrix.
        number: of the direction.
        backward: whether it begins with the last step.
        hidden: how many units there are.
        stem: what its values are called after.
        activation: of an RNN.
        x, bias, lengths, first, cell: names of what the operator reads, empty where it reads none.
    """

    def __init__(self, wiring: Wiring, node: onnx.NodeProto, matrices: tuple[Stacked, Stacked], number: int) -> None:
        self.wiring = wiring
        self.kind = node.op_type
        self.matrices = matrices
        self.number = number
        direction = attribute(node, "direction", b"forward")
        self.backward = direction == b"reverse" or number == 1
        self.hidden = matrices[1].codes.shape[2]
        self.stem = f"{next(name for name in node.output if name)}:{number}"
        names = attribute(node, "activations", [b"Tanh"])
        self.activation = names[number if len(names) > number else 0].decode().capitalize()
        given = [*node.input, *[""] * (7 - len(node.input))]
        self.x, self.bias, self.lengths, self.first, self.cell = given[0], *given[3:7]

    def site(self, half: int) -> str:
        """Return the weight of the input (0) or recurrent (1) matrix."""
        sites = self.matrices[half].sites
        return sites[self.number if len(sites) > 1 else 0]

    def matrix(self, half: int) -> list[str]:
        """Add one matrix, turned, and return the names of codes, scale, zero and, if there is one, bias."""
        wiring, matrix, site = self.wiring, self.matrices[half], self.site(half)
        codes, scale = matrix.codes[self.number], matrix.scale[self.number]
        parts = [
            wiring.constant(f"{site}:codes", np.ascontiguousarray(codes.T)),
            wiring.constant(f"{site}:scale", scale),
            wiring.constant(f"{site}:zero", np.full(scale.shape, matrix.zero, codes.dtype)),
        ]
        if not self.bias:
            return parts
        rows = len(scale)
        begin, end = (np.array([self.number, rows * side], np.int64) for side in (half, half + 1))
        end[0] += 1
        both = wiring.constant("gossamer:axes01", np.array([0, 1], np.int64))
        ends = [wiring.constant(f"gossamer:at{'x'.join(map(str, place))}", place) for place in (begin, end)]
        piece = wiring.add("Slice", [self.bias, *ends, both], f"{self.stem}:bias{half}")
        flat = wiring.constant("gossamer:last", np.array([-1], np.int64))
        return [*parts, wiring.add("Reshape", [piece, flat], f"{self.stem}:bias{half}:flat")]


Product = Callable[[Way, int, str, str], list[onnx.NodeProto]]
"""Returns nodes that multiply: (direction, 0 for the input matrix or 1 for the recurrent one, factor, result)."""


def lower_loop(
    wiring: Wiring,
    node: onnx.NodeProto,
    matrices: tuple[Stacked, Stacked],
    products: Callable[[Way], Product],
    cells: Mapping[str, Levels] = MappingProxyType({}),
) -> None:
    """Write the ``GRU``, ``LSTM`` or ``RNN`` ``node`` with integer products.

    Args:
        wiring: the graph being written.
        node: the operator; x is (time, batch, inputs), y (time, directions, batch, hidden).
        matrices: the input and the recurrent matrix.
        products: gives each direction its product.
        cells: levels of the cell state beside a recurrent matrix, by the name of that.
    """
    ways = [Way(wiring, node, matrices, number) for number in range(matrices[0].codes.shape[0])]
    ends = [_one_way(wiring, way, products(way), cells.get(way.site(1))) for way in ways]
    for index, name in enumerate(node.output):
        if name:
            axis = 1 if index == 0 else 0
            at = wiring.constant(f"gossamer:axis{axis}", np.array([axis], np.int64))
            apart = [wiring.add("Unsqueeze", [end[index], at], f"{end[index]}:row") for end in ends]
            wiring.add("Concat", apart, name, axis=axis)


def _one_way(wiring: Wiring, way: Way, product: Product, cell: Levels | None) -> list[str]:
    """Write one direction and return the names of y (time, batch, hidden) and of the last states, (batch, hidden)."""
    x, stem = way.x, way.stem
    turn = way.backward and bool(way.lengths)
    if turn:
        lengths = wiring.add("Cast", [way.lengths], f"{stem}:lengths", to=TensorProto.INT64)
        x = wiring.add("ReverseSequence", [x, lengths], f"{stem}:turned", time_axis=0, batch_axis=1)
    total = f"{stem}:x"
    for part in product(way, 0, x, total):
        wiring.append(part)
    for name, sizes in split_sizes(way.kind, way.hidden).items():
        wiring.constant(name, np.array(sizes, np.int64))
    scanned = _split(wiring, way, total) if way.kind == "GRU" else [total]
    if way.lengths:
        scanned.append(_inside(wiring, way))
    flags = [int(way.backward and not turn)]
    y, lasts = f"{stem}:y", [f"{stem}:h", f"{stem}:c"][: 2 if way.kind == "LSTM" else 1]
    firsts = [_first(wiring, way, given, last) for given, last in zip((way.first, way.cell), lasts, strict=False)]
    multiplied = product(way, 1, f"{stem}:step:h", f"{stem}:step:total")
    rounded = None if cell is None else partial(rounding, wiring, levels=cell)
    if rounded is not None:
        for part in rounded(firsts[1], f"{firsts[1]}:on"):
            wiring.append(part)
        firsts[1] += ":on"
    wiring.append(
        helper.make_node(
            "Scan",
            [*firsts, *scanned],
            [*lasts, y],
            num_scan_inputs=len(scanned),
            scan_input_directions=flags * len(scanned),
            scan_output_directions=flags,
            body=cell_body(
                way.kind,
                f"{stem}:step",
                multiplied,
                way.hidden,
                way.activation,
                ragged=bool(way.lengths),
                rounded=rounded,
            ),
        )
    )
    if turn:
        y = wiring.add("ReverseSequence", [y, f"{stem}:lengths"], f"{stem}:back", time_axis=0, batch_axis=1)
    return [y, *lasts]


def _split(wiring: Wiring, way: Way, total: str) -> list[str]:
    """Take gates z and r of the input product apart from n."""
    names = [f"{total}:zr", f"{total}:n"]
    wiring.append(helper.make_node("Split", [total, f"gossamer:gates{way.hidden}"], names, axis=-1))
    return names


def _first(wiring: Wiring, way: Way, given: str, last: str) -> str:
    """Return the state before the first step, (batch, hidden), of the one that ends as ``last``."""
    if given:
        index = wiring.constant(f"gossamer:way{way.number}", np.array(way.number, np.int64))
        return wiring.add("Gather", [given, index], f"{last}:first", axis=0)
    batch = wiring.add("Shape", [way.x], f"{last}:batch", start=1, end=2)
    hidden = wiring.constant(f"gossamer:hidden{way.hidden}", np.array([way.hidden], np.int64))
    shape = wiring.add("Concat", [batch, hidden], f"{last}:shape", axis=0)
    nothing = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    return wiring.add("ConstantOfShape", [shape], f"{last}:first", value=nothing)


def _inside(wiring: Wiring, way: Way) -> str:
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
