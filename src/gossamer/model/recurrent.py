"""Recurrent modules with live weights.

``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` keep a list of their weights, ``_flat_weights``, and hand it to the kernel. A
list made once would go stale under a live constraint, hold on to autograd graphs and break ``deepcopy``; on a
constrained module the list is therefore computed at each access.
"""

from typing import Any

from torch import Tensor, nn


def let_weights_live(module: nn.RNNBase) -> None:
    """Compute the weight list of the parametrized ``module`` at each access instead of caching it.

    Works on the class that ``parametrize`` has just made for this one module.
    """
    cls: Any = type(module)
    module.__dict__.pop("_flat_weights", None)
    cls._flat_weights = property(_weights, _ignore)
    cls._update_flat_weights = _nothing
    cls.flatten_parameters = _nothing


def restore_weights(module: nn.RNNBase) -> None:
    """Give a module whose last constraint is gone its own weight list again."""
    module._init_flat_weights()  # noqa: SLF001


def _weights(module: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]  # noqa: SLF001


def _ignore(module: nn.RNNBase, weights: list[Tensor | None]) -> None:
    """Take no list: the weights are what the constraints say."""


def _nothing(module: nn.RNNBase) -> None:
    """Do nothing: there is no cached list to refresh or to flatten."""
