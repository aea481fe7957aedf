"""Sessions: inputs that do not fit are named, saturation is avoided."""

import numpy as np
import onnx
import pytest
from graphs.build import graph, grid, node

from gossamer.codings import Affine, Dense, decode
from gossamer.errors import TargetError
from gossamer.targets import Cpu, fill, not_integer, open_session, run_session
from gossamer.targets.exact import exact_products, needs_exact

PLAIN = Cpu("test", saturates=True, why="test")


@pytest.fixture(scope="module")
def adder():
    proto = graph([node("Add", "left right", "y")], {"left": ("batch", 3), "right": (3,)}, ("y",))
    return open_session(proto)


LEFT, RIGHT = np.ones((2, 3), np.float32), np.ones(3, np.float32)


def test_inputs_by_name_or_in_order(adder):
    for inputs in ({"right": RIGHT, "left": LEFT}, [LEFT, RIGHT], (LEFT, RIGHT)):
        np.testing.assert_array_equal(run_session(adder, inputs)["y"], LEFT + RIGHT)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([LEFT], "wanted 2 inputs (left, right), got 1"),
        ({"left": LEFT, "wrong": RIGHT}, "wanted the inputs left, right, got left, wrong"),
        ([LEFT.astype(np.float64), RIGHT], "input left: wanted float32, got float64"),
        ([LEFT, np.ones(4, np.float32)], "input right: wanted shape (3), got (4)"),
        ([LEFT[0], RIGHT], "input left: wanted shape (batch, 3), got (3)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(adder, inputs, message):
    with pytest.raises(TargetError) as caught:
        run_session(adder, inputs)
    assert caught.value.message == message


def test_a_graph_that_the_runtime_does_not_know():
    with pytest.raises(TargetError, match="does not take the graph"):
        open_session(graph([node("NoSuchOperator", "x", "y")], {"x": (1,)}, ("y",)))


def test_a_failing_run_names_the_inputs():
    session = open_session(graph([node("Add", "a b", "y")], {"a": ("n",), "b": ("m",)}, ("y",)))
    with pytest.raises(TargetError, match=r"failed on a \(2,\), b \(3,\)"):
        run_session(session, [np.ones(2, np.float32), np.ones(3, np.float32)])


def full_range() -> onnx.ModelProto:
    """Return a product of the largest input codes with the largest 8-bit weights: pairs overflow 16 bits."""
    codes = np.full((8, 64), 127, np.int8)
    weight = Affine(Dense(codes), Dense(np.float32(1.0)), Dense(np.int32(0)), None)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 64)}, ("y",))
    return fill(proto, {"w": weight}, {"w": grid(1.0, 0)}, quantized=True).proto


def test_full_range_weights_are_exact_on_this_processor():
    got = run_session(open_session(full_range()), [np.full((1, 64), 255, np.float32)])["y"]
    np.testing.assert_array_equal(got, np.full((1, 8), 64.0 * 127 * 255))


@pytest.mark.parametrize("form", ["gemm", "matmul", "conv", "gemm then relu"])
def test_full_range_weights_are_exact_in_every_form_of_product(form):
    rng = np.random.default_rng(0)
    nodes = {
        "gemm": [node("Gemm", "x w", "y", transB=1)],
        "gemm then relu": [node("Gemm", "x w", "h", transB=1), node("Relu", "h", "y")],
        "matmul": [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        "conv": [
            node("Conv", "x w", "c", strides=[4]),
            node("Output", "c", "y", domain="gossamer", module="m"),
        ],
    }[form]
    shape = (8, 4, 16) if form == "conv" else (8, 64)
    codes = rng.choice(np.array([127, 126, -127], np.int8), shape)
    scale = rng.integers(1, 4, 8).astype(np.float32)
    weight = Affine(Dense(codes), Dense(scale), Dense(np.zeros(8, np.int32)), 0)
    proto = graph(nodes, {"x": ("n", *shape[1:])}, ("y",))
    step = 64.0 * 127 * 255 * 3 / 100
    lowered = fill(proto, {"w": weight}, {"w": grid(1.0, 0), "m:output": grid(step, 128)}, quantized=True).proto
    assert needs_exact(lowered)
    assert exact_products(lowered) is not lowered
    assert not_integer(lowered, ["w"], cpu=PLAIN) == []
    x = np.full((1, *shape[1:]), 255, np.float32)
    wanted = 255 * decode(weight).reshape(8, -1).sum(1)
    got = run_session(open_session(lowered, cpu=PLAIN), [x])["y"].reshape(-1)
    if form == "conv":
        wanted = np.rint(wanted / step) * step
    np.testing.assert_allclose(got, np.maximum(wanted, 0) if "relu" in form else wanted, rtol=1e-6)


def test_weights_of_7_bits_and_weights_that_are_only_stored_stay_signed():
    small = Affine(Dense(np.full((8, 4), 63, np.int8)), Dense(np.float32(1.0)), Dense(np.int32(0)), None)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 4)}, ("y",))
    lowered = fill(proto, {"w": small}, {"w": grid(1.0, 0)}, quantized=True).proto
    assert exact_products(lowered) is lowered
    stored = Affine(Dense(np.full((9, 4), 127, np.int8)), Dense(np.float32(1.0)), Dense(np.int32(0)), None)
    table = graph([node("Gather", "w t", "y")], {"t": ("n",)}, ("y",), kinds={"t": onnx.TensorProto.INT64})
    assert not needs_exact(fill(table, {"w": stored}, {}, quantized=True).proto)


def test_a_full_range_weight_with_two_readers_is_exact_too():
    codes = np.full((64, 64), 127, np.int8)
    weight = Affine(Dense(codes), Dense(np.float32(1.0)), Dense(np.int32(0)), None)
    nodes = [node("Gemm", "x w", "a", transB=1), node("Gemm", "z w", "b", transB=1), node("Add", "a b", "y")]
    proto = graph(nodes, {"x": ("n", 64), "z": ("n", 64)}, ("y",))
    lowered = fill(proto, {"w": weight}, {"w": grid(1.0, 0)}, quantized=True).proto
    full = np.full((1, 64), 255, np.float32)
    got = run_session(open_session(lowered, cpu=PLAIN), [full, full])["y"]
    np.testing.assert_array_equal(got, np.full((1, 64), 2 * 64.0 * 127 * 255))
