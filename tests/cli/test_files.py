"""inspect, verify and diff on files, and that they start without torch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from gossamer.artifact import Artifact, save
from gossamer.cli.app import app
from gossamer.coders import encode as code
from gossamer.codings import Dense, Entropy, encode


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def artifact(seed=0, keep=0.2, **more):
    generator = np.random.default_rng(seed)
    dense = generator.normal(size=(40, 25)).astype(np.float32)
    sparse = np.where(generator.random(dense.shape) < keep, np.round(dense * 4) / 4, 0).astype(np.float32)
    bias = np.arange(40, dtype=np.float32)
    tensors = {"fc.weight": encode(sparse), "fc.bias": Dense(bias)}
    return Artifact(tensors=tensors, aliases={"tied.weight": "fc.weight"}, meta={"task": "digits [8x8]"}, **more)


@pytest.fixture
def files(tmp_path):
    a, b = tmp_path / "a.goss", tmp_path / "b.goss"
    save(a, artifact())
    save(b, artifact(seed=1, graph=b"graph"))
    return a, b


def test_inspect_shows_every_tensor(files):
    shown = invoke("inspect", files[0])
    assert shown.exit_code == 0
    assert "fc.weight" in shown.stdout
    assert "40x25" in shown.stdout
    assert f"= {files[0].stat().st_size} bytes" in shown.stdout
    assert "tied.weight is the same tensor as fc.weight" in shown.stdout
    assert "task: digits [8x8]" in shown.stdout


def test_inspect_as_json_adds_up(files):
    summary = json.loads(invoke("inspect", files[1], "--json").stdout)
    assert summary["bytes"] == files[1].stat().st_size
    parts = ("header_bytes", "tensor_bytes", "graph_bytes", "padding_bytes")
    assert sum(summary[part] for part in parts) == summary["bytes"]
    assert summary["self_contained"] is True
    assert [tensor["name"] for tensor in summary["tensors"]] == ["fc.weight", "fc.bias"]


def test_verify_of_sound_files(files):
    shown = invoke("verify", *files)
    assert shown.exit_code == 0
    assert shown.stdout == f"{files[0]}: sound\n{files[1]}: sound\n"


def test_verify_of_a_damaged_file_fails(files):
    data = bytearray(files[0].read_bytes())
    data[-3] ^= 0xFF
    files[0].write_bytes(data)
    shown = invoke("verify", *files, "--json")
    assert shown.exit_code == 1
    found = json.loads(shown.stdout)
    assert found[str(files[0])]["sound"] is False
    assert len(found[str(files[0])]["problems"]) == 1
    assert found[str(files[1])] == {"sound": True, "problems": []}


def test_a_damaged_file_is_a_line_on_stderr(files):
    files[0].write_bytes(files[0].read_bytes()[:40])
    shown = invoke("inspect", files[0])
    assert shown.exit_code == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.stderr


def test_a_missing_file_is_named(tmp_path):
    shown = invoke("inspect", tmp_path / "none.goss")
    assert shown.exit_code == 2
    assert f"{tmp_path / 'none.goss'}: cannot be read: No such file or directory" in shown.stderr


def test_diff_of_the_same_file(files):
    shown = invoke("diff", files[0], files[0])
    assert shown.exit_code == 0
    assert "the two hold the same" in shown.stdout


def test_diff_names_what_changed(files):
    shown = invoke("diff", *files)
    assert shown.exit_code == 1
    assert "fc.weight" in shown.stdout
    assert "fc.bias" not in shown.stdout
    assert "different too: graph" in shown.stdout
    difference = json.loads(invoke("diff", *files, "--json").stdout)
    assert difference["same"] is False
    assert [change["name"] for change in difference["difference"]["changed"]] == ["fc.weight"]


@pytest.mark.parametrize("command", ["inspect", "verify", "diff"])
def test_no_torch_is_imported(files, command):
    arguments = [str(file) for file in (files if command == "diff" else files[:1])]
    program = (
        "import sys\n"
        f"sys.argv = ['gossamer', {command!r}, *{arguments!r}]\n"
        "from gossamer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'lightning_fabric'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def cut_short(path):
    """A file that ends too early: no checksum fits."""
    save(path, artifact())
    path.write_bytes(path.read_bytes()[:40])


def undecodable(path):
    """A file whose checksums fit, with a tensor that does not decode."""
    coded = np.frombuffer(code(np.arange(60) % 7, 7, model="static", coder="range"), np.uint8)
    node = Entropy(coded[:-6], (60,), "uint8", 0, 7, "static", "range")
    proto = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["w"], ["y"], to=onnx.TensorProto.FLOAT)],
        "graph",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [60])],
    )
    save(path, Artifact(tensors={"w": node}, graph=onnx.helper.make_model(proto).SerializeToString()))


@pytest.mark.parametrize("damage", [cut_short, undecodable])
@pytest.mark.parametrize("command", ["inspect", "run", "export", "diff", "measure", "groups"])
def test_every_command_names_the_damaged_file(tmp_path, damage, command):
    bad, good, onnx_file = tmp_path / "bad.goss", tmp_path / "good.goss", tmp_path / "m.onnx"
    damage(bad)
    save(good, Artifact(tensors={"w": Dense(np.zeros(60, np.uint8))}))
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    module = tmp_path / "mine.py"
    module.write_text(
        "import torch\ndef build():\n    model = torch.nn.Module()\n"
        "    model.register_buffer('w', torch.zeros(60, dtype=torch.uint8))\n    return model\n"
        "def task():\n    from gossamer.datasets import load\n    return load('digits')\n"
    )
    arguments = {
        "inspect": [bad],
        "run": [bad, "--input", tmp_path / "x.npy"],
        "export": [bad, "-o", onnx_file],
        "diff": [good, bad],
        "measure": [bad],
        "groups": [f"{module}:build", "--data", f"{module}:task", "--weights", bad],
    }
    shown = invoke(command, *arguments[command])
    assert shown.exit_code == 2, shown.output
    assert shown.stderr.startswith(f"error: {bad}"), shown.stderr
    assert "Traceback" not in shown.stderr


def test_verify_says_the_name_once(tmp_path):
    shown = invoke("verify", tmp_path / "none.goss")
    assert shown.exit_code == 1
    assert shown.stdout == f"{tmp_path / 'none.goss'}: cannot be read: No such file or directory\n"


def test_of_two_files_the_one_without_a_graph_is_named(files):
    shown = invoke("measure", files[0])
    assert shown.exit_code == 2
    assert f"error: {files[0]}: the file holds weights only" in shown.stderr
