"""Modelled energy by hand from the published table; the counter from a folder made like the kernel's."""

import numpy as np
import onnx
import pytest

from gossamer.figure import measured
from gossamer.targets import Timing, Work, energy, measure_energy, processes
from gossamer.targets.horowitz import PICOJOULES


def test_a_float_multiply_accumulate_costs_4_6_picojoules():
    found = energy([Work("y", "Gemm", 1_000_000, 32, 0, 0)])
    assert found.arithmetic.value == pytest.approx(4.6e-6)
    assert found.total.basis == "computed"
    assert found.total.unit == "J"


def test_an_8_bit_one_costs_0_3_and_a_16_bit_one_1_5():
    assert energy([Work("y", "Gemm", 10, 8, 0, 0)]).arithmetic.value == pytest.approx(10 * 0.3e-12)
    assert energy([Work("y", "Gemm", 10, 16, 0, 0)]).arithmetic.value == pytest.approx(10 * 1.5e-12)


def test_bytes_by_hand():
    found = energy([Work("y", "Gemm", None, 32, 8, 16)])
    assert found.arithmetic.value == 0.0
    assert found.weights.value == pytest.approx(1300e-12)  # 8 bytes are one read of 64 bits
    assert found.activations.value == pytest.approx(2 * 20e-12)
    assert found.total.value == pytest.approx(1340e-12)


def test_fetching_a_float_from_dram_is_about_140_multiply_accumulates():
    assert PICOJOULES["64 bits from DRAM"] / 2 / 4.6 == pytest.approx(141.3, abs=0.1)


def rapl(root, start, names=("package-0",)):
    for index, name in enumerate(names):
        folder = root / f"intel-rapl:{index}"
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{start}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
    inner = root / "intel-rapl:0:0"
    inner.mkdir()
    (inner / "name").write_text("core\n")
    (inner / "energy_uj").write_text("5\n")


@pytest.mark.parametrize(("start", "end", "joules"), [(100, 2_100, 0.002), (999_000, 500, 0.0015)])
def test_the_counter_is_read_around_the_run_and_may_wrap(tmp_path, start, end, joules):
    rapl(tmp_path, start, ("package-0", "psys"))
    found = measure_energy(lambda: (tmp_path / "intel-rapl:0" / "energy_uj").write_text(f"{end}\n"), tmp_path)
    assert found is not None
    assert found.basis == "measured"
    assert found.value == pytest.approx(joules)


def test_no_counter_is_no_figure(tmp_path):
    ran = []
    assert measure_energy(lambda: ran.append(1), tmp_path) is None
    assert not ran


@pytest.mark.parametrize("joules", [0.5, 0.0])
def test_a_counter_that_moves_gives_the_energy_of_one_run(monkeypatch, joules):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)

    def counted(run):
        run()
        return measured(joules, "J")

    how = {"models": {"relu": proto}, "inputs": [np.zeros(2, np.float32)], "timing": Timing(warmup=1, rounds=3, runs=4)}
    monkeypatch.setattr(processes, "measure_energy", counted)
    run = processes.measure(**how)["relu"]
    assert run.latency.runs == 12
    assert run.energy == (measured(3 * joules / 12, "J") if joules else None)
    monkeypatch.setattr(processes, "measure_energy", lambda _: None)
    assert processes.measure(**how)["relu"].energy is None
