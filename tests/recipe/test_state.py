"""Subjects on disk and back, and evidence that is collected once."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.errors import RecipeError
from gossamer.methods.factorize import Svd
from gossamer.methods.prune import Magnitude
from gossamer.methods.quantize import PostTraining
from gossamer.methods.share import KMeans
from gossamer.model import Subject, apply, freeze
from gossamer.recipe import evidence
from gossamer.recipe.evidence import Collector
from gossamer.recipe.state import load_subject, save_subject
from gossamer.targets import static_loop


class Tied(nn.Module):
    """An embedding tied to the output, a GRU, a batch norm and a linear layer of half-precision size."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 12)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.gru(self.embed(tokens))[0][:, -1]
        return self.out(self.norm(self.mix(hidden)))


def made(steps: list) -> tuple[Subject, Subject]:
    torch.manual_seed(0)
    original = Subject.of(Tied().eval(), torch.arange(6).view(2, 3))
    subject = original
    for method in steps:
        subject = apply(subject, method.plan(subject, None))
    with torch.no_grad():
        subject.model.norm.running_mean += 0.5
    return original, subject


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [Svd(criterion="rank", amount=2)],
        [Magnitude(sparsity=0.5), KMeans(bits=2)],
        [Svd(criterion="rank", amount=3), Magnitude(sparsity=0.3), KMeans(bits=3)],
        [Magnitude(sparsity=0.4), PostTraining(inputs=False, weight_bits=8)],
    ],
    ids=lambda steps: "+".join(step.tag for step in steps),
)
def test_a_subject_comes_back_as_it_was(steps, tmp_path):
    original, subject = made(steps)
    save_subject(tmp_path, subject, original)
    back = load_subject(tmp_path, original)
    assert back.edits == subject.edits
    assert back.constraints.keys() == subject.constraints.keys()
    state = subject.model.state_dict()
    assert back.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in back.model.state_dict().items())
    assert torch.equal(back.model(*back.args), subject.model(*subject.args))
    assert freeze(back).aliases == freeze(subject).aliases
    assert [name for name, _ in back.model.named_parameters()] == [name for name, _ in subject.model.named_parameters()]
    trains = [parameter.requires_grad for parameter in subject.model.parameters()]
    assert [parameter.requires_grad for parameter in back.model.parameters()] == trains


def test_input_grids_come_back(subject, task, tmp_path):
    found = Collector(task).get(subject, frozenset({"range"}))
    quantized = apply(subject, PostTraining().plan(subject, found))
    save_subject(tmp_path, quantized, subject)
    back = load_subject(tmp_path, subject)
    inputs = task.validation.batch(torch.arange(9)).args[0]
    assert back.activations.keys() == {"0.weight", "2.weight"}
    assert torch.equal(back.model(inputs), quantized.model(inputs))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 3)

    def forward(self, x):
        return self.gru(x)[0]


def test_output_grids_come_back(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(32, 2)).eval()
    subject = Subject.of(model, torch.randn(3, 1, 6, 6))
    found = calibrate(subject, [(subject.args, {}, None)], {"range"})
    quantized = apply(subject, PostTraining().plan(subject, found))
    assert "0:output" in quantized.activations
    save_subject(tmp_path, quantized, subject)
    back = load_subject(tmp_path, subject)
    assert back.activations.keys() == quantized.activations.keys()
    assert torch.equal(back.model(*subject.args), quantized.model(*subject.args))


def test_state_grids_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", {"GRU": 1})
    subject = Subject.of(Recurrent().eval(), torch.randn(5, 2, 4))
    found = calibrate(subject, [(subject.args, {}, None)], {"range"})
    quantized = apply(subject, PostTraining(states="static").plan(subject, found))
    assert "gru.weight_hh_l0" in quantized.activations
    save_subject(tmp_path, quantized, subject)
    back = load_subject(tmp_path, subject)
    assert back.activations.keys() == quantized.activations.keys()
    assert torch.equal(back.model(*subject.args), quantized.model(*subject.args))


def test_a_state_of_another_model_is_refused(subject, tmp_path):
    original, other = made([Magnitude(sparsity=0.5)])
    save_subject(tmp_path, other, original)
    with pytest.raises(RecipeError, match="cannot be read back"):
        load_subject(tmp_path, subject)


def test_evidence_is_collected_once_until_weights_change(subject, task, monkeypatch):
    asked = []
    original = evidence.calibrate

    def calibrate(live, batches, needs, **more):
        asked.append(set(needs))
        return original(live, batches, needs, **more)

    monkeypatch.setattr(evidence, "calibrate", calibrate)
    collector = Collector(task, samples=40)
    assert collector.get(subject, frozenset()) is None
    first = collector.get(subject, frozenset({"mean"}))
    assert collector.get(subject, frozenset({"mean"})) is first
    assert collector.get(subject, frozenset({"range"})).kinds == {"mean", "range"}
    collector.forget()
    collector.get(subject, frozenset({"mean"}))
    assert asked == [{"mean"}, {"mean", "range"}, {"mean"}]


def test_calibration_reads_a_seeded_sample_of_the_train_split(subject, task):
    ranges = [Collector(task, seed, 20).get(subject, frozenset({"range"})).range("0.weight") for seed in (0, 0, 1)]
    assert ranges[0] == ranges[1]
    assert ranges[0] != ranges[2]
