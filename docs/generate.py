"""Write the generated parts of the documentation: ``python docs/generate.py`` (``--check`` only compares).

A page marks such a part by two comments, ``<!-- begin KIND ARGUMENT -->`` and ``<!-- end -->``. What stands between
them is made from the declarations of settings, the built-in recipes, the commands' own help, and committed results.
"""

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from benchmark_tables import compressed, everything, table
from typer.testing import CliRunner

from gossamer import zoo
from gossamer.cli.app import EXAMPLES, app
from gossamer.settings import Settings, describe

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- begin (?P<kind>[a-z]+)(?: (?P<argument>\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> Iterator[Path]:
    """Yield every page that may hold generated parts."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def generated(text: str) -> str:
    """Return a page's text with every generated part made anew."""

    def fill(match: re.Match[str]) -> str:
        made = KINDS[match["kind"]](match["argument"] or "")
        return f"{match[1]}{made.rstrip()}\n{match[4]}"

    return MARK.sub(fill, text)


def settings(where: str) -> str:
    """Return the table of fields of a settings class given as ``package.module:Class``."""
    module, _, name = where.partition(":")
    kind: type[Settings] = getattr(importlib.import_module(module), name)
    rows = [
        (f"`{field.name}`", _default(field.default), field.values, field.text)
        for field in describe(kind)
        if field.name not in {"include", "exclude"}
    ]
    return table(("setting", "default", "may be", "meaning"), rows)


def family(name: str) -> str:
    """Return a section for every method of a family: what it does, where it comes from, its settings."""
    parts = []
    for kind in importlib.import_module(f"gossamer.methods.{name}").METHODS:
        what = inspect.cleandoc(kind.__doc__ or "").partition("\n\nRaises:")[0].replace("``", "`")
        source = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "").replace("``", "`")
        where = f"{kind.__module__}:{kind.__name__}"
        head = f"## {kind.__struct_config__.tag}"
        parts.append(f"{head}\n\n{what}\n\n> {_quoted(source)}\n\n`{where}`\n\n{settings(where)}")
    return "\n\n".join(parts)


def recipes(_: str) -> str:
    """Return the built-in recipes, each with its TOML as shipped."""
    folder = ROOT / "src" / "gossamer" / "recipe" / "builtin"
    parts = [f"### {path.stem}\n\n```toml\n{path.read_text().strip()}\n```" for path in sorted(folder.glob("*.toml"))]
    return "\n\n".join(parts)


def networks(_: str) -> str:
    """Return the table of the reference networks."""
    rows = [
        (
            f"`zoo:{one.name}`",
            f"{one.parameters:,}",
            "yes" if zoo.trained(one.name) else "no",
            f"`{one.data}`" if one.data else "",
            one.about,
        )
        for one in zoo.NETWORKS
    ]
    return table(("network", "parameters", "comes trained", "data", "what it is"), rows)


def commands(_: str) -> str:
    """Return the help of every command, as the terminal shows it."""
    names = [function.__name__ for function in EXAMPLES]
    return "\n\n".join(f"## {name}\n\n```text\n{_help(name)}\n```" for name in names)


def results(_: str) -> str:
    """Return all committed results."""
    return everything()


def headline(_: str) -> str:
    """Return the committed results of the built-in recipes."""
    return compressed()


KINDS: dict[str, Callable[[str], str]] = {
    "family": family,
    "settings": settings,
    "recipes": recipes,
    "networks": networks,
    "commands": commands,
    "results": results,
    "headline": headline,
}


def _quoted(text: str) -> str:
    return "\n> ".join(text.splitlines()).replace("> \n", ">\n")


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "must be given"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if not isinstance(value, tuple) else f"`{list(value)}`"


def _help(command: str) -> str:
    shown = CliRunner().invoke(app, [command, "--help"], prog_name="gossamer", env={"COLUMNS": "100", "NO_COLOR": "1"})
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


def main() -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for page in pages():
        text = page.read_text()
        made = generated(text)
        if made != text:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(made)
    for page in stale:
        print(f"{'out of date' if check else 'written'}: {page}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
