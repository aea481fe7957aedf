"""The commands that need torch or ONNX Runtime, on a tiny network, from compress to export."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from gossamer.cli.app import EXAMPLES, RESUMES, app
from gossamer.figure import measured
from gossamer.lock import locked
from gossamer.targets import Agreement

ROOT = Path(__file__).resolve().parents[2]

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))

def branching():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)
        def forward(self, x):
            x = self.fc(x.flatten(1))
            return x if x.sum() > 0 else -x
    return Branching()
"""
RECIPE = """
name = "tiny"

[[step]]
method = "prune.magnitude"
sparsity = 0.5

[step.train]
epochs = 2
lr = 0.01

[[step]]
method = "share.kmeans"
bits = 4
"""


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def compressed(folder, *more, model="build"):
    (folder / "net.py").write_text(MODEL)
    (folder / "tiny.toml").write_text(RECIPE)
    spec = [f"{folder / 'net.py'}:{model}", "--data", "digits", "--recipe", folder / "tiny.toml"]
    return invoke("compress", *spec, "-o", folder / "out.goss", "--no-measure", *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a compressed network in ``out.goss``, and its report."""
    made = tmp_path_factory.mktemp("compressed")
    shown = compressed(made, "--report")
    assert shown.exit_code == 0, shown.output
    return made


def test_the_report_is_written_and_again_shown(folder):
    report = json.loads((folder / "out.goss.report.json").read_text())
    assert report["recipe"] == "tiny"
    again = compressed(folder)
    assert again.exit_code == 0
    assert "prune.magnitude" in again.stdout
    assert f"{folder / 'out.goss'}: written" in again.stdout


def test_json_is_all_there_is_on_stdout(folder):
    shown = compressed(folder, "--json")
    assert shown.exit_code == 0
    assert [step["name"] for step in json.loads(shown.stdout)["steps"]] == ["prune.magnitude", "share.kmeans"]


def test_another_recipe_does_not_overwrite_a_run(folder):
    shown = compressed(folder, "--seed", "5")
    assert shown.exit_code == 2
    assert "is the journal of another run; what differs: the recipe" in " ".join(shown.stderr.split())
    assert "continues" not in shown.stderr
    assert "--restart" in shown.stderr


def test_a_run_is_started_anew_or_continued(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "out.goss.run" / "mine.txt").touch()
    again = compressed(tmp_path)
    assert "comes without --weights" in again.stderr
    assert "continues after step 2" in again.stderr
    anew = compressed(tmp_path, "--seed", "5", "--restart")
    assert anew.exit_code == 0, anew.stderr
    assert "continues" not in anew.stderr
    assert (tmp_path / "out.goss.run" / "mine.txt").exists()


@pytest.mark.parametrize("more", [(), ("--restart",)])
def test_a_folder_where_a_run_is_going_on_is_left_alone(folder, more):
    run = folder / "out.goss.run"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with locked(run):
        shown = compressed(folder, *more)
    assert shown.exit_code == 2
    assert f"error: {run}: another run is going on in this folder" in shown.stderr
    assert "hint: wait until it has ended" in shown.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_python_dash_m():
    shown = subprocess.run([sys.executable, "-m", "gossamer", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("gossamer ")


def test_weights_only_is_smaller_and_does_not_run(folder, tmp_path):
    assert compressed(folder, "--weights-only", "-o", tmp_path / "w.goss", "--work", tmp_path / "w").exit_code == 0
    assert (tmp_path / "w.goss").stat().st_size < (folder / "out.goss").stat().st_size
    shown = invoke("run", tmp_path / "w.goss", "--data", "digits")
    assert shown.exit_code == 2
    assert "the file holds weights only, no graph to run" in shown.stderr


def test_a_model_without_a_graph_is_refused_at_once_with_a_hint(tmp_path):
    shown = compressed(tmp_path, model="branching")
    assert shown.exit_code == 2
    assert "Traceback" not in shown.stderr
    assert "weights-only" in shown.stderr
    assert "def forward" not in shown.stderr  # torch prints the graph that it could not trace


def test_run_on_data(folder):
    shown = invoke("run", folder / "out.goss", "--data", "digits", "--json")
    assert shown.exit_code == 0
    figures = json.loads(shown.stdout)
    report = json.loads((folder / "out.goss.report.json").read_text())
    assert figures["split"] == "test"
    assert figures["metrics"]["accuracy"] == pytest.approx(report["test_after"]["accuracy"]["value"], abs=0.01)


def test_run_on_arrays(folder, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    shown = invoke("run", folder / "out.goss", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    assert shown.exit_code == 0
    (outputs,) = np.load(tmp_path / "y.npz").values()
    assert outputs.shape == (3, 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((3, 8), np.float32), "wanted shape"),
        (np.zeros((3, 1, 8, 8)), "wanted float32, got float64"),
        (b"x", "not a file of arrays"),
    ],
)
def test_arrays_that_do_not_fit(folder, tmp_path, content, said):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    shown = invoke("run", folder / "out.goss", "--input", path)
    assert shown.exit_code == 2
    assert said in shown.stderr


@pytest.mark.parametrize("arguments", [(), ("--data", "digits", "--input", "x.npy")])
def test_run_wants_data_or_arrays(folder, arguments):
    assert invoke("run", folder / "out.goss", *arguments).exit_code == 2


def test_export_writes_onnx(folder, tmp_path):
    shown = invoke("export", folder / "out.goss", "-o", tmp_path / "m.onnx", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["bytes"] == (tmp_path / "m.onnx").stat().st_size
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"))


@pytest.fixture(scope="module")
def integers(tmp_path_factory):
    """The spec of a tiny model, and its file in 8 bits."""
    place = tmp_path_factory.mktemp("integers")
    (place / "net.py").write_text(MODEL)
    (place / "int8.toml").write_text('name = "tiny8"\n[[step]]\nmethod = "quantize.post_training"\n')
    spec, out = f"{place / 'net.py'}:build", place / "out.goss"
    given = [spec, "--data", "digits", "--recipe", place / "int8.toml", "-o", out, "--no-measure"]
    assert invoke("compress", *given).exit_code == 0
    return spec, out


def test_export_compares_with_the_simulation(integers, tmp_path):
    (spec, out), made = integers, tmp_path / "m.onnx"
    shown = invoke("export", out, "-o", made, "--check", spec, "--json")
    assert shown.exit_code == 0, shown.output
    told = json.loads(shown.stdout)
    assert told["agrees"] is True
    found = {one["site"]: one for one in told["agreement"]}
    assert set(found) == {"1.weight", "3.weight", "outputs"}
    assert all(one["steps"] <= 1 for one in found.values())
    assert found["1.weight"]["compared"] == "input"
    table = invoke("export", out, "-o", made, "--check", spec, "--data", "digits")
    assert "most steps" in table.stdout
    assert "agrees within a step everywhere" in table.stdout
    other = invoke("export", out, "-o", made, "--check", "zoo:lenet5")
    assert other.exit_code == 2
    assert "does not fit" in other.stderr
    assert "agreement" not in json.loads(invoke("export", out, "-o", made, "--integers", "--json").stdout)


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, True), (1.04, True), (1.06, False)])
def test_export_keeps_integers_unless_they_are_slower(integers, tmp_path, monkeypatch, seconds, kept):
    asked = []

    def measure(protos, inputs, timing):
        asked.append((timing.threads, {name: array.shape for name, array in inputs.items()}))
        times = {"integers": seconds, "floats": 1.0}
        latencies = {name: SimpleNamespace(median=measured(times[name], "s")) for name in protos}
        return {name: SimpleNamespace(latency=latency) for name, latency in latencies.items()}

    monkeypatch.setattr("gossamer.targets.choice.measure", measure)
    made = tmp_path / "m.onnx"
    shown = invoke("export", integers[1], "-o", made, "--threads", 2)
    assert shown.exit_code == 0, shown.output
    assert [(threads, *shapes.values()) for threads, shapes in asked] == [(2, (1, 1, 8, 8))]
    assert ("written in floats" in shown.stdout) is not kept
    assert any(node.op_type.startswith("Q") for node in onnx.load(made).graph.node) is kept
    assert ("in integers: 1.weight, 3.weight" in shown.stdout) is kept
    found = json.loads(invoke("export", integers[1], "-o", made, "--json").stdout)
    assert found["measured"]["integers"]["value"] == seconds
    assert found["integer"] == (["1.weight", "3.weight"] if kept else [])
    always = invoke("export", integers[1], "-o", made, "--integers")
    assert "in integers: 1.weight, 3.weight" in always.stdout
    assert len(asked) == 2


def test_export_names_the_sites_that_differ(integers, tmp_path, monkeypatch):
    def agreements(*_given):
        return [Agreement(site=site, compared="input", steps=steps, differing=0.1, carried=9.0) for site, steps in far]

    far = [("1.weight", 1.0), ("3.weight", 2.0), ("outputs", 1.5)]
    monkeypatch.setattr("gossamer.targets.agreements", agreements, raising=False)
    given = ["export", integers[1], "-o", tmp_path / "m.onnx", "--check", integers[0]]
    assert "more than a step apart: 3.weight, outputs" in invoke(*given).stdout
    assert json.loads(invoke(*given, "--json").stdout)["agrees"] is False


def test_export_measures_integers_against_floats(integers, tmp_path):
    found = json.loads(invoke("export", integers[1], "-o", tmp_path / "m.onnx", "--json").stdout)
    assert 0 < found["measured"]["integers"]["value"] < 1
    assert found["measured"]["floats"]["unit"] == "s"


def test_export_of_a_model_as_it_is(integers, tmp_path):
    made = tmp_path / "m.onnx"
    shown = invoke("export", integers[0], "--data", "digits", "-o", made, "--json")
    assert json.loads(shown.stdout)["bytes"] == made.stat().st_size
    assert [node.op_type for node in onnx.load(made).graph.node if node.op_type != "Reshape"] == [
        "Gemm",
        "Relu",
        "Gemm",
    ]
    assert f"{made}: " in invoke("export", "zoo:xor", "-o", made).stdout
    without = invoke("export", integers[0], "-o", made)
    assert without.exit_code == 2
    assert "--data" in without.stderr
    for wrong in (("--integers",), ("--check", "zoo:xor")):
        assert "a model as it is has floats" in " ".join(invoke("export", "zoo:xor", "-o", made, *wrong).stderr.split())
    given = invoke("export", integers[1], "-o", made, "--weights", "w.safetensors")
    assert "a file has its own" in " ".join(given.stderr.split())


@pytest.mark.parametrize("with_it", [("--integers",), ("--check", "zoo:lenet5")])
def test_export_of_floats_has_no_integers_to_keep_or_check(integers, tmp_path, with_it):
    shown = invoke("export", integers[1], "-o", tmp_path / "m.onnx", "--float", *with_it)
    assert shown.exit_code == 2
    assert "leaves no integers" in shown.stderr


def test_measure_two_files(folder):
    first = folder / "out.goss.run" / "step-00" / "self-contained.goss"
    shown = invoke("measure", first, folder / "out.goss", "--rounds", 1, "--json")
    assert shown.exit_code == 0
    found = json.loads(shown.stdout)["files"]
    assert list(found) == sorted([str(first), str(folder / "out.goss")])
    assert found[str(folder / "out.goss")]["file"]["value"] < found[str(first)]["file"]["value"]
    assert invoke("measure", folder / "out.goss", folder / "out.goss").exit_code == 2


def test_measure_shows_what_is_computed(folder):
    shown = invoke("measure", folder / "out.goss", "--rounds", 1, "--data", "digits", "--batch", 4)
    assert shown.exit_code == 0
    assert "accuracy, test split" in shown.stdout
    assert "* computed; every other figure was measured" in shown.stdout


def test_measure_shows_the_energy_of_a_counter_where_there_is_one(folder, monkeypatch):
    def counted(run):
        run()
        return measured(1.0, "J")

    monkeypatch.setattr("gossamer.targets.processes.measure_energy", lambda _: None)
    assert "whole sockets" not in invoke("measure", folder / "out.goss", "--rounds", 1).stdout
    monkeypatch.setattr("gossamer.targets.processes.measure_energy", counted)
    shown = invoke("measure", folder / "out.goss", "--rounds", 2)
    (line,) = (line for line in shown.stdout.splitlines() if "energy of one run, whole sockets" in line)
    assert line.endswith("50 mJ")  # 2 turns of 20 runs


@pytest.mark.parametrize("command", ["compress", "inspect", "measure", "recipes", "groups", "run", "diff"])
def test_tables_fit_80_columns(folder, command):
    out, first = folder / "out.goss", folder / "out.goss.run" / "step-00" / "self-contained.goss"
    arguments = {
        "compress": [f"{folder / 'net.py'}:build", "--data=digits", "--recipe", folder / "tiny.toml", "-o", out],
        "inspect": [out],
        "measure": [first, out, "--rounds", 1],
        "recipes": [],
        "groups": ["zoo:resnet20", "--all"],
        "run": [out, "--data", "digits"],
        "diff": [first, out],
    }
    shown = CliRunner().invoke(app, [command, *map(str, arguments[command])], env={"COLUMNS": "80"})
    assert not shown.stderr.startswith("error"), shown.stderr
    paths = {str(folder), "…", "written"}
    lines = [line for line in shown.stdout.splitlines() if not any(part in line for part in paths)]
    assert max(map(len, lines)) <= 80
    whole = {"inspect": ["24x64", "10x24"], "groups": ["4,930"], "recipes": ["deep-compression-small"]}
    for word in whole.get(command, []):
        assert any(word in line.split() for line in lines), shown.stdout


def test_recipes_are_listed_and_shown(tmp_path):
    assert "deep-compression" in invoke("recipes").stdout
    shown = invoke("recipes", "deep-compression")
    assert 'method = "prune.magnitude"' in shown.stdout
    assert [one["name"] for one in json.loads(invoke("recipes", "--json").stdout)]
    missing = invoke("recipes", "deep-compresion")
    assert missing.exit_code == 2
    assert "did you mean 'deep-compression'?" in missing.stderr


@pytest.mark.parametrize("command", EXAMPLES, ids=lambda command: command.__name__)
def test_every_help_has_an_example(command):
    shown = invoke(command.__name__, "--help")
    assert shown.exit_code == 0
    assert all(line.strip() in shown.stdout for line in EXAMPLES[command].splitlines())
    assert command in RESUMES or "continues" not in shown.stdout


def test_a_scan_becomes_a_recipe_that_is_tried_on_the_model(folder, tmp_path):
    spec = [f"{folder / 'net.py'}:build", "--data", "digits"]
    scanned = invoke("scan", *spec, "--strengths", "0.3,0.6", "--samples", 50, "-o", tmp_path / "s.json")
    assert scanned.exit_code == 0, scanned.stderr
    words = [tmp_path / "s.json", "--keep", 0.8, "-o", tmp_path / "a.toml"]
    exact = invoke("allocate", *words, "--exact", *spec, "--json")
    assert exact.exit_code == 0, exact.stderr
    assert 0.6 < json.loads(exact.stdout)["left"] <= 0.85
    assert "method" in (tmp_path / "a.toml").read_text()
    assert "of the bytes are left" in invoke("allocate", *words, "--exact", *spec).stdout
    lonely = invoke("allocate", *words, "--data", "digits")
    assert lonely.exit_code == 2
    assert "belong to the model of --exact" in " ".join(lonely.stderr.split())


def test_what_is_counted_is_declared(tmp_path):
    assert "bytes|macs|milliseconds" in invoke("allocate", "--help").stdout
    shown = invoke("allocate", tmp_path / "s.json", "--of", "grams")
    assert shown.exit_code == 2
    assert "'grams' is not one of 'bytes', 'macs', 'milliseconds'" in " ".join(shown.stderr.split())


def test_version_and_unknown_command():
    assert invoke("--version").stdout.startswith("gossamer 0.")
    assert invoke("squash").exit_code == 2


@pytest.mark.slow
def test_the_demo_passes_its_checks(tmp_path):
    shown = invoke("demo", "-o", tmp_path / "demo.goss", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert all(found["checks"].values())
    assert found["facts"]["bytes"] < 10_000
    assert found["report"]["task"] == "digits"
    assert found["facts"]["accuracy on ONNX Runtime, test split"] > 0.95


@pytest.mark.slow
def test_a_model_of_ones_own_survives_kill_9(tmp_path):
    """The examples' model, data and loop; the run is killed in the middle of a step and continues to the same file."""
    recipe = tmp_path / "short.toml"
    text = (ROOT / "src/gossamer/recipe/builtin/deep-compression-small.toml").read_text()
    recipe.write_text(text.replace("epochs = 30", "epochs = 3").replace("epochs = 10", "epochs = 2"))
    subprocess.run([sys.executable, ROOT / "examples/my_training.py", "w.safetensors"], cwd=tmp_path, check=True)

    def command(out):
        model, data = ROOT / "examples/my_model.py:build", ROOT / "examples/my_data.py:task"
        program = [sys.executable, "-c", "from gossamer.cli import main; main()", "compress", model]
        options = ["--weights", "w.safetensors", "--data", data, "--recipe", recipe, "-o", out, "--threads", 1]
        return [str(part) for part in [*program, *options, "--no-measure"]]

    subprocess.run(command("whole.goss"), cwd=tmp_path, check=True)
    for wanted in ("step-00", "training-01", "step-01"):
        process = subprocess.Popen(command("killed.goss"), cwd=tmp_path, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "killed.goss.run" / wanted).exists():
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command("killed.goss"), cwd=tmp_path, check=True)
    assert (tmp_path / "killed.goss").read_bytes() == (tmp_path / "whole.goss").read_bytes()
    assert invoke("verify", tmp_path / "killed.goss").exit_code == 0
