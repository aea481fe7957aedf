"""A batch: what is passed to the model, and what the loss compares its outputs with."""

from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import PackedSequence

IGNORE = -100
"""The class index of a padded position: no loss and no metric counts it."""


class Batch(NamedTuple):
    """One batch: the model is called as ``model(*args, **kwargs)`` and the loss as ``loss(outputs, targets)``."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor in it on ``device``; other values are kept as they are."""
        return Batch(_moved(self.args, device), _moved(self.kwargs, device), _moved(self.targets, device))


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, torch.Tensor | PackedSequence):
        return value.to(device)  # type: ignore[arg-type]  # PackedSequence.to has the annotation of one overload
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
