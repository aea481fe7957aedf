"""Self-contained artifacts: the graph has no weights, runs without torch or the model's class, and is checked."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from graphs.build import graph, grid, levels, node, snap

from gossamer import artifact as artifacts
from gossamer.artifact import Artifact
from gossamer.codings import Affine, Dense, decode, encode
from gossamer.errors import TargetError
from gossamer.targets import OnnxRuntime, Timing, assemble, graph_bytes, lower_artifact, measure


@pytest.fixture(scope="module")
def stored():
    """Return an artifact of two linear layers, the first with an alias for its weight."""
    rng = np.random.default_rng(0)
    first, second = levels(rng, (6, 6)), levels(rng, (3, 6))
    bias = rng.normal(size=6).astype(np.float32)
    nodes = [
        node("Gemm", "x tied fc1.bias", "h", transB=1),
        node("Tanh", "h", "t"),
        node("Gemm", "t fc2.weight", "y", transB=1),
    ]
    constants = {"tied": decode(first), "fc1.bias": bias, "fc2.weight": decode(second)}
    proto = graph(nodes, {"x": ("batch", 6)}, ("y",), constants)
    tensors = {
        "fc1.weight": encode(first, structured=True),
        "fc1.bias": Dense(bias),
        "fc2.weight": encode(second, structured=True),
    }
    aliases = {"tied": "fc1.weight"}
    return Artifact(
        tensors=tensors, aliases=aliases, activations={"fc2.weight": grid(2 / 255, 128)},
        graph=graph_bytes(proto, {*tensors, *aliases}),
    )  # fmt: skip


def wanted(stored, x):
    inner = np.tanh(x @ stored.array("tied").T + stored.array("fc1.bias"))
    return snap(inner, stored.activations["fc2.weight"]) @ stored.array("fc2.weight").T


def test_the_graph_has_no_weights(stored):
    assert not onnx.ModelProto.FromString(stored.graph).graph.initializer


def test_assembled_it_keeps_8_bits(stored):
    kinds = {tensor.name: tensor.data_type for tensor in assemble(stored).graph.initializer}
    assert kinds["fc2.weight"] == onnx.TensorProto.INT8
    assert kinds["tied:float"] == onnx.TensorProto.FLOAT, "too few values to gain from codes"
    floats = {tensor.name: tensor.data_type for tensor in assemble(stored, quantized=False).graph.initializer}
    assert set(floats.values()) == {onnx.TensorProto.FLOAT}


def test_it_runs_from_memory_and_from_its_file(stored, tmp_path):
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    artifacts.save(tmp_path / "m.goss", stored)
    for given in (stored, tmp_path / "m.goss", str(tmp_path / "m.goss")):
        outputs = OnnxRuntime().run(given, x)
        step = 2 / 255 * np.abs(stored.array("fc2.weight")).max()
        np.testing.assert_allclose(outputs["y"], wanted(stored, x), atol=step + 1e-5)


def test_it_runs_without_torch(stored, tmp_path):
    artifacts.save(tmp_path / "m.goss", stored)
    code = (
        "import sys, numpy as np; from gossamer.targets import OnnxRuntime;"
        f"y = OnnxRuntime().run({str(tmp_path / 'm.goss')!r}, np.ones((1, 6), np.float32))['y'];"
        "assert y.shape == (1, 3), y; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_it_lowers_is_listed(stored):
    reasons = {reason.what: reason.why for reason in OnnxRuntime().lowers(stored)}
    assert reasons == {"tied": "its input has no grid; stored in integers, multiplied in float"}
    unfolded = {reason.what: reason.why for reason in OnnxRuntime(quantized=False).lowers(stored)}
    assert "runs as dense floats" in unfolded["fc2.weight"]


def test_it_is_accepted(stored):
    assert OnnxRuntime().refuses(stored) == []


def test_weights_only_is_refused_with_a_hint(stored):
    bare = replace(stored, graph=None)
    assert "weights only" in str(OnnxRuntime().refuses(bare)[0])
    with pytest.raises(TargetError, match="weights only, no graph") as caught:
        OnnxRuntime().run(bare, np.ones((1, 6), np.float32))
    assert "self-contained" in str(caught.value.hint)


def test_a_graph_that_is_none_and_one_that_lacks_tensors_are_refused(stored):
    assert "not an ONNX graph" in str(OnnxRuntime().refuses(replace(stored, graph=b"\xff\xff"))[0])
    tensors = {name: coding for name, coding in stored.tensors.items() if name != "fc1.bias"}
    reason = OnnxRuntime().refuses(replace(stored, tensors=tensors))[0]
    assert "reads fc1.bias, which the file does not hold" in str(reason)


def test_half_precision_tensors_are_filled_as_float32():
    for kind, values in (
        ("float16", np.float16([[1.5, -2.0]])),
        ("bfloat16", (np.float32([[1.5, -2.0]]).view(np.uint32) >> 16).astype(np.uint16)),
    ):
        proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 2)}, ("y",))
        stored = Artifact(tensors={"w": Dense(values, kind)}, graph=graph_bytes(proto, {"w"}))
        np.testing.assert_array_equal(OnnxRuntime().run(stored, np.float32([[1, 1]]))["y"], [[-0.5]])


def test_a_half_precision_grid_keeps_its_levels():
    coding = Affine(Dense(np.int8([[3, -4]])), Dense(np.float32(0.5)), Dense(np.int32(0)), None, "float16")
    proto = graph([node("Gemm", "x w", "y", transB=1)], {"x": ("n", 2)}, ("y",))
    stored = Artifact(tensors={"w": coding}, activations={"w": grid(0.5, 0)}, graph=graph_bytes(proto, {"w"}))
    np.testing.assert_array_equal(OnnxRuntime().run(stored, np.float32([[1, 1]]))["y"], [[-0.5]])


def test_measuring_two_models_in_processes_of_their_own(stored, tmp_path):
    artifacts.save(tmp_path / "m.goss", stored)
    timing = Timing(warmup=1, rounds=2, runs=3)
    found = OnnxRuntime().measure({"file": tmp_path / "m.goss", "memory": stored}, np.ones((1, 6), np.float32), timing)
    for name in ("file", "memory"):
        run = found[name].run
        assert run.latency.runs == 6
        assert 0 < run.latency.fastest.value <= run.latency.low_quartile.value <= run.latency.median.value
        assert run.latency.median.value <= run.latency.high_quartile.value <= run.latency.slowest.value
        assert run.memory.peak.value >= run.memory.before.value > 0
        assert run.latency.median.basis == run.memory.added.basis == run.latency.spread.basis == "measured"
        assert found[name].macs.basis == found[name].energy.total.basis == "computed"
        assert found[name].macs.value == 36 + 18
    assert found["file"].file is not None
    assert found["file"].file.value == (tmp_path / "m.goss").stat().st_size
    assert found["memory"].file is None


def test_measuring_checks_the_inputs_first():
    proto = graph([node("Tanh", "x", "y")], {"x": ("n", 2)}, ("y",))
    with pytest.raises(TargetError, match="input x: wanted shape"):
        measure({"only": proto}, np.ones((1, 3), np.float32))


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (lambda mark: mark.input.append("x"), "has 2 inputs"),
        (lambda mark: mark.output.append("more"), "2 outputs"),
        (lambda mark: setattr(mark.attribute[0], "s", b"\xff"), "no text"),
    ],
)
def test_a_damaged_mark_is_told(mark, message):
    node = onnx.helper.make_node("Output", ["x"], ["y"], domain="gossamer", module="m")
    mark(node)
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    artifact = Artifact({}, {}, (), {}, proto.SerializeToString(), {})
    with pytest.raises(TargetError, match=message):
        lower_artifact(artifact)
