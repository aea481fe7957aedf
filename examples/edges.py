"""Edge detection as a convolution (Goodfellow et al. 2016, section 9.2), and why it is not written as a matrix.

The kernel (1, -1) on an image of 320×280 pixels needs two stored numbers. The same map as a dense matrix needs over
8 billion, as a sparse one 178,640. Run ``python examples/edges.py``.
"""

import torch

from gossamer import Subject
from gossamer.model.cost import convolution_table
from gossamer.zoo.edges import HEIGHT, WIDTH, Edges


def main() -> None:
    """Find the edges of a bright square, then print the cost of three ways to write the map."""
    image = torch.zeros(1, 1, HEIGHT, WIDTH)
    image[..., 100:180, 120:200] = 1.0
    network = Edges()
    with torch.no_grad():
        found = network(image)
    columns = sorted({int(column) for column in found[0, 0].nonzero()[:, 1]})
    print(f"edges in columns {columns} of a square that spans columns 120 to 199")

    print(f"{' ':12}{'stored floats':>16}{'operations':>16}")
    for name, cost in convolution_table(network.conv.weight[0, 0].detach(), HEIGHT, WIDTH).items():
        print(f"{name:12}{cost.floats:>16,}{cost.operations:>16,}")

    macs = Subject.of(network, image).graph.macs
    print(f"multiply-accumulates counted in the graph of the network: {macs:,}")


if __name__ == "__main__":
    main()
