"""One index rule per operator: which positions of its output come from which positions of its inputs.

A rule gets a :class:`Call` and returns its outputs as :class:`Tagged` tensors, or None where it does not know. To
teach the analysis an operator, add a line to :data:`RULES`. An operator without a rule freezes what it reads and is
named with its source line.
"""

from collections.abc import Callable

from gossamer.model.coupling import channels, moves, products, recurrent
from gossamer.model.coupling.call import Call
from gossamer.model.coupling.labels import Tagged

Rule = Callable[[Call], "Tagged | list[Tagged] | None"]


def _for(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys((f"aten.{name}" for name in names), rule)


RULES: dict[str, Rule] = {
    **_for(products.linear, "linear"),
    **_for(products.matmul, "matmul", "mm", "bmm", "mv", "dot"),
    **_for(products.addmm, "addmm", "baddbmm", "addmv"),
    **_for(products.einsum, "einsum"),
    **_for(products.convolution, "conv1d", "conv2d", "conv3d"),
    **_for(products.transposed, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    **_for(channels.norm_over_batch, "batch_norm", "instance_norm"),
    **_for(channels.group_norm, "group_norm"),
    **_for(channels.layer_norm, "layer_norm", "rms_norm"),
    **_for(channels.pool, "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    **_for(channels.pool, "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    **_for(channels.pool, "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    **_for(channels.pool, "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d_with_indices"),
    **_for(channels.resize, "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    **_for(channels.resize, "upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d"),
    **_for(
        channels.reduce, "mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod"
    ),
    **_for(channels.mix, "softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum"),
    **_for(moves.view, "view", "reshape", "unflatten", "_unsafe_view"),
    **_for(moves.flatten, "flatten", "squeeze", "unsqueeze"),
    **_for(moves.permute, "permute", "transpose", "t", "numpy_T"),
    **_for(moves.cat, "cat", "concat", "concatenate"),
    **_for(moves.stack, "stack"),
    **_for(moves.split, "split", "split_with_sizes", "chunk", "tensor_split"),
    **_for(moves.part_of, "slice", "narrow"),
    **_for(moves.select, "select"),
    **_for(moves.unbind, "unbind"),
    **_for(moves.expand, "expand", "expand_as"),
    **_for(moves.repeat, "repeat", "tile"),
    **_for(moves.pad, "pad", "constant_pad_nd"),
    **_for(products.embedding, "embedding"),
    **_for(products.attention, "scaled_dot_product_attention"),
    **_for(recurrent.cell, "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    **_for(moves.filled, "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
    **_for(moves.filled_like, "zeros_like", "ones_like", "full_like", "empty_like"),
    **_for(moves.fixed, "arange", "scalar_tensor", "rand", "randn", "tril_indices"),
    **_for(moves.indexed, "index"),
    **_for(moves.index_select, "index_select"),
    **_for(moves.gather, "gather"),
    **_for(moves.shuffle, "pixel_shuffle"),
    **_for(moves.unshuffle, "pixel_unshuffle"),
    **_for(channels.glu, "glu"),
    **_for(channels.prelu, "prelu"),
    **_for(
        channels.unchanged,
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "contiguous",
        "clone",
        "to",
        "_to_copy",
        "alias",
    ),
    **_for(channels.unchanged, "detach", "lift_fresh_copy", "type_as", "native_dropout", "float", "rrelu"),
    **_for(
        channels.pointwise,
        "hardswish",
        "log_sigmoid",
        "rsub",
        "multiply",
        "divide",
        "subtract",
        "negative",
        "absolute",
        "fix",
    ),
    "gossamer.recurrent": recurrent.recurrent,
}
POINTWISE: Rule = channels.pointwise
"""For operators that PyTorch marks as working position by position, and those in :data:`RULES` that it forgot to."""
