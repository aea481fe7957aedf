"""Weights with a scale per group of inputs: multiplied in blocks, or in float with the reason."""

import numpy as np
import onnx
import pytest
import torch
from graphs.build import graph, grid, levels, node, snap
from torch import nn

from gossamer.artifact import load, save
from gossamer.codings import Affine, Dense, Reshape, decode
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.targets import (
    OnnxRuntime,
    blocks,
    fill,
    frozen_graph,
    lower_artifact,
    not_integer,
    open_session,
    run_session,
)
from gossamer.targets.blocks import Blocks
from gossamer.targets.grouped import weight_groups


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch):
    monkeypatch.setattr(blocks, "LEAST", 1)


def grouped(rng, rows, columns, size, bits=4, *, signed=True):
    """Return random codes of ``bits`` bits with a scale, and if unsigned a zero, for each ``size`` of a row."""
    count = rows * columns // size
    low = -(1 << bits - 1) if signed else 0
    codes = rng.integers(low, low + (1 << bits), (count, size)).astype(np.int8 if signed else np.uint8)
    scale = Dense(rng.uniform(0.01, 0.05, count).astype(np.float32))
    zero = np.zeros(count) if signed else rng.integers(0, 1 << bits, count)
    return Reshape(Affine(Dense(codes), scale, Dense(zero.astype(np.int32)), 0), (rows, columns))


def slowly(x, weight, size):
    """Multiply as the operator does, one output at a time: every block of an input on 127 steps to either side."""
    y = np.zeros((len(x), len(weight)))
    for i, row in enumerate(x.astype(np.float64)):
        for start in range(0, len(row), size):
            part = row[start : start + size]
            step = np.abs(part).max() / 127 or 1.0
            y[i] += (np.rint(part / step) * step) @ weight[:, start : start + size].astype(np.float64).T
    return y


def run(proto, x):
    return next(iter(run_session(open_session(proto), [x]).values()))


def operators(proto):
    return [made.op_type for made in proto.graph.node]


GEMM = node("Gemm", "x w b", "y", transB=1)


