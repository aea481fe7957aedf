"""Hooks of a module by their kind: torch keeps them in private dictionaries and lists them nowhere else."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

Hook = TypeVar("Hook")


def hook_of(module: nn.Module, kind: type[Hook]) -> Hook | None:
    """Return the hook of ``kind`` that runs before or after ``module``, or None."""
    return next((hook for hooks in _both(module) for hook in hooks.values() if isinstance(hook, kind)), None)


@contextmanager
def watched(model: nn.Module, notes: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    """Call a note by its module's path after each call of that: with the module, args, kwargs and what it made."""
    handles = [model.get_submodule(path).register_forward_hook(note, with_kwargs=True) for path, note in notes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def take_hook(module: nn.Module, kind: type[Hook]) -> Hook | None:
    """Take all hooks of ``kind`` off ``module`` and return the first, or None."""
    found = hook_of(module, kind)
    for hooks in _both(module):
        for key, hook in list(hooks.items()):
            if isinstance(hook, kind):
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)  # noqa: SLF001
                module._forward_hooks_with_kwargs.pop(key, None)  # noqa: SLF001
    return found


def _both(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_pre_hooks, module._forward_hooks  # noqa: SLF001
