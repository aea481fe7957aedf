"""Weights of 4 bits in blocks: packing worked out by hand, and products against a slow reference."""

import numpy as np
import pytest
from graphs.build import graph, levels, node
from onnx import numpy_helper

from gossamer.codings import Dense, decode
from gossamer.targets import blocks, fill, not_integer, open_session, operators_of, run_session
from gossamer.targets.blocks import Blocks, block_size, lower_blocks, pack, why_no_blocks
from gossamer.targets.wiring import Wiring


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch):
    monkeypatch.setattr(blocks, "LEAST", 1)


def run(proto, x):
    return next(iter(run_session(open_session(proto), [x]).values()))


def bytewise(x, size):
    """Put each block of the inputs on 8 bits, symmetric about zero: what the operator may do to them."""
    rows, columns = x.shape
    whole = np.pad(x, ((0, 0), (0, -columns % size))).reshape(rows, -1, size)
    step = np.abs(whole).max(axis=2, keepdims=True) / 127
    step[step == 0] = 1
    return (np.rint(whole / step) * step).reshape(rows, -1)[:, :columns]


def test_packing_by_hand():
    codes = np.array([[1, 2, 3, 4, 5]], np.uint8)
    packed = pack(codes, 4, np.array([8]))
    assert packed.tolist() == [[[0x21, 0x43], [0x85, 0x88]]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("width", [128, 70])
def test_a_gemm_of_4_bits(rng, bias, width):
    weight, b = levels(rng, (9, width), bits=4), rng.normal(size=9).astype(np.float32)
    proto = graph([node("Gemm", "x w b" if bias else "x w", "y", transB=1)], {"x": ("batch", width)}, ("y",))
    lowered = fill(proto, {"w": weight, "b": Dense(b)}, {}, quantized=True)
    assert lowered.integer == ("w",)
    assert not lowered.reasons
    assert operators_of(lowered.proto, ["w"]) == {"w": "MatMulNBits"}
    assert not_integer(lowered.proto, ["w"]) == []
    x = rng.normal(size=(3, width)).astype(np.float32)
    stored = decode(weight).astype(np.float64)
    wanted = bytewise(x, 128 if width == 128 else 16) @ stored.T + (b if bias else 0)
    exact = x @ stored.T + (b if bias else 0)
    found = run(lowered.proto, x)
    np.testing.assert_allclose(found, wanted, atol=3e-3)
    assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max() + 5e-3


def test_a_matmul_reads_its_weight_transposed(rng):
    weight = levels(rng, (5, 64), bits=4)
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    proto = graph(nodes, {"x": ("batch", "time", 64)}, ("y",))
    lowered = fill(proto, {"w": weight}, {}, quantized=True)
    assert operators_of(lowered.proto, ["w"]) == {"w": "MatMulNBits"}
    x = rng.normal(size=(2, 3, 64)).astype(np.float32)
    np.testing.assert_allclose(run(lowered.proto, x), x @ decode(weight).T, atol=0.01)


def test_packing_whole_bytes():
    assert pack(np.array([[1, 2, 3]], np.uint8), 2, np.array([128]), bits=8).tolist() == [[[1, 2], [3, 128]]]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("columns", "size"), [(96, 32), (200, 64), (130, 128)])
def test_groups_with_zeros_of_their_own(rng, signed, columns, size, bits):
    count, levels = -(-columns // size), 1 << bits
    low = -levels // 2 if signed else 0
    codes = rng.integers(low, low + levels, (6, columns)).astype(np.int16)
    scale = rng.uniform(0.16, 0.8, (6, count)).astype(np.float32) / levels
    zero = rng.integers(low, low + levels, (6, count)).astype(np.int16)
    given = Blocks(codes, scale, zero, size)
    assert why_no_blocks(given) is None
    at = np.arange(columns) // size
    weight = (codes.astype(np.float64) - zero[:, at]) * scale[:, at]
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", columns)}, ("y",))
    wiring = Wiring(proto, {})
    assert lower_blocks(wiring, proto.graph.node[0], "w", given, turned=False) is None
    x = rng.normal(size=(2, columns)).astype(np.float32)
    np.testing.assert_allclose(run(wiring.finish(), x), bytewise(x, block_size(given)) @ weight.T, atol=2e-2)


def test_the_file_holds_half_a_byte_per_weight(rng):
    weight = levels(rng, (256, 256), bits=4)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 256)}, ("y",))
    lowered = fill(proto, {"w": weight}, {}, quantized=True)
    sizes = {tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in lowered.proto.graph.initializer}
    assert sizes == {"w:block:codes": 256 * 128, "w:block:scale": 256 * 2 * 4}


def test_what_does_not_fit_says_why(rng, monkeypatch):
    wide = Blocks(np.array([[-130, 126]], np.int16), np.ones((1, 1), np.float32), np.zeros((1, 1), np.int16), 2)
    assert why_no_blocks(wide) == "its codes and zeros span -130 to 126, more than 8 bits"
    odd = Blocks(np.zeros((1, 20), np.int8), np.ones((1, 2), np.float32), np.zeros((1, 2), np.int8), 10)
    assert why_no_blocks(odd) == "its groups of 10 inputs are no blocks of 16, 32, 64 or 128"
    monkeypatch.setattr(blocks, "LEAST", 1 << 16)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 64)}, ("y",))
    weight = levels(rng, (5, 64), bits=4)
    lowered = fill(proto, {"w": weight}, {}, quantized=True)
    assert "320 values are too few for blocks of 4 bits" in str(lowered.reasons[0])
    x = rng.normal(size=(2, 64)).astype(np.float32)
    np.testing.assert_allclose(run(lowered.proto, x), x @ decode(weight).T, atol=1e-5)


def test_scales_along_the_inputs_stay_in_float(rng):
    weight = levels(rng, (5, 64), axis=1, bits=4)
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 64)}, ("y",))
    lowered = fill(proto, {"w": weight}, {}, quantized=True)
    assert "its scales vary along the inputs" in str(lowered.reasons[0])