def test_one_output_by_hand():
    """Codes 1 and -2 with scales 0.5 and 0.25: y = 0.5 * 16 * 1 - 0.5 * 16 * 2, and inputs of +-1 are exact."""
    codes = np.array([[1] * 16, [-2] * 16], np.int8)
    scale, zero = Dense(np.array([0.5, 0.25], np.float32)), Dense(np.zeros(2, np.int32))
    weight = Reshape(Affine(Dense(codes), scale, zero, 0), (1, 32))
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 32)}, ("y",))
    lowered = fill(proto, {"w": weight}, {}, quantized=True)
    x = np.concatenate([np.ones((1, 16)), 2 * np.ones((1, 16))], axis=1).astype(np.float32)
    assert operators(lowered.proto) == ["MatMulNBits"]
    np.testing.assert_allclose(run(lowered.proto, x), [[8.0 - 16.0]], rtol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(("rows", "columns", "size", "block"), [(7, 96, 32, 32), (1, 144, 48, 16), (33, 512, 256, 128)])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_linear_layer_in_blocks(rng, rows, columns, size, block, bits, signed, batch):
    weight, b = grouped(rng, rows, columns, size, bits, signed=signed), rng.normal(size=rows).astype(np.float32)
    proto = graph([GEMM], {"x": ("batch", columns)}, ("y",))
    lowered = fill(proto, {"w": weight, "b": Dense(b)}, {}, quantized=True)
    assert lowered.integer == ("w",)
    assert not lowered.reasons
    assert not_integer(lowered.proto, ["w"]) == []
    x = rng.normal(size=(batch, columns)).astype(np.float32)
    found, dense = run(lowered.proto, x), decode(weight)
    largest = np.abs(x @ dense.T).max()
    np.testing.assert_allclose(found, slowly(x, dense, block) + b, atol=1e-5 * largest)
    step = np.abs(x).max() / 127
    assert np.abs(found - (x @ dense.T + b)).max() <= step / 2 * np.abs(dense).sum(axis=1).max() + 1e-5 * largest


def test_a_matmul_reads_its_weight_transposed(rng):
    weight = grouped(rng, 5, 64, 32)
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    lowered = fill(graph(nodes, {"x": ("batch", "time", 64)}, ("y",)), {"w": weight}, {}, quantized=True)
    assert operators(lowered.proto) == ["MatMulNBits"]
    assert "w" not in {tensor.name for tensor in lowered.proto.graph.initializer}
    x = rng.normal(size=(2, 3, 64)).astype(np.float32)
    wanted = slowly(x.reshape(6, 64), decode(weight), 32).reshape(2, 3, 5)
    np.testing.assert_allclose(run(lowered.proto, x), wanted, atol=1e-5)


def test_a_weight_that_something_else_reads_stays_in_float(rng):
    weight = grouped(rng, 5, 64, 32)
    nodes = [node("Gemm", "x w", "z", transB=1), node("ReduceSum", "w", "s", keepdims=0), node("Add", "z s", "y")]
    lowered = fill(graph(nodes, {"x": ("batch", 64)}, ("y",)), {"w": weight}, {}, quantized=True)
    assert operators(lowered.proto)[-3:] == ["Gemm", "ReduceSum", "Add"]
    (reason,) = lowered.reasons
    why = "it enters ReduceSum, which has no integer operator here; stored in integers, multiplied in float"
    assert str(reason) == f"w: {why}"
    x = rng.normal(size=(2, 64)).astype(np.float32)
    dense = decode(weight)
    np.testing.assert_allclose(run(lowered.proto, x), x @ dense.T + dense.sum(), atol=1e-4)


@pytest.mark.parametrize(
    ("columns", "size", "found", "why"),
    [
        (60, 20, GEMM, "its groups of 20 inputs are no blocks of 16, 32, 64 or 128"),
        (64, 32, node("Gemm", "x w b", "y", transB=1, alpha=2.0), "it enters a scaled Gemm"),
        (5, 5, node("Gemm", "x w b", "y"), "it is read with its inputs first"),
    ],
)
def test_what_fits_no_blocks_says_why(rng, columns, size, found, why):
    weight = grouped(rng, 5, columns, size)
    proto = graph([found], {"x": ("batch", columns)}, ("y",))
    lowered = fill(proto, {"w": weight, "b": Dense(np.zeros(5, np.float32))}, {}, quantized=True)
    assert not lowered.integer
    assert [str(reason) for reason in lowered.reasons] == [f"w: {why}; stored in integers, multiplied in float"]
    assert operators(lowered.proto)[-1] == "Gemm"
    assert not {"MatMulNBits", "DequantizeLinear"} & set(operators(lowered.proto))


def test_other_codings_have_no_groups(rng):
    plain = Affine(Dense(np.zeros((2, 4), np.int8)), Dense(np.ones(2, np.float32)), Dense(np.zeros(2, np.int32)), 0)
    assert weight_groups(plain) is None
    assert weight_groups(Reshape(plain, (2, 2, 2))) is None
    between = Affine(plain.codes, plain.scale, Dense(np.full(2, 0.5, np.float32)), 0)
    assert weight_groups(Reshape(between, (1, 8))) is None
    found = weight_groups(grouped(rng, 3, 8, 4))
    assert isinstance(found, Blocks)
    assert found.scale.shape == found.zero.shape == (3, 2)
    assert found.size == 4


@pytest.mark.parametrize("bits", [4, 16])
def test_an_input_on_another_grid_is_not_put_on_8_bits(rng, bits):
    """The model was simulated with another input grid than the blocks would make of the input."""
    for weight, whole in ((levels(rng, (5, 64), bits=4), bits == 4), (grouped(rng, 5, 64, 32), False)):
        proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 64)}, ("y",))
        lowered = fill(proto, {"w": weight}, {"w": grid(0.05, 7, bits)}, quantized=True)
        assert lowered.integer == (("w",) if whole else ())
        assert "MatMulNBits" not in operators(lowered.proto)
        assert {reason.what for reason in lowered.reasons} == (set() if whole else {"w"})
        x = rng.normal(size=(3, 64)).astype(np.float32)
        wanted = snap(x, grid(0.05, 7, bits)) @ decode(weight).T
        np.testing.assert_allclose(run(lowered.proto, x), wanted, atol=1e-5)


def test_4_bits_with_an_input_of_8_bits_are_one_integer_product(rng):
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("batch", 64)}, ("y",))
    lowered = fill(proto, {"w": levels(rng, (5, 64), bits=4)}, {"w": grid(0.05, 7)}, quantized=True)
    assert lowered.integer == ("w",)
    assert not lowered.reasons
    assert not_integer(lowered.proto, ["w"]) == []


@pytest.mark.parametrize(("bits", "codes"), [(4, "symmetric"), (4, "affine"), ("auto", "symmetric")])
def test_from_a_model_to_the_runtime(tmp_path, bits, codes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    x = torch.randn(3, 96)
    subject = Subject.of(model, x)
    method = PostTraining(weight_bits=bits, weight_scales=32, weight_codes=codes, inputs=False)
    live = apply(subject, method.plan(subject))
    frozen = freeze(live)
    save(tmp_path / "m.goss", to_artifact(frozen, graph=frozen_graph(frozen, (x,))))
    artifact = load(tmp_path / "m.goss")
    lowered = lower_artifact(artifact)
    assert lowered.integer == ("0.weight", "2.weight")
    assert not_integer(lowered.proto, lowered.integer) == []
    assert not [reason for reason in OnnxRuntime().lowers(artifact) if reason.what.endswith("weight")]
    onnx.checker.check_model(lowered.proto)
    with torch.no_grad():
        wanted = live.model(x).numpy()
    found = run(lowered.proto, x.numpy())
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
