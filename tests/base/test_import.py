"""What ``import gossamer`` offers and what it costs."""

import subprocess
import sys

import pytest

import gossamer


def test_import_alone_is_light():
    program = (
        "import sys, gossamer\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'lightning_fabric', 'typer', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", gossamer.__all__)
def test_every_public_name_is_there(name):
    found = getattr(gossamer, name)
    assert name in dir(gossamer)
    if name != "__version__":
        assert callable(found)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'squash'"):
        gossamer.squash  # noqa: B018
