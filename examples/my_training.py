"""Train the network of ``my_model.py`` with a loop of one's own: Gossamer needs the weights, not how they came about.

Run ``python examples/my_training.py w.safetensors``, then compress what it wrote::

    gossamer compress examples/my_model.py:build --weights w.safetensors \
        --data examples/my_data.py:task --recipe deep-compression-small -o small.goss
"""

import sys

import torch
from my_data import task
from my_model import build
from safetensors.torch import save_file

from gossamer import evaluate


def main(path: str) -> None:
    """Train for 15 epochs, a few seconds, and write the weights to ``path``."""
    torch.manual_seed(0)
    model, data = build(), task()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(15):
        for batch in data.batches("train", batch_size=64, generator=torch.Generator().manual_seed(epoch)):
            optimizer.zero_grad()
            loss = data.loss(model(*batch.args), batch.targets)
            loss.backward()
            optimizer.step()
    save_file(model.state_dict(), path)
    print(f"{path}: accuracy {evaluate(model, data, 'test')['accuracy']:.3f} on the test split")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "w.safetensors")
