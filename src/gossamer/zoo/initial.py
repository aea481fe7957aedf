"""Initial weights of networks of rectified linear units.

He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", 2015 (arXiv 1502.01852), equation 10: normal, of variance
2 divided by the number of inputs; biases are zero.
"""

from torch import nn


def he(model: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers anew, from torch's random state."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
