"""What a training run knows between two steps, and what it returns at the end."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec
from torch import Tensor, nn


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one finished epoch."""

    epoch: int
    """1 is the first."""
    step: int
    """Optimizer steps done at its end."""
    train_loss: float
    """Mean over the epoch's steps, penalties included."""
    validation: dict[str, float]
    seconds: float
    best: bool
    """Whether its weights were the best so far by the task's main metric on validation data."""


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of training; the weights are in the model itself."""

    history: tuple[Epoch, ...]
    kept: int
    """The epoch whose weights the model has now."""
    validation: dict[str, float]
    """Figures of these weights on validation data."""
    steps: int
    seconds: float
    stopped: Literal["finished", "patience"]


@dataclass
class State:
    """Where a run stands. ``start`` tells the weights it began with; the sums are of the epoch under way."""

    start: str = ""
    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    kept: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def forget_best(self) -> None:
        """Drop the best weights so far: what they satisfied no longer holds."""
        self.kept, self.best = 0, {}


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state dict on the CPU, no two entries sharing memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
