"""The recipes that come with the package, each a TOML file in this folder."""

import difflib
from importlib.resources import files
from pathlib import Path

from gossamer.errors import RecipeError
from gossamer.recipe.recipe import Recipe


def names() -> tuple[str, ...]:
    """Return the names of the built-in recipes."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def text(name: str) -> str:
    """Return the TOML of a built-in recipe, with its comments.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"built in: {', '.join(names())}; or give a path to a .toml file"
        )
        raise RecipeError(f"no built-in recipe is called {name!r}", hint=hint)
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def find(name: str | Path | Recipe) -> Recipe:
    """Return a recipe: itself, a built-in one by its name, or the one in a TOML file.

    Raises:
        RecipeError: there is no such recipe, or its text is wrong.
    """
    if isinstance(name, Recipe):
        return name
    if isinstance(name, Path) or name.endswith(".toml"):
        return Recipe.load(name)
    return Recipe.from_toml(text(name))
