"""``gossamer recipes``: the recipes that come with the package."""

from typing import Annotated

import typer

from gossamer.cli.options import Json
from gossamer.cli.output import print_json, stdout, table


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show this one as TOML, ready to be saved and changed.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the built-in recipes, or show one."""
    from gossamer.recipe import builtin

    if name is not None:
        text = builtin.text(name)
        if as_json:
            print_json({"name": name, "toml": text})
        else:
            typer.echo(text.rstrip())
        return
    found = [builtin.find(one) for one in builtin.names()]
    rows = [(recipe.name, " → ".join(step.name for step in recipe.steps), recipe.about) for recipe in found]
    if as_json:
        print_json([{"name": one, "steps": steps.split(" → "), "about": about} for one, steps, about in rows])
    else:
        stdout().print(table(("recipe", "steps", "what it does"), rows, left=("steps", "what it does")))
