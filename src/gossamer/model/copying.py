"""Copies of modules that share nothing with the original, whatever hooks and parametrizations they carry."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from gossamer.errors import ModelError


def lazy_copy(tensor: Tensor) -> Tensor:
    """Return a detached copy of ``tensor`` that takes memory of its own only once one of the two is written to.

    Tensors whose memory is not torch's own, or is a part of another's, or is not on the CPU, are copied at once.
    """
    plain = tensor.detach()
    if plain.device.type != "cpu" or plain.layout != torch.strided or plain.untyped_storage().nbytes() != plain.nbytes:
        return plain.clone()
    try:
        return torch._lazy_clone(plain)  # noqa: SLF001  # torch's copy on write has no public name
    except RuntimeError:  # memory of another library
        return plain.clone()


def copy_module(model: nn.Module, *, lazy: bool = False) -> nn.Module:
    """Return a deep copy of ``model``.

    ``copy.deepcopy`` alone refuses tensors that are part of an autograd graph (old-style weight norm keeps one as an
    attribute) and lets a parametrized copy share its class with the original, so that taking a parametrization off
    the one breaks the other. Both are mended here.

    Args:
        model: what is copied.
        lazy: whether parameters, and buffers of modules that say ``owns_buffers``, are copied only once they, or those
            of ``model``, are written to.

    Raises:
        ModelError: a part of the model cannot be copied.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in _tensors(vars(module).values())
        if not tensor.is_leaf
    }
    if lazy:
        memo |= {id(parameter): _lazy_parameter(parameter) for parameter in model.parameters() if _is_plain(parameter)}
        owned = [part for part in model.modules() if getattr(part, "owns_buffers", False)]
        memo |= {id(tensor): lazy_copy(tensor) for part in owned for tensor in part.buffers(recurse=False)}
    try:
        result = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ModelError(f"{type(model).__name__}: the model cannot be copied: {error}") from error
    for module in result.modules():
        if parametrize.is_parametrized(module):
            _own_class(module)
    return result


def copy_inputs(inputs: Any) -> Any:
    """Return a copy of nested inputs: tensors detached and cloned, everything else deep-copied."""
    return pytree.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else copy.deepcopy(leaf), inputs
    )


def _is_plain(parameter: nn.Parameter) -> bool:
    return type(parameter) is nn.Parameter


def _lazy_parameter(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(lazy_copy(parameter), parameter.requires_grad)


def _own_class(module: nn.Module) -> None:
    cls = type(module)
    namespace = {name: value for name, value in vars(cls).items() if name not in {"__dict__", "__weakref__"}}
    module.__class__ = type(cls.__name__, cls.__bases__, namespace)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, torch.Tensor))
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, torch.Tensor))
