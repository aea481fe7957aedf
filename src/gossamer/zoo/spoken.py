"""Classifiers of spoken digits: a recurrent layer reads a sequence of any length, its last state decides (many to one).

GRU: Cho et al. 2014 (arXiv 1406.1078). LSTM: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

import torch
from torch import Tensor, nn


class SpokenGRU(nn.Module):
    """A GRU of 128 units over 13 coefficients per frame.

    Shapes: frames (N, longest, 13) padded at the end and lengths (N,) in, logits (N, 10) out.
    """

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.gru = nn.GRU(13, hidden, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits; frames beyond a sequence's length do not count."""
        states, _ = self.gru(frames)
        logits: Tensor = self.fc(self.drop(state_at_end(states, lengths)))
        return logits


class SpokenLSTM(nn.Module):
    """An LSTM of 128 units over 13 coefficients per frame; shapes as in :class:`SpokenGRU`."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(13, hidden, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits; frames beyond a sequence's length do not count."""
        states, _ = self.lstm(frames)
        logits: Tensor = self.fc(self.drop(state_at_end(states, lengths)))
        return logits


def state_at_end(states: Tensor, lengths: Tensor) -> Tensor:
    """Return each sequence's state after its own last frame.

    A recurrent layer that reads forward has not seen the padding by then, so this equals running each sequence alone,
    and unlike packing it exports to every runtime.

    Args:
        states: (N, longest, hidden).
        lengths: int64, (N,).
    """
    index = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
    return torch.gather(states, 1, index)[:, 0]
