"""Language models over characters with an LSTM or a GRU (Graves, "Generating Sequences", 2013; arXiv 1308.0850)."""

from torch import Tensor, nn

SYMBOLS = 80
"""Size of the alphabet of :mod:`gossamer.datasets.text`."""


class CharLSTM(nn.Module):
    """Embedding 64, LSTM 256, linear output. Shapes: symbols (N, steps) int64 in, logits (N, steps, symbols) out."""

    def __init__(self, symbols: int = SYMBOLS, embedding: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of the symbol after each one."""
        states, _ = self.lstm(self.embed(symbols))
        logits: Tensor = self.fc(states)
        return logits


class CharGRU(nn.Module):
    """Embedding 64, GRU 256, linear output; shapes as in :class:`CharLSTM`."""

    def __init__(self, symbols: int = SYMBOLS, embedding: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits of the symbol after each one."""
        states, _ = self.gru(self.embed(symbols))
        logits: Tensor = self.fc(states)
        return logits
