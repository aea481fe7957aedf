"""Every script under examples/ runs."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAINS = {"edges.py", "my_training.py", "quickstart.py", "xor.py"}
"""Scripts that take more than a few seconds."""


def scripts():
    found = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())
    assert found
    return [pytest.param(name, marks=[pytest.mark.slow] if name in TRAINS else []) for name in found]


@pytest.mark.parametrize("name", scripts())
def test_it_runs_and_says_something(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Warning" not in done.stderr
