"""Outputs are checked before any work: no input is overwritten, no place is found unwritable at the end."""

import os

import pytest
from typer.testing import CliRunner

from gossamer.cli.app import app
from gossamer.cli.places import writable
from gossamer.errors import SettingError


def refused(*arguments):
    shown = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert shown.exit_code == 2, shown.output
    assert "Traceback" not in shown.stderr
    return " ".join(shown.stderr.split())


def test_no_input_is_overwritten(tmp_path):
    weights = tmp_path / "w.goss"
    weights.write_bytes(b"precious")
    link = tmp_path / "link.goss"
    link.symlink_to(weights)
    for output in (weights, tmp_path / "sub" / ".." / "w.goss", link):
        said = refused("compress", "zoo:mlp-digits", "--weights", weights, "-o", output)
        assert "is read by this command" in said
    assert weights.read_bytes() == b"precious"
    assert list(tmp_path.glob("*.run")) == []


@pytest.mark.parametrize("given", ["{}:build", "text:{}", "{}"])
def test_an_input_may_be_part_of_a_text(tmp_path, given):
    file = tmp_path / "net.py"
    file.touch()
    with pytest.raises(SettingError, match="would be overwritten"):
        writable(file, suffixes=[".py"], inputs=[None, given.format(file)])


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (("compress", "zoo:mlp-digits", "-o", "net.py"), ".goss"),
        (("export", "x.goss", "-o", "x.goss"), ".onnx"),
        (("train", "zoo:mlp-digits", "-o", "x.pt"), ".safetensors"),
        (("run", "x.goss", "--input", "x.npy", "-o", "x.npy"), ".npz"),
        (("scan", "zoo:mlp-digits", "-o", "x.goss"), ".json"),
        (("allocate", "x.json", "-o", "x.json"), ".toml"),
        (("demo", "-o", "x.onnx"), ".goss"),
    ],
)
def test_the_ending_says_what_is_written(tmp_path, monkeypatch, command, wanted):
    monkeypatch.chdir(tmp_path)
    assert f"wanted an output ending in {wanted}" in refused(*command)
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_for_arrays():
    assert "--output is for the outputs of --input" in refused("run", "x.goss", "--data", "digits", "-o", "y.npz")


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "folder.goss").mkdir()
    (tmp_path / "file").touch()
    assert "is a folder" in refused("compress", "zoo:mlp-digits", "-o", tmp_path / "folder.goss")
    assert "is not a folder" in refused("compress", "zoo:mlp-digits", "-o", tmp_path / "file" / "out.goss")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written to" in refused("compress", "zoo:mlp-digits", "-o", tmp_path / "deep" / "out.goss")
