"""Transformer encoders that classify sequences of tokens: one of torch's layers, one with the attention written out.

Vaswani et al., "Attention Is All You Need", 2017 (arXiv 1706.03762), section 3, with learned positions and GELU as in
Devlin et al., "BERT", 2019 (arXiv 1810.04805). Width 128, four heads, four layers, 1,000 tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS, STEPS, CLASSES = 1000, 64, 10


class Tokens(nn.Module):
    """The sum of a token's embedding and its position's. Shapes: int64 (N, steps) in, (N, steps, width) out."""

    def __init__(self, tokens: int, steps: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.position = nn.Embedding(steps, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embedded sequence."""
        position = torch.arange(tokens.shape[1], device=tokens.device)
        embedded: Tensor = self.token(tokens) + self.position(position)
        return embedded


class Transformer(nn.Module):
    """Layers are :class:`torch.nn.TransformerEncoderLayer`, so attention is :class:`torch.nn.MultiheadAttention`.

    Shapes: int64 (N, steps) in, at most :data:`STEPS` steps; logits (N, classes) out.
    """

    def __init__(self, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embed = Tokens(TOKENS, STEPS, width)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, heads, 4 * width, activation=F.gelu, batch_first=True)
                for _ in range(layers)
            )
        )
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, from the mean over all steps."""
        logits: Tensor = self.fc(self.layers(self.embed(tokens)).mean(1))
        return logits


class Attention(nn.Module):
    """Self-attention with several heads, section 3.2.2. Shapes: (N, steps, width) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads  # of a head; the number of heads follows from the weights, so heads can be cut
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Return W_out · concat over heads of softmax(Q Kᵀ / √size) V."""
        query, key, value = (
            part(states).unflatten(2, (-1, self.size)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """Attention and two linear layers, each added to its input and normalised. Shapes: (N, steps, width) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.1)

    def forward(self, states: Tensor) -> Tensor:
        """Return the new states."""
        states = self.norm1(states + self.drop(self.attention(states)))
        inner = self.drop(F.gelu(self.fc1(states)))
        new: Tensor = self.norm2(states + self.drop(self.fc2(inner)))
        return new


class TransformerWritten(nn.Module):
    """The same network with :class:`Attention` in place of torch's; shapes as in :class:`Transformer`."""

    def __init__(self, width: int = 128, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embed = Tokens(TOKENS, STEPS, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits, from the mean over all steps."""
        logits: Tensor = self.fc(self.layers(self.embed(tokens)).mean(1))
        return logits
