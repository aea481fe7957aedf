"""Integers in the ONNX file for weights that are multiplied in floats: few bytes, and the same bits when it runs."""

import numpy as np
import pytest
import torch
from graphs.build import graph, grid, levels, node
from onnx import TensorProto
from torch import nn

from gossamer.codings import Affine, Codebook, Dense, Reshape, Sparse, decode
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining
from gossamer.methods.share import KMeans
from gossamer.model import Subject, apply, freeze
from gossamer.targets import count_work, fill, open_session, run_session, to_onnx
from gossamer.targets.optimized import optimized_graph
from gossamer.targets.stored import LEAST, form_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def integers(rng, low, high, shape):
    return Dense(rng.integers(low, high + 1, shape).astype(np.int16))


def affine(rng, low, high, shape, zero=None, axis=0):
    count = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.001, 0.02, count).astype(np.float32)
    zeros = np.zeros(count, np.float32) if zero is None else np.full(count, zero, np.float32)
    return Affine(integers(rng, low, high, shape), Dense(np.asarray(scale)), Dense(np.asarray(zeros)), axis)


FORMS = {
    "int4": (lambda rng: affine(rng, -8, 7, (32, 16)), TensorProto.INT4),
    "uint4 with zeros": (lambda rng: affine(rng, 0, 15, (32, 16), zero=7), TensorProto.UINT4),
    "between two codes": (lambda rng: affine(rng, 0, 3, (32, 16), zero=1.5), TensorProto.INT4),
    "int16": (lambda rng: affine(rng, -900, 900, (32, 16), axis=None), TensorProto.INT16),
    "groups": (lambda rng: Reshape(affine(rng, -127, 127, (64, 8)), (32, 16)), TensorProto.INT8),
    "groups of 9": (lambda rng: Reshape(affine(rng, -3, 3, (64, 9)), (36, 16)), TensorProto.INT4),
    "shared": (
        lambda rng: Codebook(integers(rng, 0, 31, (32, 16)), Dense(rng.normal(size=32).astype(np.float32))),
        TensorProto.INT8,
    ),
    "pruned and shared": (
        lambda rng: Sparse(
            Dense(np.arange(512).reshape(32, 16) % 4 == 0),
            Codebook(integers(rng, 0, 14, 128), Dense(rng.normal(size=15).astype(np.float32))),
        ),
        TensorProto.UINT4,
    ),
}
HALF_BYTES = {TensorProto.INT4, TensorProto.UINT4}


def product(*, norm=False):
    """A graph of opset 20; an operator that opset 21 does otherwise keeps it there."""
    nodes = [node("MatMul", "x w", "y"), node("ReduceSum", "w", "z")]
    if norm:
        nodes.append(node("GroupNormalization", "y g g", "n", num_groups=1))
    return graph(nodes, {"x": ("n", "k")}, ("n" if norm else "y", "z"))


@pytest.mark.parametrize("name", FORMS)
def test_codes_are_stored_and_the_same_values_run(rng, name):
    make, kind = FORMS[name]
    coding = make(rng)
    values = decode(coding)
    lowered = fill(product(), {"w": coding}, {}, quantized=True).proto
    plain = fill(product(), {"w": coding}, {}, quantized=False).proto
    kinds = {t.name: t.data_type for t in lowered.graph.initializer if np.prod(t.dims) == values.size}
    assert list(kinds.values()) == [kind]
    assert lowered.opset_import[0].version == (21 if kind in HALF_BYTES else 20)
    x = rng.normal(size=(3, values.shape[0])).astype(np.float32)
    found, exact = (run_session(open_session(proto), [x]) for proto in (lowered, plain))
    assert found["y"].tobytes() == exact["y"].tobytes()
    assert found["z"].tobytes() == exact["z"].tobytes()
    assert {made.op_type for made in optimized_graph(lowered).graph.node} == {"MatMul"}, "the rest is done when loading"
    assert {work.op for work in count_work(lowered, [x])} == {"MatMul"}


