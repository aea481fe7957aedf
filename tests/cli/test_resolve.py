"""Models and data named on the command line: what is found, and what is said when it is not."""

import textwrap

import pytest
from torch import nn

from gossamer.cli.resolve import factory, made, near
from gossamer.errors import DataError, ModelError

MODULE = """
    from torch import nn
    def build(): return nn.Linear(2, 3)
    def broken(): return undefined_name
    def number(): return 7
    def needy(size): return nn.Linear(size, size)
    constant = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_net.py"
    path.write_text(textwrap.dedent(MODULE))
    return path


def test_file_and_name(file):
    model = made(f"{file}:build", wanted=nn.Module, kind=ModelError)
    assert tuple(model.weight.shape) == (3, 2)


def test_package_and_name():
    assert factory("torch.nn:Identity", kind=ModelError) is nn.Identity


def test_a_file_imports_its_neighbours(file):
    (file.parent / "beside.py").write_text("from my_net import build as make\n")
    assert isinstance(made(f"{file.parent / 'beside.py'}:make", wanted=nn.Module, kind=ModelError), nn.Linear)


@pytest.mark.parametrize(
    ("spec", "said", "hint"),
    [
        ("nothing", "wanted file.py:factory or package.module:factory", None),
        ("{file}:", "wanted file.py:factory", None),
        ("missing.py:build", "missing.py: no such file", None),
        ("{file}:biuld", "has no 'biuld'", "did you mean 'build'?"),
        ("{file}:constant", "is of type int, wanted a function or class", None),
        ("{file}:number", "returned a value of type int, wanted Module", None),
        ("{file}:broken", "my_net.py:4: NameError: name 'undefined_name' is not defined", None),
        (
            "{file}:needy",
            "needy needs the arguments size, wanted a function or class that takes none",
            "write a function without arguments that calls it with yours",
        ),
        ("no.such.package:build", "module 'no.such.package' cannot be imported", None),
        ("some/where:build", "cannot be imported", "for a file write path/to/file.py:factory"),
    ],
)
def test_a_mistake_is_named(file, spec, said, hint):
    with pytest.raises(ModelError) as caught:
        made(spec.format(file=file), wanted=nn.Module, kind=ModelError)
    assert said in caught.value.message
    assert caught.value.hint == hint


def test_a_file_that_does_not_run_names_the_line(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\ny = (\n")
    with pytest.raises(DataError, match=r"bad\.py cannot be run, at .*bad\.py:2: SyntaxError"):
        made(f"{tmp_path / 'bad.py'}:task", wanted=object, kind=DataError)


def test_near_lists_all_when_none_is_close():
    assert near("lenet", ["gru", "lenet-5"]) == "did you mean 'lenet-5'?"
    assert near("xyz", ["b", "a"]) == "there is a, b"
    assert near("xyz", []) is None
