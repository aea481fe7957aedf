"""Damaged and hostile files: an `ArtifactError` or a sound artifact, and nothing else (SPEC.md 6.1)."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from gossamer.artifact import loads, problems

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_artifact.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_artifact", FUZZ)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(fuzz, kind, count: int, seed: int) -> Counter[str]:
    return Counter(fuzz.judge(data) for data in fuzz.campaign(kind, count, seed))


def test_the_seeds_are_sound_and_hold_every_node(fuzz):
    trees = [line for data in fuzz.seeds() for line in map(str, loads(data).tensors.values())]
    for node in (
        "Dense",
        "Packed",
        "Entropy",
        "Gaps",
        "Bitmap",
        "Sparse",
        "Codebook",
        "Affine",
        "Planes",
        "Hash",
        "Runs",
        "Reshape",
        "Paths",
    ):
        assert any(node in tree for tree in trees), node
    assert all(problems(loads(data)) == [] for data in fuzz.seeds())


def test_damaged_files(fuzz):
    """With checksums in place nothing that loads may have problems."""
    found = outcomes(fuzz, fuzz.damaged, 2000, 1)
    assert set(found) <= {"refused", "sound"}
    assert found["refused"] > 1900


def test_resealed_files(fuzz):
    """With matching checksums a tensor may turn out broken when decoded, and is then named as a problem."""
    found = outcomes(fuzz, fuzz.resealed, 150, 2)
    assert set(found) <= {"refused", "sound", "problems"}
    assert found["refused"] > 50
    assert found["sound"] + found["problems"] > 5, "what is resealed is meant to get past the checksums"


@pytest.mark.slow
def test_thousands_of_each(fuzz):
    assert set(outcomes(fuzz, fuzz.damaged, 5_000, 3)) <= {"refused", "sound"}
    assert set(outcomes(fuzz, fuzz.resealed, 1_500, 4)) <= {"refused", "sound", "problems"}
