"""Rewinding: which values come back, what goes on holding, how a recipe says it, and a killed run."""

import shutil

import pytest
import torch
from torch import nn

from gossamer import recipe as recipes
from gossamer.errors import RecipeError
from gossamer.methods.factorize import Svd
from gossamer.methods.prune import Magnitude
from gossamer.methods.share import KMeans
from gossamer.model import Mask, Plan, Subject, apply, live_weight
from gossamer.recipe import Gauge, Recipe, Step
from gossamer.recipe.rewind import rewound
from gossamer.recipe.state import load_subject
from gossamer.train import Training, train

SHORT = Training(epochs=2, lr=0.02, batch_size=20)
TICKET = Recipe(
    name="ticket",
    steps=(
        Step(train=Training(epochs=1, lr=0.02, batch_size=20, keep="last")),
        Step(train=SHORT),
        Step(method=Magnitude(sparsity=0.5), rewind=1, train=SHORT),
        Step(method=Magnitude(sparsity=0.75), rewind=0, train=SHORT),
    ),
)


def run(recipe, subject, task, folder):
    return recipes.run(recipe, subject, task, folder, gauge=Gauge(graph=False))


def test_values_come_back_under_the_mask_and_statistics_with_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    start = Subject.of(model, torch.zeros(2, 4))
    keep = torch.rand(3, 4) > 0.5
    later = start.copy()
    with torch.no_grad():
        for value in later.model.state_dict().values():
            value.add_(1)
    later = apply(later, Plan("x", {"0.weight": Mask(keep)}))
    found = rewound(later, start)
    assert torch.equal(live_weight(found, "0.weight"), torch.where(keep, model[0].weight.detach(), 0))
    for name in ("bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(found.model[1], name), getattr(model[1], name))
    assert torch.equal(found.model[0].bias, model[0].bias)
    assert not torch.equal(later.model[0].bias, model[0].bias)


def test_what_cannot_be_rewound_is_said():
    subject = Subject.of(nn.Sequential(nn.Linear(8, 8)), torch.zeros(1, 8))
    with pytest.raises(RecipeError, match=r"structure has changed since \(0\.0\.weight"):
        rewound(apply(subject, Svd(criterion="rank", amount=2).plan(subject)), subject)
    with pytest.raises(RecipeError, match=r"0\.weight: its values are shared"):
        rewound(apply(subject, KMeans(bits=2).plan(subject)), subject)


def test_a_step_trains_from_the_values_it_goes_back_to(subject, task, tmp_path):
    outcome = run(TICKET, subject, task, tmp_path)
    for number, source in ((3, 1), (4, 0)):
        end = load_subject(tmp_path / f"step-{number:02d}", subject)
        masks = {name: held.mask for name, held in end.constraints.items()}
        again = apply(load_subject(tmp_path / f"step-{source:02d}", subject), Plan("x", masks))
        train(again, task, SHORT)
        for name in subject.sites:
            assert torch.equal(live_weight(again, name), live_weight(end, name))
    values = torch.cat([live_weight(outcome.subject, name).flatten() for name in subject.sites])
    assert int((values == 0).sum()) == 180
    # The mask was chosen by the weights that were trained, not by those it went back to.
    trained = load_subject(tmp_path / "step-02", subject)
    chosen = apply(trained, Magnitude(sparsity=0.5).plan(trained))
    third = load_subject(tmp_path / "step-03", subject)
    for name in subject.sites:
        assert torch.equal(chosen.constraints[name].mask.keep, third.constraints[name].mask.keep)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_killed_run_ends_with_the_same_bits(subject, task, tmp_path, kept):
    whole = run(TICKET, subject, task, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for number in range(kept + 1, 5):
        shutil.rmtree(tmp_path / "broken" / f"step-{number:02d}")
    again = run(TICKET, subject, task, tmp_path / "broken")
    assert again.file.read_bytes() == whole.file.read_bytes()


def test_as_text():
    text = TICKET.to_toml()
    assert "rewind = 0" in text
    assert Recipe.from_toml(text) == TICKET
    assert Recipe.from_toml(text).to_toml() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rewind = 1\ntrain = { epochs = 1 }", ["step 1 (train), rewind", "0 (the start) to 0", "got 1"]),
        ("rewind = -1\ntrain = { epochs = 1 }", ["step 1 (train), rewind", "got -1"]),
        ("rewind = 'start'\ntrain = { epochs = 1 }", ["step 1, field rewind", "'start'"]),
        ("rewind = true\ntrain = { epochs = 1 }", ["step 1, field rewind", "True"]),
        ("rewind = 0\nmethod = 'prune.magnitude'\nsparsity = 0.5", ["step 1", "prune.magnitude", "no train table"]),
        ("rewind = 0", ["step 1", "a method, a training"]),
    ],
)
def test_errors_name_the_step(text, words):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(f"name = 'x'\n[[step]]\n{text}")
    for word in words:
        assert word in str(caught.value)