def test_half_bytes_are_left_out_where_another_operator_would_change(rng):
    coding = affine(rng, -8, 7, (32, 16))
    tensors = {"w": coding, "g": Dense(np.ones(16, np.float32))}
    lowered = fill(product(norm=True), tensors, {}, quantized=True).proto
    assert {t.data_type for t in lowered.graph.initializer if np.prod(t.dims) == 512} == {TensorProto.INT8}
    assert lowered.opset_import[0].version == 20


def test_half_bytes_are_left_out_of_older_opsets(rng):
    proto = product()
    proto.opset_import[0].version = 18
    lowered = fill(proto, {"w": affine(rng, -8, 7, (32, 16))}, {}, quantized=True).proto
    assert lowered.opset_import[0].version == 18


def test_a_weight_that_is_read_both_ways_is_stored_once(rng):
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "h"), node("MatMul", "h w", "y")]
    coding = levels(rng, (40, 20))
    lowered = fill(graph(nodes, {"x": ("n", 20)}, ("y",)), {"w": coding}, {}, quantized=True).proto
    assert [t.name for t in lowered.graph.initializer if np.prod(t.dims) == 800] == ["w:codes"]
    x = rng.normal(size=(2, 20)).astype(np.float32)
    got = run_session(open_session(lowered), [x])["y"]
    np.testing.assert_allclose(got, x @ decode(coding).T @ decode(coding), rtol=1e-4, atol=1e-5)


def test_codes_that_an_integer_product_reads_serve_floats_too(rng):
    nodes = [node("Gemm", "x w", "h", transB=1), node("Softmax", "w", "p"), node("MatMul", "h p", "y")]
    coding = levels(rng, (40, 20))
    lowered = fill(graph(nodes, {"x": ("n", 20)}, ("y",)), {"w": coding}, {"w": grid(0.02, 128)}, quantized=True)
    assert [t.name for t in lowered.proto.graph.initializer if np.prod(t.dims) == 800] == ["w"]


def test_what_has_no_form_or_gains_nothing_stays(rng):
    assert form_of(Dense(rng.normal(size=(20, 20)).astype(np.float32))) is None
    assert form_of(Codebook(integers(rng, 0, 3, (20, 20)), Dense(np.arange(4, dtype=np.float16)))) is None
    lowered = fill(product(), {"w": affine(rng, -7, 7, (LEAST - 1, 1))}, {}, quantized=True).proto
    assert "w:codes" not in {t.name for t in lowered.graph.initializer}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.fc = (
            nn.Conv1d(8, 48, 3, padding=1),
            nn.LSTM(48, 48, batch_first=True),
            nn.Linear(48, 9),
        )

    def forward(self, x):
        return self.fc(self.rnn(torch.relu(self.conv(x)).transpose(1, 2))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "share"),
    [
        ([PostTraining(inputs=False, weight_scales=32, weight_bits=8)], 0.33),
        ([PostTraining(inputs=False, weight_bits=4)], 0.2),
        ([PostTraining(inputs=False, weight_bits=3, weight_scales=48)], 0.25),
        ([Magnitude(sparsity=0.6), KMeans(bits=3)], 0.2),
    ],
)
def test_weights_are_small_in_the_file_of_any_layer(methods, share):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 20)
    subject = Subject.of(Model().eval(), x)
    dense = len(to_onnx(freeze(subject), (x,)).SerializeToString())
    for method in methods:
        subject = apply(subject, method.plan(subject))
    frozen = freeze(subject)
    proto = to_onnx(frozen, (x,))
    assert len(proto.SerializeToString()) < share * dense + 4_000
    (found,) = run_session(open_session(proto), [x.numpy()]).values()
    with torch.no_grad():
        np.testing.assert_allclose(found, subject.model(x).numpy(), atol=1e-4)
