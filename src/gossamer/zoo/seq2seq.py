"""Encoder and decoder with attention, from one sequence of tokens to another, with LSTM or GRU layers.

Sutskever, Vinyals & Le, "Sequence to Sequence Learning with Neural Networks", 2014 (arXiv 1409.3215); Luong, Pham &
Manning, "Effective Approaches to Attention-based Neural Machine Translation", 2015 (arXiv 1508.04025): global
attention, the score "general" (equation 8), without input feeding, so that the decoder reads all steps in one call.
"""

from typing import Literal

import torch
from torch import Tensor, nn

TOKENS = 1000


class Attention(nn.Module):
    """Let each decoder state look at all encoder states.

    Shapes: states (N, T, hidden) and source (N, S, hidden) in, (N, T, hidden) out.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)

    def forward(self, states: Tensor, source: Tensor) -> Tensor:
        """Return tanh(W_c [context; state]), the context weighted by softmax(stateᵀ W_a source)."""
        scores = states @ self.score(source).transpose(1, 2)
        context = torch.softmax(scores, dim=-1) @ source
        return torch.tanh(self.combine(torch.cat([context, states], -1)))


class Seq2Seq(nn.Module):
    """The decoder starts from the encoder's last state and is told the target so far (teacher forcing).

    Shapes: source int64 (N, S) and target int64 (N, T) in, logits (N, T, tokens) of what follows each target token out.

    Args:
        kind: of the recurrent layers.
        tokens: size of both vocabularies.
        embedding: size of an embedded token.
        hidden: units of each recurrent layer.
        layers: recurrent layers of the encoder, and of the decoder.
    """

    def __init__(
        self,
        kind: Literal["lstm", "gru"] = "lstm",
        *,
        tokens: int = TOKENS,
        embedding: int = 128,
        hidden: int = 256,
        layers: int = 2,
    ) -> None:
        super().__init__()
        recurrent = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.source = nn.Embedding(tokens, embedding)
        self.target = nn.Embedding(tokens, embedding)
        self.encoder = recurrent(embedding, hidden, layers, batch_first=True)
        self.decoder = recurrent(embedding, hidden, layers, batch_first=True)
        self.attention = Attention(hidden)
        self.fc = nn.Linear(hidden, tokens)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the logits of the token after each target token."""
        seen, last = self.encoder(self.source(source))
        states, _ = self.decoder(self.target(target), last)
        logits: Tensor = self.fc(self.attention(states, seen))
        return logits
