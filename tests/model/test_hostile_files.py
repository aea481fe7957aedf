"""Files whose header was tampered with: reading, filling a model and running end in an error of ours or in order."""

import importlib.util
import random
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from gossamer.artifact import Artifact, container, dumps, loads, problems
from gossamer.errors import ArtifactError, GossamerError
from gossamer.model import (
    Drop,
    Fold,
    Grid,
    Mask,
    Plan,
    Resize,
    Split,
    Subject,
    apply,
    edit_to_dict,
    freeze,
    to_artifact,
)
from gossamer.model.load import Loaded
from gossamer.targets import OnnxRuntime, frozen_graph

spec = importlib.util.spec_from_file_location(
    "fuzz_artifact", Path(__file__).parents[2] / "benchmarks" / "fuzz_artifact.py"
)
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3))


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    model = network()
    model[4].bias.requires_grad_(False)
    subject = Subject.of(model.eval(), torch.zeros(2, 4))
    grid = Grid(torch.full((3,), 0.01), torch.zeros(3, dtype=torch.int32), 8, True, 0)
    plan = Plan(
        "test",
        constraints={"4.weight": grid, "3.1.weight": Mask(torch.ones(5, 2, dtype=torch.bool))},
        edits=(Split("3", 2), Fold("batch_norm", "0", norm="1")),
        tensors={"3.0.weight": torch.randn(2, 6), "3.1.weight": torch.randn(5, 2)},
        activations={"4.weight": Grid(torch.tensor(0.1), torch.tensor(3), 8, False)},
    )
    frozen = freeze(apply(subject, plan))
    return to_artifact(frozen, graph=frozen_graph(frozen, subject.args))


def use(artifact: Artifact) -> None:
    loaded = Loaded(artifact)
    assert loaded.activations.keys() == artifact.activations.keys()
    runtime = OnnxRuntime()
    for act in (
        lambda: loaded.into(network()),
        lambda: runtime.refuses(artifact),
        lambda: runtime.lowers(artifact),
        lambda: runtime.run(artifact, np.zeros((1, 4), np.float32)),
    ):
        try:
            act()
        except GossamerError:
            continue


def test_the_untouched_file_is_in_order(artifact):
    found = loads(dumps(artifact))
    assert problems(found) == []
    assert OnnxRuntime().refuses(found) == []
    Loaded(found).into(network())
    use(found)


WRONG = [{"edits": [{"edit": "split", "module": "3", "rank": rank}]} for rank in ("x", 1.5, 0, None, True)] + [
    {"edits": [{"edit": "fold", "kind": "batch_norm", "module": "0", "attribute": 3, "norm": "1"}]},
    {"edits": [{"edit": "fold", "kind": "other", "module": "0"}]},
    {"edits": [{"edit": "resize", "shapes": [["0.weight", [0, 4]]]}]},
    {"edits": [{"edit": "resize", "shapes": [], "constants": [["", "training", "x"]]}]},
    {"edits": [{"edit": "drop", "module": 3}]},
    {"edits": [{"edit": "drop", "module": "1", "rank": 2}]},
    {"meta": {"fixed": 3}},
    {"meta": {"fixed": ["a", 1]}},
    {"activations": {"4.weight": {}}},
    {"activations": {"4.weight": {"scale": "q", "zero": 3, "bits": 8, "signed": False}}},
    {"activations": {"4.weight": {"scale": 0.0, "zero": 3, "bits": 8, "signed": False}}},
    {"activations": {"4.weight": {"scale": 1e300, "zero": 3, "bits": 8, "signed": False}}},
    {"activations": {"4.weight": {"scale": 0.1, "zero": 1000, "bits": 8, "signed": False}}},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_records_of_the_wrong_form_are_refused(artifact, wrong):
    with pytest.raises(ArtifactError, match=f"{next(iter(wrong))}"):
        dumps(replace(artifact, **wrong))
    use(artifact)
    if "activations" in wrong:
        with pytest.raises(ArtifactError, match="activations"):
            OnnxRuntime().run(replace(artifact, **wrong), np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "split", "module": "3", "rank": 3},
        {"edit": "unheard-of"},
        edit_to_dict(Drop("9")),
        edit_to_dict(Drop("")),
        edit_to_dict(Drop("0")),
        edit_to_dict(Split("3", 999)),
        edit_to_dict(Split("9", 1)),
        edit_to_dict(Fold("batch_norm", "3", norm="1")),
        edit_to_dict(Fold("weight_norm", "0", "no such")),
        edit_to_dict(Resize((("0.weight", (1, 1)),), (("7", "training", 1),))),
    ],
)
def test_edits_that_do_not_fit_the_model_are_told(artifact, edit):
    found = loads(dumps(replace(artifact, edits=[edit])))
    with pytest.raises(GossamerError):
        Loaded(found).into(network())


def test_tampered_records_never_raise_anything_else(artifact, monkeypatch):
    monkeypatch.setattr(container, "checksum", lambda *_: 0)
    data, rng = dumps(artifact), random.Random(0)
    header, start = container.read_header(data)
    for _ in range(150):
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(header))
        records = plain[3:6]  # edits, activations, meta
        fuzz._tamper(records, rng)
        raw = msgspec.msgpack.encode([*plain[:3], *records, *plain[6:]])
        prefix = container.PREFIX.pack(container.MAGIC, container.VERSION, 0, len(raw), 0)
        try:
            found = loads(prefix + raw + data[start:])
        except ArtifactError:
            continue
        use(found)
