"""``gossamer train`` from the command line."""

import json

import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from gossamer import zoo
from gossamer.cli.boundary import guarded
from gossamer.cli.train import train

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(guarded(train, resumes=True))


def gossamer(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_zoo_network_is_trained_and_its_weights_written(tmp_path):
    out = tmp_path / "w.safetensors"
    done = gossamer("zoo:mlp-digits", "--epochs", 5, "--seed", 3, "-o", out, "--test", "--json", "--threads", 1)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["validation"]["accuracy"] > 0.9
    assert told["test"]["accuracy"] > 0.9
    assert told["seed"] == 3
    zoo.build("mlp-digits").load_state_dict(load_file(out))
    assert done.stderr.count("epoch ") == 5
    again = gossamer("zoo:mlp-digits", "--epochs", 5, "--seed", 3, "-o", out, "--test", "--json")
    assert json.loads(again.stdout) == told
    assert "epoch " not in again.stderr
    longer = gossamer("zoo:mlp-digits", "--epochs", 6, "--seed", 3, "-o", out)
    assert longer.exit_code == 2
    assert "other settings" in longer.stderr
    restarted = gossamer("zoo:mlp-digits", "--epochs", 6, "--seed", 3, "-o", out, "--restart")
    assert restarted.exit_code == 0
    assert "validation" in restarted.stdout
    assert str(out) in restarted.stdout


def test_ones_own_network_data_and_settings(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from gossamer.task import Task\n"
        "def build():\n    return torch.nn.Linear(2, 1)\n"
        "def task():\n"
        "    x = torch.linspace(-1, 1, 80).reshape(40, 2)\n"
        "    return Task.regression('sum', (x, x.sum(1, keepdim=True)))\n"
    )
    (tmp_path / "settings.toml").write_text('[training]\nepochs = 60\nlr = 0.2\nbatch_size = 12\nschedule = "cosine"\n')
    out = tmp_path / "w.safetensors"
    words = [f"{tmp_path}/mine.py:build", "--data", f"{tmp_path}/mine.py:task", "-o", out, "--json"]
    done = gossamer(*words, "--config", tmp_path / "settings.toml", "--set", "batch_size=18")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["validation"]["mse"] < 1e-3
    assert told["epochs"] == 60
    assert "test" not in told
    refused = gossamer(*words, "--weights", out)
    assert "would be overwritten" in " ".join(refused.stderr.split())
    more = gossamer(*words, "-o", tmp_path / "more.safetensors", "--weights", out, "--epochs", 1, "--set", "lr=1e-9")
    assert json.loads(more.stdout)["validation"]["mse"] < 1e-3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["zoo:mlp-digit"], "did you mean 'mlp-digits'"),
        (["zoo:edges"], "--data"),
        (["zoo:resnet152"], "name yours with --data; it takes float32 (1, 3, 224, 224)"),
        (["zoo:seq2seq-gru"], "it takes int64 (1, 20) and int64 (1, 16)"),
        (["zoo:mlp-digits", "--data", "digit"], "did you mean 'digits'"),
        (["zoo:mlp-digits", "--set", "speed=1"], "speed"),
        (["zoo:mlp-digits", "--set", "lr"], "NAME=VALUE"),
        (["zoo:mlp-digits", "--set", "lr=-1"], "lr"),
        (["zoo:mlp-digits", "--config", "none.toml"], "none.toml"),
        (["zoo:mlp-digits", "--data", "xor"], "cannot be called with task 'xor'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    done = gossamer(*words)
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_help_says_that_a_run_is_continued():
    done = gossamer("--help")
    assert done.exit_code == 0
    assert "the same command continues" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "epochs=0",
            ["training, field epochs: Expected `int` >= 1, got 0", "hint: epochs is a whole number of at least 1"],
        ),
        ("optimizer=adam", ["wanted one of adamw, sgd, got 'adam'", "hint: optimizer is one of adamw, sgd"]),
        ("epoch=3", ["training: unknown field 'epoch'", "hint: did you mean 'epochs'?"]),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_what_can(tmp_path, change, said):
    done = gossamer("zoo:mlp-digits", "--set", change, "-o", tmp_path / "w.safetensors")
    assert done.exit_code == 2
    for words in said:
        assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training = 3", "training: wanted a table, got 3"),
        ("[training]\nlr = -1", "training, field lr: Expected `float` > 0.0, got -1"),
        ("dta = 'digits'", "unknown field 'dta'"),
        ("data = ", "not TOML"),
    ],
)
def test_a_file_of_settings_that_cannot_be_read_is_named(tmp_path, text, said):
    (tmp_path / "s.toml").write_text(text)
    done = gossamer("zoo:mlp-digits", "--config", tmp_path / "s.toml", "-o", tmp_path / "w.safetensors")
    assert done.exit_code == 2
    assert f"error: {tmp_path / 's.toml'}" in done.stderr
    assert said in " ".join(done.stderr.split())
