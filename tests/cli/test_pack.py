"""pack and unpack on the command line, without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from gossamer.cli.app import app


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def weights(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {"fc.weight": generator.normal(size=(60, 50)).astype(np.float32), "fc.bias": np.zeros(60, np.float32)}
    arrays["steps"] = np.array(3)
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_there_and_back(weights, tmp_path):
    shown = invoke("pack", weights, "-o", tmp_path / "w.goss")
    assert shown.exit_code == 0, shown.output
    assert "fc.weight" in shown.stdout
    size = (tmp_path / "w.goss").stat().st_size
    assert f"{tmp_path / 'w.goss'}: {size} bytes, 1/{12248 / size:.2f} of 12.25 kB, without loss" in shown.stdout
    shown = invoke("unpack", tmp_path / "w.goss", "-o", tmp_path / "again.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "3 tensors" in shown.stdout
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


def test_json(weights, tmp_path):
    told = json.loads(invoke("pack", weights, "-o", tmp_path / "w.goss", "--step", 0.5, "--json").stdout)
    assert told["bytes"] == told["header_bytes"] + sum(one["bytes"] for one in told["tensors"])
    assert told["bytes"] == (tmp_path / "w.goss").stat().st_size
    assert told["ratio"] == 12248 / told["bytes"]
    kept = {one["name"]: (one["step"] is not None, one["significant_bits"]) for one in told["tensors"]}
    assert kept == {"fc.weight": (True, None), "fc.bias": (False, 53), "steps": (False, None)} or kept["fc.weight"][0]
    told = json.loads(invoke("unpack", tmp_path / "w.goss", "-o", tmp_path / "u.safetensors", "--json").stdout)
    assert (told["tensors"], told["bytes"]) == (3, (tmp_path / "u.safetensors").stat().st_size)


def test_a_size_and_what_is_exact(weights, tmp_path):
    shown = invoke("pack", weights, "-o", tmp_path / "w.goss", "--size", 1500)
    assert shown.exit_code == 0, shown.output
    assert 1450 < (tmp_path / "w.goss").stat().st_size <= 1500
    shown = invoke("pack", weights, "-o", tmp_path / "w.goss", "--size", 1500, "--exact", "fc.*")
    assert shown.exit_code == 2
    assert "nothing here may lose precision" in shown.stderr
    assert "hint: give at least" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pack", "none.safetensors", "-o", "w.goss"), "none.safetensors: cannot be read: No such file"),
        (("pack", "w.safetensors", "-o", "w.safetensors"), "wanted an output ending in .goss"),
        (("pack", "junk.safetensors", "-o", "w.goss"), "not a sound safetensors file"),
        (("pack", "w.safetensors", "-o", "w.goss", "--step", "1", "--size", "9"), "both a step and a size"),
        (("pack", "w.safetensors", "-o", "w.goss", "--step", "0"), "hint: step is a number above 0 and up to 16"),
        (("pack", "w.safetensors", "-o", "w.goss", "--size", "9"), "even on the coarsest grids the file has"),
        (("pack", "a.goss", "-o", "a.goss"), "is read by this command, and would be overwritten"),
        (("unpack", "none.goss", "-o", "u.safetensors"), "none.goss: cannot be read: No such file"),
        (("unpack", "w.safetensors", "-o", "u.safetensors"), "not a gossamer file"),
        (("unpack", "w.safetensors", "-o", "w.safetensors"), "is read by this command, and would be overwritten"),
        (("unpack", "w.goss", "-o", "u.pt"), "wanted an output ending in .safetensors"),
    ],
)
def test_mistakes_are_two_lines(weights, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 99)
    (tmp_path / "a.goss").write_bytes(b"precious")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    shown = invoke(*arguments)
    assert shown.exit_code == 2, shown.output
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_torch_is_imported(weights, tmp_path):
    program = (
        "import sys\n"
        "from gossamer.cli import main\n"
        "def call(*arguments):\n"
        "    sys.argv = ['gossamer', *arguments]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code, stop.code\n"
        f"call('pack', {str(weights)!r}, '-o', {str(tmp_path / 'w.goss')!r}, '--size', '2000')\n"
        f"call('unpack', {str(tmp_path / 'w.goss')!r}, '-o', {str(tmp_path / 'u.safetensors')!r})\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'lightning_fabric'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["pack", "w.safetensors", "-o", "old.goss"], ["unpack", "w.goss", "-o", "old.safetensors"]]
)
def test_a_full_disk_leaves_what_was_there(weights, tmp_path, words):
    assert invoke("pack", weights, "-o", tmp_path / "w.goss").exit_code == 0
    (tmp_path / words[-1]).write_bytes(b"old")
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from gossamer.cli import main\n"
        f"sys.argv = ['gossamer', *{words!r}]\n"
        "main()\n"
    )
    before = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {words[-1]}: cannot be written: File too large" in done.stderr
    assert (tmp_path / words[-1]).read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before
