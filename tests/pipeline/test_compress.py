"""The one call, and continuing it after kill -9."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import gossamer
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import KMeans
from gossamer.recipe import Cubic, Gauge, Recipe, Step
from gossamer.train import Training

WORK = Path(__file__).with_name("killed.py")


def make() -> tuple[nn.Module, gossamer.Task]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 8, generator=generator)
    data = (inputs, (inputs[:, 0] > inputs[:, 1]).long())
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    return model, gossamer.Task.classification("order", data, test=data)


RECIPE = Recipe(
    name="small",
    steps=(
        Step(method=Magnitude(sparsity=0.5), schedule=Cubic(end=0.5, every=1), train=Training(epochs=2, batch_size=32)),
        Step(method=KMeans(bits=3), train=Training(epochs=1, batch_size=32)),
    ),
)


def test_a_model_becomes_a_file_and_a_report(tmp_path):
    model, task = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = gossamer.compress(model, task, RECIPE, out=tmp_path / "new" / "m.goss", report=True, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.path.stat().st_size == result.report.end.weights_only.value
    fresh = gossamer.load(result.path).into(make()[0])
    inputs = torch.randn(5, 8)
    assert torch.equal(fresh(inputs), result.model(inputs))
    written = json.loads((tmp_path / "new" / "m.goss.report.json").read_text())
    assert [step["name"] for step in written["steps"]] == ["prune.magnitude", "share.kmeans"]
    assert written["test_after"]["accuracy"]["basis"] == "measured"
    assert gossamer.verify(result.path) == []


def test_a_run_that_fails_in_its_first_step_leaves_no_file(tmp_path):
    model, task = make()
    recipe = Recipe(name="odd", steps=(Step(method=Magnitude(sparsity=0.5, include=("nothing",))),))
    with pytest.raises(gossamer.GossamerError):
        gossamer.compress(model, task, recipe, out=tmp_path / "m.goss", report=True, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m.goss.run"]


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    model, task = make()
    RECIPE.save(tmp_path / "r.toml")
    gauge = Gauge(graph=False)
    one = gossamer.compress(model, task, tmp_path / "r.toml", out=tmp_path / "1.goss", gauge=gauge, progress=False)
    two = gossamer.compress(model, task, RECIPE, out=tmp_path / "2.goss", gauge=gauge, progress=False)
    assert one.path.read_bytes() == two.path.read_bytes()
    with pytest.raises(gossamer.GossamerError, match="no built-in recipe"):
        gossamer.compress(model, task, "unheard-of", out=tmp_path / "3.goss", progress=False)


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.Popen([sys.executable, str(WORK), str(folder)], env=environment, stderr=subprocess.PIPE)


def finish(folder: Path) -> bytes:
    process = start(folder)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors.decode()
    return (folder / "out.goss").read_bytes()


def written(folder: Path) -> frozenset[tuple[str, int]]:
    """Return what is in the folder now: names and times of change."""
    found = set()
    for place, _, names in os.walk(folder):  # unlike rglob, it bears folders that vanish under it
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(path), path.stat().st_mtime_ns))
    return frozenset(found)


def kill_after(folder: Path, writes: int, delay: float) -> bool:
    """Start the run, kill it ``delay`` seconds after so many writes were seen; return whether it had not ended."""
    process = start(folder)
    state = written(folder)
    while process.poll() is None and writes:
        now = written(folder)
        writes -= now != state
        state = now
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_file(tmp_path):
    whole, broken = finish(tmp_path / "whole"), tmp_path / "broken"
    chance = random.Random(0)
    kills = [kill_after(broken, chance.randint(2, 14), chance.uniform(0, 0.05)) for _ in range(4)]
    assert sum(kills) >= 2
    assert finish(broken) == whole
    reports = [json.loads((folder / "out.goss.report.json").read_text()) for folder in (tmp_path / "whole", broken)]
    for report in reports:
        for step in report["steps"]:
            del step["seconds"]
    assert reports[0] == reports[1]
