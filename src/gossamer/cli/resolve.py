"""From the text a person types to a model and a task: ``zoo:NAME``, ``file.py:factory``, ``package.module:factory``."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from gossamer.errors import GossamerError


def factory(spec: str, *, kind: type[GossamerError]) -> Callable[[], Any]:
    """Return the callable that ``spec`` names: ``path/to/file.py:name`` or ``package.module:name``.

    Args:
        spec: what was typed.
        kind: the error to raise, so that it reads as one about a model or about data.

    Raises:
        GossamerError: of ``kind``; the file, module or name does not exist, its code fails, or it is not callable.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise kind(f"{spec!r}: wanted file.py:factory or package.module:factory")
    module = _from_file(Path(place), kind) if place.endswith(".py") else _from_package(place, kind)
    found: Callable[[], Any] | None = getattr(module, name, None)
    if found is None:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise kind(f"{place} has no {name!r}", hint=near(name, public))
    if not callable(found):
        raise kind(f"{spec} is of type {type(found).__name__}, wanted a function or class that takes no arguments")
    return found


def made(spec: str, *, wanted: type, kind: type[GossamerError]) -> Any:
    """Call the factory that ``spec`` names and check that it made a ``wanted``.

    Raises:
        GossamerError: of ``kind``; see :func:`factory`, or the call fails, or it returns something else.
    """
    function = factory(spec, kind=kind)
    needs = _needs(function)
    if needs:
        raise kind(
            f"{spec} needs the arguments {', '.join(needs)}, wanted a function or class that takes none",
            hint="write a function without arguments that calls it with yours",
        )
    try:
        value = function()
    except (GossamerError, OSError):
        raise
    except Exception as error:
        raise kind(f"calling {spec} failed at {_place(error)}: {type(error).__name__}: {error}") from error
    if not isinstance(value, wanted):
        raise kind(f"{spec} returned a value of type {type(value).__name__}, wanted {wanted.__name__}")
    return value


def _needs(function: Callable[..., Any]) -> list[str]:
    """Return the arguments that a call must give."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    free = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [one.name for one in known if one.default is one.empty and one.kind not in free]


def near(name: str, names: Iterable[str]) -> str | None:
    """Return a hint: the closest of ``names``, or all of them when none is close."""
    known = sorted(names)
    if not known:
        return None
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"


def _from_file(path: Path, kind: type[GossamerError]) -> ModuleType:
    """Run a file as a module of its own name, with its folder importable as it is for ``python file.py``."""
    if not path.is_file():
        raise kind(f"{path}: no such file")
    name = f"gossamer_user_{path.stem}"
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise kind(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and typing look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise kind(f"{path} cannot be run, at {_place(error)}: {type(error).__name__}: {error}") from error
    return module


def _from_package(name: str, kind: type[GossamerError]) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = "for a file write path/to/file.py:factory" if "/" in name else None
        raise kind(f"module {name!r} cannot be imported: {error}", hint=hint) from error
    except Exception as error:
        raise kind(f"module {name!r} cannot be run, at {_place(error)}: {type(error).__name__}: {error}") from error


def _place(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame of ``error``."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
