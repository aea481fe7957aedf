"""The documentation: its generated parts are current, its links lead somewhere, and what it shows runs."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gossamer.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
TRAINS = {"README.md", "docs/tutorial.md", "docs/methods/prune.md", "docs/packing.md", "docs/recipes.md"}
"""Pages whose blocks train a network, or work as long."""


def load_generator():
    sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages():
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [str(page.relative_to(ROOT)) for page in found]


def blocks(page, *languages):
    return [(kind, text) for kind, text in BLOCK.findall((ROOT / page).read_text()) if kind in languages]


def runnable(slow):
    return [page for page in pages() if blocks(page, "python", "console") and (page in TRAINS) is slow]


@pytest.fixture(scope="module")
def generator():
    return load_generator()


@pytest.mark.parametrize("page", pages())
def test_generated_parts_are_current(generator, page):
    text = (ROOT / page).read_text()
    assert generator.generated(text) == text, "run `make docs`"


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    targets = [link for link in LINK.findall((ROOT / page).read_text()) if "://" not in link]
    missing = [link for link in targets if not (folder / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page, "toml")])
def test_recipes_shown_are_recipes(page):
    for _, text in blocks(page, "toml"):
        recipe = Recipe.from_toml(text if text.startswith(("name", "#")) else f'name = "shown"\n{text}')
        assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("page", runnable(slow=False))
def test_blocks_run(page, tmp_path):
    run_blocks(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable(slow=True))
def test_blocks_that_train_run(page, tmp_path):
    run_blocks(page, tmp_path)


def run_blocks(page, folder):
    """Run a page's blocks in order in a folder that has the examples; `make` runs this test, and is left out."""
    (folder / "examples").symlink_to(ROOT / "examples")
    for kind, text in blocks(page, "python", "console"):
        if kind == "python":
            (folder / "block.py").write_text(text)
            run([sys.executable, "block.py"], folder)
            continue
        joined = re.sub(r"\\\n\s*", "", text)
        for line in joined.splitlines():
            if line.startswith("$ ") and not line.startswith("$ make"):
                run(["bash", "-euc", line.removeprefix("$ ")], folder)


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_tables_of_settings_show_the_choices(generator):
    shown = generator.settings("gossamer.methods.prune.magnitude:Magnitude")
    assert "| `scope` | `global` | one of global, layer, row |" in shown
    assert "one of adamw, sgd" in (ROOT / "docs" / "recipes.md").read_text()


def test_benchmarks_say_in_one_way_where_they_come_from():
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "provenance.py"]
    asking = [path.name for path in scripts if "rev-parse" in path.read_text() or "import platform" in path.read_text()]
    assert scripts
    assert asking == []


def test_a_commit_with_changed_files_stays_marked_in_the_tables(generator):
    import benchmark_tables

    assert benchmark_tables._short("0123456789abcdef0123456789abcdef01234567") == "0123456789ab"
    assert benchmark_tables._short("0123456789ab+changes") == "0123456789ab+changes"
