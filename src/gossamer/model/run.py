"""Running a model on its example inputs, with errors that name the module where it failed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from gossamer.errors import ModelError

_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""What a forward pass raises on inputs it cannot take."""


def run_example(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run ``model`` once in evaluation mode without gradients and return its outputs.

    The random state and the mode of every module are as before afterwards.

    Raises:
        ModelError: the model does not run on these inputs; names the innermost module that failed.
    """
    try:
        with evaluation(model), torch.no_grad(), torch.random.fork_rng():
            return model(*args, **kwargs)
    except _FAILURES as error:
        raise ModelError(
            f"{type(model).__name__}: the example inputs do not run: {_where(model, args, kwargs)}: {error}",
            hint="forward must take the inputs: those of the task (--data) or given to Subject.of(model, *inputs)",
        ) from error


def _where(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Run a model that fails once more and return which module was running, innermost."""
    stack: list[nn.Module] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(module)

    def leave(_module: nn.Module, _args: Any, _outputs: Any) -> None:
        stack.pop()

    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        with evaluation(model), torch.no_grad(), torch.random.fork_rng(), suppress(*_FAILURES):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    names = {id(module): name for name, module in model.named_modules()}
    innermost = stack[-1] if stack else model
    return f"{type(innermost).__name__} at {names.get(id(innermost), '') or 'the model itself'}"


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put all modules of ``model`` in evaluation mode, and back in their own modes afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
