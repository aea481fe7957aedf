"""Multiply-accumulates of one operator call, by a rule per operator of ATen.

One rule counts what the arithmetic of the operator's definition needs, whatever the kernel does. Additions of biases,
normalisation and activation functions are no multiply-accumulates and count 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its arguments in order, tensors given as their shapes, and the shape of its first output."""

    args: tuple[Any, ...]
    out: Shape

    def shape(self, position: int) -> Shape:
        """Return the shape of the tensor at ``position``."""
        found: Shape = self.args[position]
        return found


def _inner(left: int) -> Callable[[Call], int]:
    """Return the rule of a matrix product whose left factor is at position ``left``."""

    def rule(call: Call) -> int:
        return prod(call.out) * call.shape(left)[-1]

    return rule


def _convolution(call: Call) -> int:
    """Each output needs the whole window of its group: weight (out, in / groups, *kernel)."""
    return prod(call.out) * prod(call.shape(1)[1:])


def _transposed(call: Call) -> int:
    """Each input meets the whole window of its group: weight (in, out / groups, *kernel)."""
    return prod(call.shape(0)) * prod(call.shape(1)[1:])


def _general_convolution(call: Call) -> int:
    return _transposed(call) if call.args[6] else _convolution(call)


def _attention(call: Call) -> int:
    """Queries times keys, then weights times values."""
    query, key, value = call.shape(0), call.shape(1), call.shape(2)
    return prod(query[:-1]) * key[-2] * (key[-1] + value[-1])


def _recurrent(call: Call) -> int:
    """Each step of each sequence uses every matrix of every layer and direction once."""
    weights: list[Shape] = [arg for arg in call.args if isinstance(arg, list)][-1]
    return prod(call.shape(0)[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _cell(call: Call) -> int:
    return prod(call.shape(0)[:-1]) * (prod(call.shape(2)) + prod(call.shape(3)))


def _einsum(call: Call) -> int | None:
    """Two factors: the product of the sizes of all distinct indices; more factors depend on the order of products."""
    equation, factors = call.args[0].replace(" ", ""), call.args[1]
    names = equation.split("->")[0].split(",")
    if len(factors) > 2 or "." in equation:
        return None
    sizes = {
        name: size for term, shape in zip(names, factors, strict=True) for name, size in zip(term, shape, strict=True)
    }
    return prod(sizes.values()) if len(factors) == 2 else 0


def _bilinear(call: Call) -> int:
    """Compute x1ᵀ W x2 for weight (out, in1, in2), the product with the second input taken first."""
    rows, (outputs, first, second) = prod(call.shape(0)[:-1]), call.shape(2)
    return rows * outputs * (first * second + second)


def _none(_: Call) -> int:
    return 0


RULES: dict[str, Callable[[Call], int | None]] = {
    "aten.linear": _inner(0),
    "aten.mm": _inner(0),
    "aten.bmm": _inner(0),
    "aten.matmul": _inner(0),
    "aten.mv": _inner(0),
    "aten.dot": lambda call: prod(call.shape(0)),
    "aten.addmm": _inner(1),
    "aten.addmv": _inner(1),
    "aten.baddbmm": _inner(1),
    "aten.einsum": _einsum,
    "aten.bilinear": _bilinear,
    "aten.conv1d": _convolution,
    "aten.conv2d": _convolution,
    "aten.conv3d": _convolution,
    "aten.conv_transpose1d": _transposed,
    "aten.conv_transpose2d": _transposed,
    "aten.conv_transpose3d": _transposed,
    "aten.convolution": _general_convolution,
    "aten.scaled_dot_product_attention": _attention,
    "aten.lstm_cell": lambda call: _cell(Call((call.args[0], None, *call.args[2:]), call.out)),
    "aten.gru_cell": _cell,
    "aten.rnn_tanh_cell": _cell,
    "aten.rnn_relu_cell": _cell,
    "gossamer.recurrent": _recurrent,
    "aten.lstm": _recurrent,
    "aten.gru": _recurrent,
    "aten.rnn_tanh": _recurrent,
    "aten.rnn_relu": _recurrent,
    "aten.embedding": _none,
    "aten.embedding_bag": _none,
    "aten._embedding_bag": _none,
    "aten.batch_norm": _none,
    "aten.instance_norm": _none,
    "aten.group_norm": _none,
    "aten.layer_norm": _none,
    "aten.rms_norm": _none,
    "aten.prelu": _none,
    "aten.cat": _none,
    "aten.stack": _none,
}


def macs_of(operator: str, call: Call) -> int | None:
    """Return the multiply-accumulates of a call of ``operator``, or None if there is no rule for it."""
    rule = RULES.get(operator)
    return None if rule is None else rule(call)
