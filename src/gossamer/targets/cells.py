"""One step of a recurrent layer, the body of a ``Scan``: states and slices of what is scanned in, the next states out.

The recurrent product is given; the rest is the arithmetic of the equations in `loop`, in floating point.
"""

from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper

_FLOAT, _BOOL = TensorProto.FLOAT, TensorProto.BOOL


def split_sizes(kind: str, hidden: int) -> Mapping[str, list[int]]:
    """Return the constants by which a step of ``hidden`` units takes gates apart, by name."""
    if kind == "GRU":
        return {f"gossamer:gates{hidden}": [2 * hidden, hidden], f"gossamer:halves{hidden}": [hidden, hidden]}
    if kind == "LSTM":
        return {f"gossamer:cells{hidden}": [3 * hidden, hidden], f"gossamer:thirds{hidden}": [hidden] * 3}
    return {}


def cell_body(
    kind: str,
    stem: str,
    product: list[onnx.NodeProto],
    hidden: int,
    activation: str,
    *,
    ragged: bool,
    rounded: Callable[[str, str], list[onnx.NodeProto]] | None = None,
) -> onnx.GraphProto:
    """Return one step.

    Args:
        kind: GRU, LSTM or RNN.
        stem: what its values are called after: ``STEM:h`` and ``STEM:c`` for states, ``STEM:0`` and on for slices.
        product: nodes that make ``STEM:total`` of ``STEM:h``.
        hidden: how many units there are.
        activation: operator that an RNN bends with.
        ragged: whether the last slice says which sequences have the step; others keep their states, and their y is 0.
        rounded: returns nodes that make, of the first of two names, the second: the cell state of an LSTM on its grid.
    """
    states = [f"{stem}:h", f"{stem}:c"][: 2 if kind == "LSTM" else 1]
    afters = [f"{state}:next" for state in states]
    slices = [f"{stem}:{index}" for index in range(2 if kind == "GRU" else 1)]
    inside, y = f"{stem}:inside", f"{stem}:y"
    news = [f"{state}:new" for state in states] if ragged else afters
    match kind:
        case "GRU":
            cell = _gru(stem, hidden, slices, news[0])
        case "LSTM":
            cell = _lstm(stem, hidden, slices[0], news, rounded)
        case _:
            cell = _rnn(stem, activation, slices[0], news[0])
    nodes = [*product, *cell]
    infos = [helper.make_tensor_value_info(name, _FLOAT, None) for name in (*states, *slices)]
    if ragged:
        nothing = helper.make_tensor("value", _FLOAT, [], [0.0])
        nodes.insert(0, helper.make_node("Constant", [], [f"{stem}:none"], value=nothing))
        kept = zip(news, states, afters, strict=True)
        nodes += [helper.make_node("Where", [inside, new, old], [after]) for new, old, after in kept]
        nodes.append(helper.make_node("Where", [inside, afters[0], f"{stem}:none"], [y]))
        infos.append(helper.make_tensor_value_info(inside, _BOOL, None))
    else:
        nodes.append(helper.make_node("Identity", [afters[0]], [y]))
    outputs = [helper.make_tensor_value_info(name, _FLOAT, None) for name in (*afters, y)]
    return helper.make_graph(nodes, "step", infos, outputs)


def _gru(stem: str, hidden: int, slices: list[str], after: str) -> list[onnx.NodeProto]:
    def name(short: str) -> str:
        return f"{stem}:{short}"

    gates, halves = split_sizes("GRU", hidden)
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


def _lstm(
    stem: str,
    hidden: int,
    slice_: str,
    afters: list[str],
    rounded: Callable[[str, str], list[onnx.NodeProto]] | None,
) -> list[onnx.NodeProto]:
    def name(short: str) -> str:
        return f"{stem}:{short}"

    cells, thirds = split_sizes("LSTM", hidden)
    made = afters[1] if rounded is None else name("c:made")
    return [
        helper.make_node("Add", [slice_, name("total")], [name("sum")]),
        helper.make_node("Split", [name("sum"), cells], [name("iof"), name("g")], axis=-1),
        helper.make_node("Sigmoid", [name("iof")], [name("open")]),
        helper.make_node("Split", [name("open"), thirds], [name("i"), name("o"), name("f")], axis=-1),
        helper.make_node("Tanh", [name("g")], [name("new")]),
        helper.make_node("Mul", [name("f"), name("c")], [name("kept")]),
        helper.make_node("Mul", [name("i"), name("new")], [name("taken")]),
        helper.make_node("Add", [name("kept"), name("taken")], [made]),
        *([] if rounded is None else rounded(made, afters[1])),
        helper.make_node("Tanh", [afters[1]], [name("bent")]),
        helper.make_node("Mul", [name("o"), name("bent")], [afters[0]]),
    ]


def _rnn(stem: str, activation: str, slice_: str, after: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", [slice_, f"{stem}:total"], [f"{stem}:sum"]),
        helper.make_node(activation, [f"{stem}:sum"], [after]),
    ]
