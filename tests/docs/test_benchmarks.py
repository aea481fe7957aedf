"""The benchmark scripts can be started: what they import is there, or they say which packages they need beside."""

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    try:
        assert runpy.run_path(str(script), run_name="benchmark")["__doc__"]
    except SystemExit as stop:
        if "this benchmark needs the package" not in str(stop):
            raise
        pytest.skip(str(stop))
