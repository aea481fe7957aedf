"""Half precision in the ONNX file: half the bytes, the same bits when it runs."""

import numpy as np
import onnx
import pytest
import torch
from graphs.build import graph, node
from onnx import TensorProto
from torch import nn

from gossamer.codings import Dense
from gossamer.methods.quantize import Half
from gossamer.model import Subject, apply, freeze
from gossamer.targets import count_work, fill, lower_frozen, open_session, run_session, to_onnx
from gossamer.targets.halves import LEAST, halve
from gossamer.targets.optimized import optimized_graph

FLOAT, LINEAR = (
    graph([node("Gemm", f"x {name}", "y", transB=1)], {"x": ("batch", 32)}, ("y",)) for name in ("w", "weight")
)


def with_weight(values):
    return fill(FLOAT, {"w": Dense(values)}, {}, quantized=False).proto


def kinds(proto):
    return {tensor.name: tensor.data_type for tensor in proto.graph.initializer}


def run(proto, x):
    return next(iter(run_session(open_session(proto), [x]).values()))


def bfloat16(values):
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_the_bytes_and_the_same_bits(kind):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 32)).astype(np.float32)
    values[0, :4] = 2.0**-24, -(2.0**-20), 0.0, -0.0  # subnormal in float16
    if kind == TensorProto.FLOAT16:
        values = values.astype(np.float16).astype(np.float32)
    else:
        values[1, 0] = 1e30
        values = bfloat16(values)
    plain = with_weight(values)
    halved = halve(plain)
    assert kinds(halved) == {"w:half": kind}
    assert 0.5 <= len(halved.SerializeToString()) / len(plain.SerializeToString()) < 0.52
    x = rng.normal(size=(3, 32)).astype(np.float32)
    assert run(halved, x).tobytes() == run(plain, x).tobytes()
    assert [made.op_type for made in optimized_graph(halved).graph.node] == ["Gemm"]
    assert [(work.op, work.macs) for work in count_work(halved, [x])] == [("Gemm", 3 * 32 * 64)]


@pytest.mark.parametrize("value", [1 + 2.0**-23, 1e38 * (1 + 2.0**-20), np.nan])
def test_one_value_that_does_not_fit_keeps_all(value):
    values = np.ones((64, 32), np.float32)
    values[3, 3] = value
    if np.isnan(value):
        values.view(np.uint32)[3, 3] = 0x7FC00001  # its payload would be lost
    plain = with_weight(values)
    assert halve(plain) is plain


def test_small_constants_stay():
    plain = with_weight(np.ones((LEAST // 32 - 1, 32), np.float32))
    assert halve(plain) is plain


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_half_made_takes_half_the_file(dtype):
    torch.manual_seed(0)
    model, x = nn.Linear(32, 64, bias=False).eval(), torch.randn(2, 32)
    model.weight.data *= 1.0 if dtype == "float16" else 1e-9  # below what float16 reaches
    subject = Subject.of(model, x)
    frozen = freeze(apply(subject, Half(dtype=dtype).plan(subject)))
    whole, plain = lower_frozen(frozen, LINEAR), lower_frozen(frozen, LINEAR, quantized=False)
    assert kinds(whole.proto) == {"weight:half": getattr(TensorProto, dtype.upper())}
    assert kinds(plain.proto) == {"weight": TensorProto.FLOAT}
    assert len(whole.proto.SerializeToString()) < 0.55 * len(plain.proto.SerializeToString())
    found = run(whole.proto, x.numpy())
    assert found.tobytes() == run(plain.proto, x.numpy()).tobytes()
    np.testing.assert_allclose(found, frozen.model(x).detach().numpy(), atol=1e-5)


def test_a_model_in_half_precision():
    torch.manual_seed(0)
    model, x = nn.Linear(32, 64, bias=False).eval().half(), torch.randn(2, 32)
    lowered = lower_frozen(freeze(Subject.of(model, x.half())), LINEAR)
    assert kinds(lowered.proto) == {"weight:half": TensorProto.FLOAT16}
    wanted = x.numpy() @ model.weight.detach().float().numpy().T
    np.testing.assert_allclose(run(lowered.proto, x.numpy()), wanted, atol=1e-5)


@pytest.mark.slow
def test_an_exported_model():
    model, x = nn.Linear(32, 64).eval(), torch.randn(2, 32)
    subject = Subject.of(model, x)
    frozen = freeze(apply(subject, Half().plan(subject)))
    proto = to_onnx(frozen, (x,))
    onnx.checker.check_model(proto)
    assert kinds(proto) == {"weight:half": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}
