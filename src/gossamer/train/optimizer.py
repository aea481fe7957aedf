"""The optimizers: AdamW (Loshchilov & Hutter 2019; arXiv 1711.05101) and SGD with Nesterov momentum."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gossamer.errors import TrainingError
from gossamer.model.mixture import own_rates
from gossamer.train.settings import Training


def make_optimizer(module: nn.Module, training: Training) -> Optimizer:
    """Return the optimizer of the parameters that train; tensors of fewer than two dimensions are not decayed.

    Parameters with a learning rate of their own (those of a mixture) are in groups that say it as ``own``.

    Raises:
        TrainingError: no parameter trains.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{type(module).__name__}: no parameter to train")
    own = {id(parameter): rate for parameter, rate in own_rates(module)}
    plain = [parameter for parameter in parameters if id(parameter) not in own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in plain if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in plain if p.ndim < 2], "weight_decay": 0.0},
    ]
    for rate in sorted(set(own.values())):
        at = [p for p in parameters if own.get(id(p)) == rate]
        groups.append({"params": at, "weight_decay": 0.0, "own": rate})
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=training.lr)
