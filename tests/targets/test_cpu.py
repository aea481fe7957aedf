"""What a processor does with 8-bit products is read, not assumed."""

import pytest

from gossamer.targets import read_cpu


def cpuinfo(tmp_path, flags):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: Test 9000\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: none\n")
    return path


@pytest.mark.parametrize("flags", ["fpu avx2 avx512_vnni", "avx2 avx_vnni", "amx_int8"])
def test_dot_product_instructions_are_exact(tmp_path, flags):
    cpu = read_cpu(cpuinfo(tmp_path, flags), "x86_64")
    assert (cpu.name, cpu.saturates, cpu.weight_bits) == ("Test 9000", False, 8)


@pytest.mark.parametrize("flags", ["fpu avx2", "sse4_1", "avx512f avx512bw"])
def test_x86_without_them_saturates(tmp_path, flags):
    cpu = read_cpu(cpuinfo(tmp_path, flags), "x86_64")
    assert (cpu.saturates, cpu.weight_bits) == (True, 7)
    assert cpu.why == "has none of avx512_vnni, avx_vnni"


def test_an_unknown_x86_is_taken_as_unsafe(tmp_path):
    assert read_cpu(tmp_path / "missing", "AMD64").saturates


def test_arm_is_exact(tmp_path):
    assert not read_cpu(tmp_path / "missing", "aarch64").saturates
