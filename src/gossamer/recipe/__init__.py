"""Recipes: steps in order, their text form, and the journal of a run."""

from gossamer.recipe.builtin import find, names
from gossamer.recipe.fallback import Fallback
from gossamer.recipe.gauge import Gauge
from gossamer.recipe.recipe import Recipe, Step, methods
from gossamer.recipe.run import Outcome, run
from gossamer.recipe.schedule import Cubic
from gossamer.recipe.seek import Seek

__all__ = ["Cubic", "Fallback", "Gauge", "Outcome", "Recipe", "Seek", "Step", "find", "methods", "names", "run"]
