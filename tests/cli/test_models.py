"""Weights given on the command line: every form that is read, and what is said when they do not fit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gossamer.cli.models import model_of
from gossamer.errors import ModelError, StateError

MODEL = """
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)
        self.outer.weight = self.inner.weight

def plain(): return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
def tied(): return Tied()
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return f"{path}:plain"


@pytest.fixture
def trained():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def same(model, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_safetensors(spec, trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model = model_of(spec, tmp_path / "w.safetensors")
    assert same(model, trained)
    assert not model.training


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict_of_torch(spec, trained, tmp_path, wrap):
    torch.save(wrap(trained.state_dict()), tmp_path / "w.pt")
    assert same(model_of(spec, tmp_path / "w.pt"), trained)


def test_code_in_a_file_is_not_run(spec, trained, tmp_path):
    torch.save(trained, tmp_path / "w.pt")
    with pytest.raises(StateError, match="cannot be read without running code"):
        model_of(spec, tmp_path / "w.pt")


def test_ties_are_filled_through_their_other_name(spec, tmp_path):
    weight = torch.arange(16.0).reshape(4, 4)
    biases = {"inner.bias": torch.ones(4), "outer.bias": torch.zeros(4)}
    save_file({"inner.weight": weight, **biases}, tmp_path / "w.safetensors")
    model = model_of(spec.replace("plain", "tied"), tmp_path / "w.safetensors")
    assert torch.equal(model.outer.weight, weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("2.bias"), "it lacks 2.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "it also has extra"),
        (lambda state: state.update({"0.weight": torch.zeros(3, 5)}), "size mismatch for 0.weight"),
    ],
)
def test_weights_that_do_not_fit(spec, trained, tmp_path, change, said):
    state = trained.state_dict()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="does not fit the model") as caught:
        model_of(spec, tmp_path / "w.safetensors")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.safetensors", None, "no such file of weights"),
        ("w.bin", b"x", "wanted a file ending in"),
        ("w.safetensors", b"nonsense", "is not a sound safetensors file"),
        ("w.pt", b"nonsense", "cannot be read without running code"),
        ("w.pt", b"", "cannot be read without running code"),
    ],
)
def test_unusable_files_of_weights(spec, tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ModelError, StateError), match=said):
        model_of(spec, path)


def test_the_zoo(tmp_path):
    model = model_of("zoo:lenet5")
    assert sum(parameter.numel() for parameter in model.parameters()) == 431_080
    with pytest.raises(ModelError, match="no network called 'lenet'"):
        model_of("zoo:lenet")


def test_names_with_a_prefix_are_told_in_a_line(spec, trained, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({f"module.{name}": value for name, value in trained.state_dict().items()}, path)
    with pytest.raises(ModelError, match=r"lacks .* and 1 more") as caught:
        model_of(spec, path)
    assert "begin with 'module.'" in caught.value.hint


def test_new_weights_are_the_same_each_time(spec):
    assert same(model_of(spec), model_of(spec))
    assert not same(model_of(spec), model_of(spec, seed=1))
