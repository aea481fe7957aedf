"""What stands where a module was dropped: it passes its first input through."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


class Passing(nn.Identity):
    """Returns its first input and takes no notice of others, masks and states say."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: A002  # the name that nn.Identity has
        """Return ``input``."""
        return input


@dataclass(frozen=True)
class _BatchFirst:
    """All that ``nn.TransformerEncoder`` reads of its first layer, whatever that is, before it runs."""

    batch_first: bool


def stand_in(module: nn.Module) -> nn.Module:
    """Return what passes the first input of ``module`` through, in its mode.

    It is an ``nn.Identity``, and the one of torch unless ``module`` can be given more than one input.
    """
    first, *more = inspect.signature(module.forward).parameters.values()
    passing: Any = Passing() if more or first.kind is first.VAR_POSITIONAL else nn.Identity()
    if isinstance(module, nn.TransformerEncoderLayer):
        passing.self_attn = _BatchFirst(module.self_attn.batch_first)
    return passing.train(module.training)  # type: ignore[no-any-return]
