"""Gossamer makes a trained deep-learning model light, and proves it.

Names are imported when they are first used: ``import gossamer`` alone imports neither torch nor ONNX Runtime.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # From the modules that define them: seen through their packages, mypy takes a function for the module of its name.
    from gossamer.artifact.artifact import Artifact
    from gossamer.artifact.difference import diff
    from gossamer.artifact.inspect import inspect
    from gossamer.artifact.sound import verify
    from gossamer.codec import pack, unpack
    from gossamer.errors import GossamerError
    from gossamer.model.apply import apply
    from gossamer.model.freeze import freeze
    from gossamer.model.load import Loaded, load
    from gossamer.model.method import Method
    from gossamer.model.plan import Plan
    from gossamer.model.subject import Subject
    from gossamer.pipeline import Result, compress
    from gossamer.recipe import Recipe, Step
    from gossamer.report import Report
    from gossamer.settings import Settings
    from gossamer.task import Task, evaluate
    from gossamer.train import Training

__all__ = [
    "Artifact",
    "GossamerError",
    "Loaded",
    "Method",
    "Plan",
    "Recipe",
    "Report",
    "Result",
    "Settings",
    "Step",
    "Subject",
    "Task",
    "Training",
    "__version__",
    "apply",
    "compress",
    "diff",
    "evaluate",
    "freeze",
    "inspect",
    "load",
    "pack",
    "unpack",
    "verify",
]

_HOME = {
    "Artifact": "gossamer.artifact",
    "diff": "gossamer.artifact",
    "inspect": "gossamer.artifact",
    "verify": "gossamer.artifact",
    "pack": "gossamer.codec",
    "unpack": "gossamer.codec",
    "GossamerError": "gossamer.errors",
    "Loaded": "gossamer.model",
    "Method": "gossamer.model",
    "Plan": "gossamer.model",
    "Subject": "gossamer.model",
    "apply": "gossamer.model",
    "freeze": "gossamer.model",
    "load": "gossamer.model",
    "Result": "gossamer.pipeline",
    "compress": "gossamer.pipeline",
    "Recipe": "gossamer.recipe",
    "Step": "gossamer.recipe",
    "Report": "gossamer.report",
    "Settings": "gossamer.settings",
    "Task": "gossamer.task",
    "evaluate": "gossamer.task",
    "Training": "gossamer.train",
}


def __getattr__(name: str) -> Any:
    """Import ``name`` from the module it lives in."""
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("gossamer")
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'gossamer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
