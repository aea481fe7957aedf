"""The optimizers: AdamW (Loshchilov & Hutter 2019; arXiv 1711.05101) and SGD with Nesterov momentum."""

import torch
from torch import nn
from torch.optim import Optimizer

from gossamer.errors import TrainingError
from gossamer.train.settings import Training


def make_optimizer(module: nn.Module, training: Training) -> Optimizer:
    """Return the optimizer of the parameters that train; tensors of fewer than two dimensions are not decayed.

    Raises:
        TrainingError: no parameter trains.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{type(module).__name__}: no parameter to train")
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=training.lr)
