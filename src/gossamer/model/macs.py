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
    if len(factors) > 2:
        return None
    sizes: dict[str | int, int] = {}
    for term, shape in zip(equation.split("->")[0].split(","), factors, strict=True):
        before, dots, after = term.partition("...")
        spread = range(len(before) + len(after) - len(shape), 0) if dots else ()  # counted from the last
        for name, size in zip((*before, *spread, *after), shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return prod(sizes.values()) if len(factors) == 2 else 0


def _tensordot(call: Call) -> int:
    """Each element of the first factor meets the dimensions of the second that are not summed over."""
    summed = {axis % len(call.shape(1)) for axis in call.args[3]}
    return prod(call.shape(0)) * prod(size for axis, size in enumerate(call.shape(1)) if axis not in summed)


def _bilinear(call: Call) -> int:
    """Compute x1ᵀ W x2 for weight (out, in1, in2), the product with the second input taken first."""
    rows, (outputs, first, second) = prod(call.shape(0)[:-1]), call.shape(2)
    return rows * outputs * (first * second + first)


RULES: dict[str, Callable[[Call], int | None]] = {
    "aten.linear": _inner(0),
    "aten.mm": _inner(0),
    "aten.bmm": _inner(0),
    "aten.matmul": _inner(0),
    "aten.mv": _inner(0),
    "aten.dot": lambda call: prod(call.shape(0)),
    "aten.vdot": lambda call: prod(call.shape(0)),
    "aten.linalg_vecdot": lambda call: max(prod(call.shape(0)), prod(call.shape(1))),
    "aten.inner": _inner(0),
    "aten.outer": lambda call: prod(call.out),
    "aten.ger": lambda call: prod(call.out),
    "aten.addr": lambda call: prod(call.out),
    "aten.kron": lambda call: prod(call.out),
    "aten.tensordot": _tensordot,
    "aten.addbmm": lambda call: prod(call.shape(1)) * call.shape(2)[-1],
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
}

NOTHING = frozenset(
    """
    embedding embedding_bag _embedding_bag batch_norm instance_norm group_norm layer_norm rms_norm _native_batch_norm
    native_layer_norm native_group_norm local_response_norm linalg_vector_norm norm cosine_similarity prelu glu softmax
    log_softmax _softmax _log_softmax logsumexp cumsum cumprod cummax cummin logcumsumexp sort argsort topk kthvalue
    median mode unique bincount count_nonzero nonzero diff renorm dropout alpha_dropout feature_dropout bernoulli
    multinomial
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d fractional_max_pool2d max_unpool2d max_unpool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d cat concat stack hstack vstack dstack pad constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d flip roll rot90 repeat repeat_interleave tile
    index index_put index_select index_add index_copy index_fill gather scatter scatter_add scatter_reduce take
    take_along_dim masked_select masked_scatter select_scatter slice_scatter tril triu diag diag_embed tril_indices
    triu_indices one_hot searchsorted bucketize pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold
    unfold_copy flatten reshape contiguous _to_copy lift_fresh lift_fresh_copy item _local_scalar_dense sym_size
    zeros ones full empty arange zeros_like ones_like full_like empty_like rand randn scalar_tensor type_as
    hardswish log_sigmoid multiply divide subtract rsub negative absolute
    new_ones new_zeros new_full new_empty cartesian_prod combinations meshgrid broadcast_tensors
    _assert_async _assert_tensor_metadata sym_constrain_range_for_size _pack_padded_sequence _pad_packed_sequence
    """.split()  # noqa: SIM905  # a list would be a page long
)
"""Operators of ATen that multiply no weights: they move, choose, compare, add up, normalise or draw."""


def macs_of(operator: str, call: Call) -> int | None:
    """Return the multiply-accumulates of a call of ``operator``, or None if there is no rule for it."""
    if operator.removeprefix("aten.").removesuffix("_") in NOTHING:
        return 0
    rule = RULES.get(operator)
    return None if rule is None else rule(call)
