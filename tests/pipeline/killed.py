"""What the test of kill -9 runs in a process of its own: ``killed.py FOLDER``."""

import sys
from pathlib import Path

import torch
from torch import nn

import gossamer
from gossamer.methods.distill import Logits
from gossamer.methods.prune import Feedback, Magnitude
from gossamer.methods.share import KMeans
from gossamer.recipe import Cubic, Gauge, Recipe, Step
from gossamer.train import Training

SHORT = Training(epochs=5, lr=0.01, batch_size=16, clip=1.0)
RECIPE = Recipe(
    name="killed",
    steps=(
        Step(method=Logits(alpha=0.3)),
        Step(method=Magnitude(sparsity=0.6), schedule=Cubic(end=0.6, every=3), train=SHORT),
        Step(method=Feedback(sparsity=0.8), schedule=Cubic(end=0.5, every=2, initial=0.6), train=SHORT),
        Step(method=KMeans(bits=3, start="optimal"), schedule=Cubic(end=0.8, every=4, initial=0.5), train=SHORT),
        Step(method=Magnitude(sparsity=0.85), train=SHORT),
    ),
)


class Tagger(nn.Module):
    """A GRU with a linear layer, since recurrent weights are the hardest to keep in order."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.gru(inputs)[0][:, -1])


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    inputs = torch.randn(400, 6, 4, generator=torch.Generator().manual_seed(0))
    data = (inputs, (inputs[:, :, 0].sum(1) > 0).long())
    torch.manual_seed(1)
    task = gossamer.Task.classification("sums", data, test=data)
    gauge = Gauge(graph=False)
    gossamer.compress(Tagger(), task, RECIPE, out=folder / "out.goss", report=True, progress=False, gauge=gauge)


if __name__ == "__main__":
    main()
