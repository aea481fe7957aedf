"""Exclusive or (Goodfellow et al. 2016, section 6.1): a linear model cannot, two hidden units can, training finds them.

Run ``python examples/xor.py``.
"""

import torch

from gossamer.datasets import load
from gossamer.train import Training, train
from gossamer.zoo.xor import POINTS, XOR, linear_fit, solved


def main() -> None:
    """Show the three models on the four points."""
    points = torch.tensor(POINTS)

    weights, bias = linear_fit()
    print("linear model, least squares:", [round(value, 3) for value in (points.double() @ weights + bias).tolist()])

    with torch.no_grad():
        print("two ReLU units, by hand:    ", solved()(points).tolist())

    seed, network = trained()
    with torch.no_grad():
        print(f"the same by training, seed {seed}:", [round(value, 3) for value in network(points).tolist()])


def trained() -> tuple[int, XOR]:
    """Train from one seed after another until one ends at the solution; with two hidden units some starts are stuck."""
    task = load("xor")
    for seed in range(20):
        torch.manual_seed(seed)
        network = XOR()
        train(network, task, Training(epochs=300, lr=0.05, batch_size=4, seed=seed))
        with torch.no_grad():
            values = network(torch.tensor(POINTS))
        if task.loss(values, torch.tensor([0.0, 1.0, 1.0, 0.0])) < 1e-4:
            return seed, network
    raise RuntimeError("20 seeds in a row were stuck")


if __name__ == "__main__":
    main()
