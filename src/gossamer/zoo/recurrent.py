"""Recurrent networks: a vanilla RNN from its equations, character language models, a classifier of sequences.

Equations as in Goodfellow, Bengio and Courville, "Deep Learning", MIT Press 2016, §10.2; LSTM after Hochreiter and
Schmidhuber 1997, GRU after Cho et al. 2014, both as torch computes them.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Cell = Literal["rnn", "lstm", "gru"]


def recurrent(cell: Cell, inputs: int, hidden: int, layers: int = 1) -> nn.RNNBase:
    """Return a batch-first recurrent module of torch."""
    kinds: dict[Cell, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
    return kinds[cell](input_size=inputs, hidden_size=hidden, num_layers=layers, batch_first=True)


class VanillaRNN(nn.Module):
    """The RNN of the equations, step by step: a = b + W h + U x, h = tanh a, o = c + V h, y = softmax o.

    Args:
        symbols: size of the alphabet; inputs are one-hot, so that U x is a column of U.
        hidden: size of h.
    """

    def __init__(self, symbols: int, hidden: int) -> None:
        super().__init__()
        bound = hidden**-0.5
        self.U = nn.Parameter(torch.empty(hidden, symbols).uniform_(-bound, bound))
        self.W = nn.Parameter(torch.empty(hidden, hidden).uniform_(-bound, bound))
        self.V = nn.Parameter(torch.empty(symbols, hidden).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(hidden))
        self.c = nn.Parameter(torch.zeros(symbols))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores o of shape ``(N, T, symbols)`` for integer ``tokens`` of shape ``(N, T)``.

        The softmax and the loss summed over the steps are in :func:`summed_loss`.
        """
        h = self.b.new_zeros(tokens.shape[0], self.b.shape[0])
        outputs = []
        for x in tokens.unbind(dim=1):
            a = self.b + h @ self.W.T + self.U.T[x]
            h = torch.tanh(a)
            outputs.append(self.c + h @ self.V.T)
        return torch.stack(outputs, dim=1)


def summed_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return L = Σ_t −log ŷ_t[target_t] with ŷ = softmax(o), summed over steps and averaged over the batch, in nats.

    Args:
        scores: o of shape ``(N, T, symbols)``.
        targets: integers of shape ``(N, T)``.
    """
    y = torch.softmax(scores, dim=-1)
    chosen = y.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -chosen.log().sum(dim=1).mean()


class CharacterModel(nn.Module):
    """A character-level language model: embedding, recurrent layers, scores of the next character."""

    def __init__(self, cell: Cell, symbols: int, embedding: int = 64, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, embedding)
        self.rnn = recurrent(cell, embedding, hidden, layers)
        self.output = nn.Linear(hidden, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of shape ``(N, T, symbols)`` for integer ``tokens`` of shape ``(N, T)``."""
        return self.output(self.rnn(self.embedding(tokens))[0])  # type: ignore[no-any-return]


class SequenceClassifier(nn.Module):
    """Many to one: a recurrent layer over a sequence of feature vectors, the last state classified.

    Sequences of different length are padded behind their end; the state after the last true step is read, which the
    padding, coming later, cannot touch.
    """

    def __init__(self, cell: Cell, features: int, hidden: int = 96, classes: int = 10) -> None:
        super().__init__()
        self.rnn = recurrent(cell, features, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return logits of shape ``(N, classes)``.

        Args:
            features: ``(N, T, features)``, padded.
            lengths: integers of shape ``(N,)``, each from 1 to T.
        """
        states = self.rnn(features)[0]
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return self.output(states.gather(1, last).squeeze(1))  # type: ignore[no-any-return]
