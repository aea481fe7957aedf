"""Coded weights become integer operators, and the numbers are those of the grids."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from graphs.build import graph, grid, levels, node, snap

from gossamer.codings import Affine, Codebook, Dense, Hash, Reshape, Sparse, decode
from gossamer.targets import fill, not_integer, open_session, operators_of, run_session
from gossamer.targets.optimized import optimized_graph
from gossamer.targets.session import open_prepared


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def run(proto, x):
    return next(iter(run_session(open_session(proto), [x]).values()))


def test_a_gemm_runs_in_integers_and_equals_the_grids_by_hand(rng):
    weight, bias = levels(rng, (5, 6)), rng.normal(size=5).astype(np.float32)
    proto = graph([node("Gemm", "x fc.weight fc.bias", "y", transB=1)], {"x": ("batch", 6)}, ("y",))
    input_grid = grid(0.02, 130)
    lowered = fill(proto, {"fc.weight": weight, "fc.bias": Dense(bias)}, {"fc.weight": input_grid}, quantized=True)
    assert lowered.integer == ("fc.weight",)
    assert not lowered.reasons
    assert operators_of(lowered.proto, ["fc.weight"]) == {"fc.weight": "QGemm"}
    x = rng.normal(size=(4, 6)).astype(np.float32)
    wanted = snap(x, input_grid) @ decode(weight).T.astype(np.float64) + bias
    half_step = 0.5 * 0.02 * decode(weight.scale).max()
    np.testing.assert_allclose(run(lowered.proto, x), wanted, atol=half_step + 1e-5, rtol=0)


@pytest.mark.parametrize("empty", [1, 5])
@pytest.mark.parametrize("after", [None, "Relu"])
def test_rows_of_zeros_keep_their_bias(rng, empty, after):
    """A method gives such a row a scale of its own, which must not decide how its bias is rounded."""
    weight = levels(rng, (5, 6))
    codes, scale = weight.codes.array.copy(), weight.scale.array.copy()
    codes[:empty], scale[:empty] = 0, 1.0
    weight, bias = Affine(Dense(codes), Dense(scale), weight.zero, 0), np.full(5, 0.3, np.float32)
    nodes = [node("Gemm", "x w b", "s" if after else "y", transB=1), *([node(after, "s", "y")] if after else [])]
    proto = graph(nodes, {"x": ("batch", 6)}, ("y",))
    lowered = fill(proto, {"w": weight, "b": Dense(bias)}, {"w": grid(0.4, 0)}, quantized=True)
    found = run(lowered.proto, rng.uniform(0, 100, (4, 6)).astype(np.float32))
    np.testing.assert_allclose(found[:, :empty], 0.3, atol=0.005)


def test_weights_stay_floats_when_not_quantized(rng):
    weight = levels(rng, (5, 6))
    proto = graph([node("Gemm", "x fc.weight", "y", transB=1)], {"x": ("batch", 6)}, ("y",))
    lowered = fill(proto, {"fc.weight": weight}, {"fc.weight": grid(0.02, 130)}, quantized=False)
    assert not lowered.integer
    x = rng.normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(run(lowered.proto, x), x @ decode(weight).T, atol=1e-5)


@pytest.mark.parametrize("after", ["Relu", "Clip", "Sigmoid"])
def test_a_gemm_before_an_activation_that_nothing_quantizes_runs_in_integers(rng, after):
    weight, bias = levels(rng, (5, 6)), rng.normal(size=5).astype(np.float32)
    proto = graph([node("Gemm", "x w b", "sum", transB=1), node(after, "sum", "y")], {"x": ("batch", 6)}, ("y",))
    lowered = fill(proto, {"w": weight, "b": Dense(bias)}, {"w": grid(0.02, 130)}, quantized=True)
    assert not_integer(lowered.proto, ["w"]) == []


@pytest.mark.parametrize("axis", [0, None])
def test_a_matmul_reads_its_weight_transposed(rng, axis):
    weight = levels(rng, (5, 6), axis)
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    proto = graph(nodes, {"x": ("batch", "time", 6)}, ("y",))
    lowered = fill(proto, {"w": weight}, {"w": grid(0.02, 0)}, quantized=True)
    assert operators_of(lowered.proto, ["w"]) == {"w": "MatMulIntegerToFloat"}
    x = rng.uniform(0, 5, size=(2, 3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(lowered.proto, x), snap(x, grid(0.02, 0)) @ decode(weight).T, atol=1e-5)


def conv(x, weight, bias=0.0, **options):
    x, weight, bias = (torch.from_numpy(np.asarray(part, np.float64)) for part in (x, weight, bias))
    return getattr(F, f"conv{x.ndim - 2}d")(x, weight, bias.expand(len(weight)), **options).numpy()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_that_feeds_floats_is_in_integers_if_its_output_has_a_grid(rng, dims, groups):
    weight, bias = levels(rng, (4, 4 // groups, *[3] * dims)), rng.normal(size=4).astype(np.float32)
    nodes = [node("Conv", "x w b", "sum", group=groups, pads=[1] * 2 * dims), node("Tanh", "m", "y")]
    nodes.insert(1, node("Output", "sum", "m", domain="gossamer", module="layer"))
    proto = graph(nodes, {"x": ("batch", 4, *[5] * dims)}, ("y",))
    x = rng.normal(size=(2, 4, *[5] * dims)).astype(np.float32)
    made = conv(snap(x, grid(0.03, 120)), decode(weight), bias, groups=groups, padding=1)
    tensors, given = {"w": weight, "b": Dense(bias)}, {"w": grid(0.03, 120)}
    lowered = fill(proto, tensors, given | {"layer:output": grid(0.05, 130)}, quantized=True)
    assert lowered.integer == ("w",)
    assert operators_of(lowered.proto, ["w"]) == {"w": "QLinearConv"}
    found = np.arctanh(run(lowered.proto, x).astype(np.float64)) / 0.05
    wanted = snap(made, grid(0.05, 130)) / 0.05
    inside = np.abs(np.tanh(made)) < 0.99
    assert np.abs(found - wanted)[inside].max() < 1.1, "one step where a value lies between two codes"
    assert np.median(np.abs(found - wanted)[inside]) < 0.02

    for activations, quantized in ((given, True), (given, False), (given | {"other:output": grid(1, 0)}, True)):
        plain = fill(proto, tensors, activations, quantized=quantized)
        assert not plain.integer
        assert {reason.what for reason in plain.reasons} - {"other:output"} == ({"w"} if quantized else set())
        exact = made if quantized else conv(x, decode(weight), bias, groups=groups, padding=1)
        np.testing.assert_allclose(run(plain.proto, x), np.tanh(exact), atol=1e-5)


def chain(rng, *, norm: bool, zero: int = 0):
    """Return conv, (batch norm,) ReLU, max pool, conv, with tensors and input grids."""
    tensors = {"a.weight": levels(rng, (4, 1, 3, 3)), "b.weight": levels(rng, (3, 4, 3, 3))}
    tensors |= {f"{name}.bias": Dense(rng.normal(size=n).astype(np.float32)) for name, n in (("a", 4), ("b", 3))}
    values = {
        "gamma": np.array([1.5, -0.5, 0.0, 2.0], np.float32),
        "beta": np.array([0.1, 0.2, 0.3, -0.1], np.float32),
        "mean": np.array([0.3, -0.2, 0.1, 0.0], np.float32),
        "var": np.array([0.5, 1.5, 1.0, 2.0], np.float32),
    }
    nodes = [node("Conv", "x a.weight a.bias", "c")]
    if norm:
        nodes.append(node("BatchNormalization", "c gamma beta mean var", "n", epsilon=1e-3))
        tensors |= {name: Dense(array) for name, array in values.items()}
    nodes += [
        node("Relu", "n" if norm else "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p b.weight b.bias", "y"),
    ]
    grids = {"a.weight": grid(0.01, 128), "b.weight": grid(0.02, zero)}
    return graph(nodes, {"x": ("batch", 1, 12, 12)}, ("y",)), tensors, grids, values


@pytest.mark.parametrize(("norm", "zero"), [(False, 0), (True, 0), (False, 7), (True, 255)])
def test_convolutions_in_a_chain_go_from_codes_to_codes(rng, norm, zero):
    proto, tensors, grids, values = chain(rng, norm=norm, zero=zero)
    lowered = fill(proto, tensors, grids, quantized=True)
    assert lowered.integer == ("a.weight",)
    assert operators_of(lowered.proto, ["a.weight"]) == {"a.weight": "QLinearConv"}
    kinds = [n.op_type for n in optimized_graph(lowered.proto).graph.node]
    assert "BatchNormalization" not in kinds
    assert "Relu" not in kinds
    assert kinds.count("Clip") == (zero != 0), "codes below that of zero are clipped"
    assert kinds.count("QuantizeLinear") == 1
    x = rng.normal(size=(2, 1, 12, 12)).astype(np.float32)
    inner = conv(snap(x, grids["a.weight"]), decode(tensors["a.weight"]), tensors["a.bias"].array)
    if norm:
        factor = values["gamma"] / np.sqrt(values["var"] + np.float32(1e-3))
        inner = (inner - values["mean"][:, None, None]) * factor[:, None, None] + values["beta"][:, None, None]
    pooled = F.max_pool2d(torch.relu(torch.from_numpy(inner)), 2).numpy()
    wanted = conv(snap(pooled, grids["b.weight"]), decode(tensors["b.weight"]), tensors["b.bias"].array)
    # A value that lies between two codes may go to either; 36 products with codes one step apart is the worst case.
    worst = 36 * 0.02 * np.abs(decode(tensors["b.weight"])).max()
    got = run(lowered.proto, x)
    assert np.abs(got - wanted).max() <= worst
    assert np.median(np.abs(got - wanted)) < 1e-5


@pytest.mark.parametrize(("most", "clips"), [(2.55, False), (5.0, True)])
def test_a_clip_is_done_on_codes_and_goes_where_they_end_before_it(rng, most, clips):
    tensors = {"a": levels(rng, (4, 3, 1, 1)), "b": levels(rng, (2, 4))}
    limits = {"low": Dense(np.float32(0)), "high": Dense(np.float32(2.55)), "flat": Dense(np.array([-1, 4]))}
    nodes = [
        node("Conv", "x a", "c"),
        node("Clip", "c low high", "k"),
        node("Reshape", "k flat", "f"),
        node("MatMul", "f b", "y"),
    ]
    tensors["b"] = levels(rng, (4, 2), axis=1)
    proto = graph(nodes, {"x": ("batch", 3, 1, 1)}, ("y",))
    grids = {"a": grid(0.02, 128), "b": grid(most / 255, 0)}
    lowered = fill(proto, tensors | limits, grids, quantized=True)
    assert lowered.integer == ("a", "b")
    assert operators_of(lowered.proto, ["a"]) == {"a": "QLinearConv"}
    assert ("Clip" in {n.op_type for n in optimized_graph(lowered.proto).graph.node}) is clips
    x = rng.normal(size=(9, 3, 1, 1)).astype(np.float32)
    clipped = np.clip(conv(snap(x, grids["a"]), decode(tensors["a"])), 0, 2.55).reshape(9, 4)
    wanted = snap(clipped, grids["b"]) @ decode(tensors["b"])
    worst = most / 255 * np.abs(decode(tensors["b"])).sum(0).max()
    np.testing.assert_allclose(run(lowered.proto, x), wanted, atol=worst + 1e-5)


@pytest.mark.parametrize(("low", "high"), [(-3, -1), (9, 12)])
def test_a_clip_beyond_the_grid_leaves_one_code(rng, low, high):
    tensors = {"a": levels(rng, (4, 3, 1, 1)), "b": levels(rng, (4, 2), axis=1), "flat": Dense(np.array([-1, 4]))}
    limits = {"low": Dense(np.float32(low)), "high": Dense(np.float32(high))}
    nodes = [
        node("Conv", "x a", "c"),
        node("Clip", "c low high", "k"),
        node("Relu", "k", "r"),
        node("Reshape", "r flat", "f"),
        node("MatMul", "f b", "y"),
    ]
    proto = graph(nodes, {"x": ("batch", 3, 1, 1)}, ("y",))
    grids = {"a": grid(0.02, 128), "b": grid(0.01, 0)}
    lowered = fill(proto, tensors | limits, grids, quantized=True)
    assert lowered.integer == ("a", "b")
    x = rng.normal(size=(9, 3, 1, 1)).astype(np.float32)
    value = snap(np.full((9, 4), max(low, 0), np.float32), grids["b"])
    np.testing.assert_allclose(run(lowered.proto, x), value @ decode(tensors["b"]), atol=1e-4)


@pytest.mark.parametrize("late", [False, True])
def test_parts_that_are_joined_for_a_product_stay_codes(rng, late):
    tensors = {name: levels(rng, (4, 3, 1, 1)) for name in "ab"} | {"c": levels(rng, (2, 8, 1, 1))}
    nodes = [
        node("Conv", "x a", "p"),
        node("Relu", "p", "pr"),
        node("Conv", "x b", "q"),
        node("Relu", "q", "qr"),
        node("Concat", "p q" if late else "pr qr", "j", axis=1),
        node("Relu", "j", "jr"),
        node("MaxPool", "jr", "m", kernel_shape=[2, 2]),
        node("Conv", "m c", "n"),
        node("Output", "n", "y", domain="gossamer", module="last"),
    ]
    nodes = [each for each in nodes if not late or each.output[0] not in {"pr", "qr"}]
    proto = graph(nodes, {"x": ("batch", 3, 4, 4)}, ("y",))
    grids = {"a": grid(0.02, 128), "b": grid(0.02, 128), "c": grid(0.03, 0), "last:output": grid(0.1, 128)}
    lowered = fill(proto, tensors, grids, quantized=True)
    assert lowered.integer == ("a", "b", "c")
    assert operators_of(lowered.proto, "abc") == dict.fromkeys("abc", "QLinearConv")
    assert "Concat" not in {n.op_type for n in optimized_graph(lowered.proto).graph.node}
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    parts = [np.maximum(conv(snap(x, grids[name]), decode(tensors[name])), 0) for name in "ab"]
    pooled = F.max_pool2d(torch.from_numpy(np.concatenate(parts, 1)), 2, stride=1).numpy()
    wanted = snap(conv(snap(pooled, grids["c"]), decode(tensors["c"])), grids["last:output"])
    assert np.abs(run(lowered.proto, x) - wanted).max() <= 0.1 * 1.01


def test_a_sum_of_values_on_grids_is_done_on_codes(rng):
    tensors = {"a": levels(rng, (3, 3, 1, 1)), "b": levels(rng, (2, 3, 1, 1))}
    nodes = [
        node("Conv", "x a", "p"),
        node("Output", "p", "pm", domain="gossamer", module="a"),
        node("Output", "x", "xm", domain="gossamer", module="passed"),
        node("Add", "pm xm", "s"),
        node("Relu", "s", "r"),
        node("Conv", "r b", "n"),
        node("Output", "n", "y", domain="gossamer", module="b"),
    ]
    proto = graph(nodes, {"x": ("batch", 3, 2, 2)}, ("y",))
    grids = {"a": grid(0.02, 128), "b": grid(0.04, 0)}
    grids |= {"a:output": grid(0.05, 128), "passed:output": grid(0.02, 128), "b:output": grid(0.1, 128)}
    lowered = fill(proto, tensors, grids, quantized=True)
    found = [n.op_type for n in optimized_graph(lowered.proto).graph.node]
    assert found.count("QLinearAdd") == 1
    assert found.count("QuantizeLinear") == 1, "the input is put on its grid once for both that read it"
    x = rng.normal(size=(2, 3, 2, 2)).astype(np.float32)
    x = snap(x, grids["a"]).astype(np.float32)
    part = snap(conv(x, decode(tensors["a"])), grids["a:output"])
    wanted = snap(conv(snap(np.maximum(part + x, 0), grids["b"]), decode(tensors["b"])), grids["b:output"])
    assert np.abs(run(lowered.proto, x) - wanted).max() <= 0.2 * 1.01


def test_a_shared_weight_with_two_readers_keeps_one_copy(rng):
    weight = levels(rng, (6, 6))
    proto = graph(
        [node("Gemm", "x w", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r w", "y", transB=1)],
        {"x": ("batch", 6)},
        ("y",),
    )
    lowered = fill(proto, {"w": weight}, {"w": grid(0.02, 100)}, quantized=True)
    assert not_integer(lowered.proto, ["w"]) == []
    assert [tensor.name for tensor in lowered.proto.graph.initializer if len(tensor.dims) == 2] == ["w"]


@pytest.mark.parametrize("axis", [0, 1, None])
def test_an_embedding_is_looked_up_in_codes(rng, axis):
    table = levels(rng, (9, 4), axis)
    proto = graph([node("Gather", "t w", "y")], {"t": ("batch", "time")}, ("y",), kinds={"t": onnx.TensorProto.INT64})
    proto.graph.node[0].input[:] = ["w", "t"]
    lowered = fill(proto, {"w": table}, {}, quantized=True)
    assert [str(reason) for reason in lowered.reasons] == ["w: rows are looked up in 8 bits and used in float"]
    tokens = rng.integers(0, 9, (2, 3))
    np.testing.assert_array_equal(run(lowered.proto, tokens), decode(table)[tokens])


def test_a_bias_too_large_for_int32_is_added_in_float(rng):
    weight = Affine(Dense(np.eye(2, dtype=np.int8)), Dense(np.float32([1e-9, 1e-9])), Dense(np.zeros(2, np.int32)), 0)
    proto = graph([node("Gemm", "x w b", "y", transB=1)], {"x": ("batch", 2)}, ("y",))
    bias = np.array([1e4, -1e4], np.float32)
    lowered = fill(proto, {"w": weight, "b": Dense(bias)}, {"w": grid(1e-3, 0)}, quantized=True)
    np.testing.assert_allclose(run(lowered.proto, np.zeros((1, 2), np.float32)), bias[None], rtol=1e-6)


def test_levels_are_found_through_sharing_and_sparseness(rng):
    centers = levels(rng, (4,), None)
    shared = Codebook(Dense(rng.integers(0, 4, (3, 2)).astype(np.uint8)), centers)
    support = np.array([[True, False], [False, True], [True, True]])
    sparse = Sparse(Dense(support), levels(rng, (4,), None))
    hashed = Hash(levels(rng, (4,), None), 3, (3, 2))
    masked = Hash(levels(rng, (4,), None), 3, (3, 2), Dense(support))
    for coding in (shared, sparse, hashed, masked):
        proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 2)}, ("y",))
        lowered = fill(proto, {"w": coding}, {"w": grid(0.02, 0)}, quantized=True)
        assert lowered.integer == ("w",)
        x = snap(rng.uniform(0, 5, (2, 2)), grid(0.02, 0)).astype(np.float32)
        np.testing.assert_allclose(run(lowered.proto, x), x @ decode(coding).T, atol=1e-5)


def test_what_stays_in_float_says_why(rng):
    proto = graph([node("Gemm", "x w", "h", transB=1), node("Gemm", "h v", "y", transB=1)], {"x": ("n", 3)}, ("y",))
    tensors = {"w": Dense(rng.normal(size=(3, 3)).astype(np.float32)), "v": levels(rng, (3, 3))}
    grids = {"w": grid(0.1, 0), "v": grid(0.01, 700, bits=12)}
    lowered = fill(proto, tensors, grids, quantized=True)
    why = {reason.what: reason.why for reason in lowered.reasons}
    assert why["w"] == "it is not stored on a grid of integers"
    assert why["v"] == "its input is on 12 bits, and rounded to these in float"
    assert lowered.integer == ()
    x = rng.normal(size=(4, 3)).astype(np.float32)
    wanted = snap(snap(x, grids["w"]) @ decode(tensors["w"]).T, grids["v"]) @ decode(tensors["v"]).T
    np.testing.assert_allclose(run(lowered.proto, x), wanted, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 9, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_inputs_are_rounded_to_as_many_bits_as_they_have(rng, bits, signed, turned):
    coding, of = levels(rng, (5, 6)), grid(3.0 / 2**bits, 0 if signed else 2 ** (bits - 1), bits, signed=signed)
    nodes = [node("Gemm", "x w", "y", transB=1)]
    if turned:
        nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    proto = graph(nodes, {"x": ("n", 6)}, ("y",))
    x = rng.normal(size=(40, 6)).astype(np.float32)
    for weight in (coding, Dense(decode(coding))):
        lowered = fill(proto, {"w": weight}, {"w": of}, quantized=True)
        assert lowered.integer == (("w",) if weight is coding and bits < 9 else ())
        assert not_integer(lowered.proto, lowered.integer) == []
        np.testing.assert_allclose(run(lowered.proto, x), snap(x, of) @ decode(weight).T, atol=1e-5)


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (grid(float("nan"), 0), "has the scale nan"),
        (grid(0.0, 0), "has the scale 0.0"),
        (grid(0.1, -3), "no code for 0.0: its zero is -3"),
        (grid(0.1, 300), "no code for 0.0: its zero is 300"),
    ],
)
def test_grids_that_are_none_are_told(rng, of, why):
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 6)}, ("y",))
    lowered = fill(proto, {"w": levels(rng, (5, 6))}, {"w": of}, quantized=True)
    assert not lowered.integer
    assert any(why in reason.why for reason in lowered.reasons)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_float_weights_between_codes_are_not_rounded(rng, op, own):
    """ONNX Runtime would put them on 8 bits, one scale for all, where what they meet and make are codes."""
    shapes = {"Conv": [(3, 3, 1, 1), (4, 3, 3, 3)], "Gemm": [(3, 3), (4, 3)]}[op]
    turned = {"transB": 1} if op == "Gemm" else {}
    nodes = [
        node(op, "x v", "c", **turned),
        node("Output", "c", "m", domain="gossamer", module="a"),
        node(op, "m w", "d", **turned),
        node("Output", "d", "y", domain="gossamer", module="b"),
    ]
    tensors = {"v": levels(rng, shapes[0]), "w": Dense(rng.normal(size=shapes[1]).astype(np.float32))}
    grids = {"v": grid(0.02, 128), "a:output": grid(0.003, 128), "b:output": grid(0.05, 128)}
    grids |= {"w": grid(0.003, 128)} if own else {}
    proto = graph(nodes, {"x": ("n", 3, *[5] * (len(shapes[0]) - 2))}, ("y",))
    lowered = fill(proto, tensors, grids, quantized=True)
    x = rng.normal(size=(2, 3, *[5] * (len(shapes[0]) - 2))).astype(np.float32)

    def multiplied(values, weight):
        return conv(values, weight) if op == "Conv" else values @ weight.T

    inner = snap(multiplied(snap(x, grids["v"]), decode(tensors["v"])), grids["a:output"])
    wanted = snap(multiplied(inner, decode(tensors["w"])), grids["b:output"])
    apart = np.abs(run(lowered.proto, x) - wanted)
    assert np.median(apart) < 1e-5
    assert apart.max() < 0.051, "one step where a value lies between two codes"


def test_marks_one_after_another_round_one_after_another(rng):
    nodes = [
        node("Output", "x", "a", domain="gossamer", module="a"),
        node("Output", "a", "b", domain="gossamer", module="b"),
        node("Output", "b", "y", domain="gossamer", module="c"),
    ]
    grids = {"a:output": grid(0.05, 128), "b:output": grid(0.05, 0), "c:output": grid(0.05, 128)}
    lowered = fill(graph(nodes, {"x": ("n", 4)}, ("y",)), {}, grids, quantized=True)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    session = open_prepared(
        lowered.proto.SerializeToString(), optimize=False
    )  # the runtime itself would join the three
    (found,) = run_session(session, [x]).values()
    np.testing.assert_allclose(found, np.maximum(snap(x, grids["a:output"]), 0), atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_branches_read_weights_from_outside(rng, bits):
    branches = [
        onnx.helper.make_graph(
            [node("MatMul", "x w", name)], name, [], [onnx.helper.make_empty_tensor_value_info(name)]
        )
        for name in ("yes", "no")
    ]
    choice = onnx.helper.make_node("If", ["which"], ["y"], then_branch=branches[0], else_branch=branches[1])
    kinds = {"which": onnx.TensorProto.BOOL}
    proto = graph([choice], {"x": ("n", 6), "which": ()}, ("y",), kinds=kinds)
    coding, x = levels(rng, (6, 5), bits=bits), rng.normal(size=(3, 6)).astype(np.float32)
    shared = Codebook(Dense(rng.integers(0, 2, (6, 5)).astype(np.uint8)), Dense(np.float32([-0.3, 0.3])))
    for weight in (coding, shared):
        lowered = fill(proto, {"w": weight}, {}, quantized=True)
        found = run_session(open_session(lowered.proto), {"x": x, "which": np.array(True)})["y"]
        np.testing.assert_allclose(found, x @ decode(weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zero", [True, False])
def test_codes_that_the_graph_itself_has_are_left_alone(rng, zero):
    more = " z" if zero else ""
    nodes = [node("ReduceMax", "x", "s", keepdims=0), node("QuantizeLinear", f"x s{more}", "q")]
    nodes += [node("DequantizeLinear", f"q s{more}", "d"), node("Gemm", "d w", "g"), node("QuantizeLinear", "g t", "e")]
    nodes.append(node("DequantizeLinear", "e t", "y"))
    constants = {"t": np.float32(0.5), "z": np.uint8(0)}
    proto = graph(nodes, {"x": ("n", 6)}, ("y",), constants)
    lowered = fill(proto, {"w": Dense(rng.normal(size=(6, 5)).astype(np.float32))}, {}, quantized=True)
    assert "Clip" not in {made.op_type for made in lowered.proto.graph.node}


@pytest.mark.parametrize("of", [None, grid(0.02, 0), grid(0.02, 0, bits=12)])
def test_a_weight_may_be_an_output(rng, of):
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 16)}, ("y", "w"))
    coding, x = levels(rng, (40, 16)), rng.uniform(0, 5, (3, 16)).astype(np.float32)
    lowered = fill(proto, {"w": coding}, {} if of is None else {"w": of}, quantized=True)
    found = run_session(open_session(lowered.proto), [x])
    np.testing.assert_array_equal(found["w"], decode(coding))
    np.testing.assert_allclose(found["y"], (x if of is None else snap(x, of)) @ decode(coding).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantized", [True, False])
def test_a_weight_transposed_may_be_an_output(rng, quantized):
    proto = graph(
        [node("Gemm", "x w", "y", transB=1), node("Transpose", "w", "t", perm=[1, 0])], {"x": ("n", 6)}, ("y", "t")
    )
    coding = levels(rng, (5, 6))
    lowered = fill(proto, {"w": coding}, {"w": grid(0.02, 0)}, quantized=quantized)
    found = run_session(open_session(lowered.proto), [np.ones((1, 6), np.float32)])
    np.testing.assert_array_equal(found["t"], decode(coding).T)


@pytest.mark.parametrize("zero", [0, 3])
def test_convolutions_in_a_chain_go_from_codes_to_codes_of_four_bits(rng, zero):
    proto, tensors, grids, _ = chain(rng, norm=False, zero=zero)
    grids["b.weight"] = grid(0.1, zero, bits=4)
    lowered = fill(proto, tensors, grids, quantized=True)
    assert operators_of(lowered.proto, ["a.weight"]) == {"a.weight": "QLinearConv"}
    x = rng.normal(size=(2, 1, 12, 12)).astype(np.float32)
    inner = conv(snap(x, grids["a.weight"]), decode(tensors["a.weight"]), tensors["a.bias"].array)
    pooled = F.max_pool2d(torch.relu(torch.from_numpy(inner)), 2).numpy()
    wanted = conv(snap(pooled, grids["b.weight"]), decode(tensors["b.weight"]), tensors["b.bias"].array)
    assert np.median(np.abs(run(lowered.proto, x) - wanted)) < 1e-5


def test_factors_of_a_norm_are_no_weight(rng):
    """All ones, they are stored as one shared value, and are folded into the convolution none the less."""
    proto, tensors, grids, _ = chain(rng, norm=True, zero=0)
    ones = {name: Codebook(Dense(np.zeros(4, np.uint8)), Dense(np.ones(1, np.float32))) for name in ("gamma", "var")}
    lowered = fill(proto, tensors | ones, grids, quantized=True)
    assert lowered.integer == ("a.weight",)
    assert "BatchNormalization" not in {made.op_type for made in lowered.proto.graph.node}


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ([-0.3, 0.3], True),
        ([-0.3, 0.0, 0.3], True),
        ([(2 * k - 15) / 15 for k in range(16)], True),
        ([-0.3, 0.0, 0.4], False),
        ([0.001, 1.0], False),
        ([0.0, 0.0], False),
    ],
)
def test_few_shared_values_at_equal_distances_are_integers(rng, values, whole):
    codes = rng.integers(0, len(values), (5, 6)).astype(np.uint8)
    coding = Codebook(Dense(codes), Dense(np.array(values, np.float32)))
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 6)}, ("y",))
    lowered = fill(proto, {"w": coding}, {"w": grid(0.02, 130)}, quantized=True)
    assert lowered.integer == (("w",) if whole else ())
    x = rng.normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(run(lowered.proto, x), snap(x, grid(0.02, 130)) @ decode(coding).T, atol=1e-5)


def test_a_weight_that_is_only_added_is_not_told_to_need_an_input_grid(rng):
    proto = graph([node("Add", "x w", "y")], {"x": ("n", 3)}, ("y",))
    lowered = fill(proto, {"w": levels(rng, (2, 3))}, {}, quantized=True)
    assert [str(reason) for reason in lowered.reasons] == [
        "w: it enters Add, which is done in float; stored in integers"
    ]


def test_a_wide_grid_stays_in_float(rng):
    coding = Affine(Dense(np.array([[300, -300]], np.int16)), Dense(np.float32(0.1)), Dense(np.int32(0)), None)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 2)}, ("y",))
    lowered = fill(proto, {"w": coding}, {"w": grid(0.1, 0)}, quantized=True)
    assert "more than 8 bits" in str(lowered.reasons[0])
    np.testing.assert_allclose(run(lowered.proto, np.ones((1, 2), np.float32)), [[0.0]], atol=1e-5)


def test_a_weight_with_a_scale_for_each_group_is_told_to_stay_in_float():
    codes = np.arange(8, dtype=np.int8).reshape(4, 2)
    groups = Affine(Dense(codes), Dense(np.ones(4, np.float32)), Dense(np.zeros(4, np.int32)), 0)
    weight = Reshape(groups, (2, 4))
    made = graph([node("MatMul", "x w", "y")], {"x": [1, 2]}, ["y"])
    done = fill(made, {"w": weight}, {}, quantized=True)
    assert done.integer == ()
    assert [reason.what for reason in done.reasons] == ["w"]


def test_an_output_that_is_all_but_its_bias_keeps_within_32_bits(rng):
    """Behind a batch norm with a factor of next to nothing the bias is far beyond the steps of the products."""
    weight = levels(rng, (4, 3, 1, 1))
    scale = weight.scale.array.copy()
    scale[2] = 1e-12
    weight, bias = Affine(weight.codes, Dense(scale), weight.zero, 0), np.float32([0.7, -0.7, 0.7, 0.1])
    nodes = [node("Conv", "x w b", "c"), node("Output", "c", "y", domain="gossamer", module="m")]
    proto = graph(nodes, {"x": ("batch", 3, 1, 1)}, ("y",))
    grids = {"w": grid(0.02, 128), "m:output": grid(0.02, 128)}
    lowered = fill(proto, {"w": weight, "b": Dense(bias)}, grids, quantized=True)
    assert operators_of(lowered.proto, lowered.integer) == {"w": "QLinearConv"}
    x = rng.normal(size=(50, 3, 1, 1)).astype(np.float32)
    wanted = snap(conv(snap(x, grids["w"]), decode(weight), bias), grids["m:output"])
    assert np.abs(run(lowered.proto, x) - wanted).max() <= 0.02 * 1.01
    np.testing.assert_allclose(run(lowered.proto, x)[:, 2], 0.7, atol=0.011)


def test_a_convolution_that_stays_in_float_stays_so_in_the_runtime(rng):
    tensors = {"w": levels(rng, (4, 3, 1, 1)), "k": Dense(np.ones(4, np.float32))}
    nodes = [
        node("Add", "k t", "b"),
        node("Conv", "x w b", "c"),
        node("Output", "c", "y", domain="gossamer", module="m"),
    ]
    proto = graph(nodes, {"x": ("batch", 3, 1, 1), "t": (4,)}, ("y",))
    grids = {"w": grid(0.02, 128), "m:output": grid(0.05, 128)}
    lowered = fill(proto, tensors, grids, quantized=True)
    assert [str(reason) for reason in lowered.reasons] == ["w: its bias is computed"]
    assert "QLinearConv" not in {n.op_type for n in optimized_graph(lowered.proto).graph.node}
    x = rng.normal(size=(50, 3, 1, 1)).astype(np.float32)
    wanted = snap(conv(snap(x, grids["w"]), decode(tensors["w"]), np.full(4, 1.5)), grids["m:output"])
    found = next(iter(run_session(open_session(lowered.proto), [x, np.full(4, 0.5, np.float32)]).values()))
    assert np.median(np.abs(found - wanted)) < 1e-5


@pytest.mark.parametrize("activation", ["other:output", "m:output"])
def test_a_grid_of_an_output_that_is_not_taken_is_told(rng, activation):
    nodes = [node("Conv", "x w", "c"), node("Output", "c", "y", domain="gossamer", module="m")]
    proto = graph(nodes, {"x": ("batch", 3, 1, 1)}, ("y",))
    grids = {"w": grid(0.02, 128), activation: grid(0.02, 8, bits=4)}
    reasons = fill(proto, {"w": levels(rng, (4, 3, 1, 1))}, grids, quantized=True).reasons
    assert activation in {reason.what for reason in reasons}
