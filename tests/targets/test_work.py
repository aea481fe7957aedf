"""Multiply-accumulates and bytes of a graph, by hand."""

import numpy as np
from graphs.build import graph, grid, levels, node

from gossamer.codings import Dense
from gossamer.targets import count_work, fill, total_macs


def zeros(*shape):
    return np.zeros(shape, np.float32)


def by_op(works):
    return {work.op: work for work in works}


def test_a_convolution_and_a_linear_layer():
    proto = graph(
        [
            node("Conv", "x k b", "c", group=2),
            node("Reshape", "c s", "f"),
            node("Gemm", "f w", "y", transB=1),
        ],
        {"x": ("n", 4, 5, 5)},
        ("y",),
        {"k": zeros(6, 2, 3, 3), "b": zeros(6), "s": np.array([-1, 54]), "w": zeros(7, 54)},
    )
    found = by_op(count_work(proto, [zeros(2, 4, 5, 5)]))
    assert found["Conv"].macs == 2 * 6 * 3 * 3 * (2 * 3 * 3)
    assert found["Conv"].weight_bytes == 4 * (6 * 2 * 9 + 6)
    assert found["Conv"].activation_bytes == 4 * (2 * 4 * 25 + 2 * 6 * 9)
    assert found["Reshape"].activation_bytes == 0
    assert found["Gemm"].macs == 2 * 54 * 7
    assert found["Gemm"].bits == 32


def test_a_transposed_convolution_multiplies_every_input_with_every_tap():
    proto = graph([node("ConvTranspose", "x k", "y", strides=[2])], {"x": (1, 3, 4)}, ("y",), {"k": zeros(3, 5, 2)})
    assert total_macs(count_work(proto, [zeros(1, 3, 4)])) == 3 * 4 * 5 * 2


def test_a_recurrent_layer_multiplies_both_matrices_at_every_step():
    proto = graph(
        [node("LSTM", "x w r", "y", hidden_size=5, direction="bidirectional")],
        {"x": ("t", "n", 3)},
        ("y",),
        {"w": zeros(2, 20, 3), "r": zeros(2, 20, 5)},
    )
    assert total_macs(count_work(proto, [zeros(7, 2, 3)])) == 7 * 2 * 2 * (20 * 3 + 20 * 5)


def test_a_batched_product_counts_the_inner_length():
    proto = graph([node("MatMul", "a b", "y")], {"a": (2, 3, 4), "b": (2, 4, 5)}, ("y",))
    assert total_macs(count_work(proto, [zeros(2, 3, 4), zeros(2, 4, 5)])) == 2 * 3 * 4 * 5


def test_integer_products_are_8_bits_wide_and_read_a_byte_per_weight():
    rng = np.random.default_rng(0)
    proto = graph([node("Gemm", "x w b", "y", transB=1)], {"x": ("n", 6)}, ("y",))
    tensors = {"w": levels(rng, (4, 6)), "b": Dense(zeros(4))}
    lowered = fill(proto, tensors, {"w": grid(0.1, 0)}, quantized=True).proto
    gemm = by_op(count_work(lowered, [zeros(1, 6)]))["Gemm"]
    assert (gemm.bits, gemm.macs, gemm.weight_bytes) == (8, 24, 24 + 4 * 4)


def test_products_of_codes_that_a_clip_follows_are_counted():
    rng = np.random.default_rng(0)
    proto = graph([node("Gemm", "x w b", "c", transB=1), node("Relu", "c", "y")], {"x": ("n", 6)}, ("y",))
    tensors = {"w": levels(rng, (4, 6)), "b": Dense(zeros(4))}
    lowered = fill(proto, tensors, {"w": grid(0.1, 0)}, quantized=True).proto
    product = by_op(count_work(lowered, [zeros(1, 6)]))["MatMulInteger"]
    assert (product.bits, product.macs) == (8, 24)


def test_what_has_no_rule_is_listed_not_guessed():
    proto = graph([node("Einsum", "a b", "y", equation="ij,jk->ik")], {"a": (2, 3), "b": (3, 4)}, ("y",))
    works = count_work(proto, [zeros(2, 3), zeros(3, 4)])
    assert works[0].macs is None
    assert total_macs(works) == 0
