"""Cutting with Torch-Pruning, as its README shows: BasePruner, group L2 norms, the last layer left alone.

Fang, Ma, Song, Mi & Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023 (arXiv 2301.12900). The pruner takes a
share of channels, so the share that leaves half of the multiply-accumulates is searched beforehand and given: the
search counts neither in time nor in memory. Attention that is written out is named by ``num_heads`` and whole heads go,
for the model keeps their size; torch's own keeps their number, and is named by ``out_channel_groups``, with which more
can be cut than with ``num_heads``.
"""

import copy
import math
import warnings
from typing import Any

import torch
import torch_pruning
from shared import ASKED, CLOSE, distance, macs, outputs
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gossamer.zoo.transformer import Attention, TransformerWritten

SETTINGS = "BasePruner with GroupMagnitudeImportance(p=2), global_pruning=False, last layer ignored, heads named"
TRIALS, NEAR = 10, 0.003
"""Of the search: how many shares are tried, and how near to what is asked it may stop."""


def pruner_of(model: nn.Module, args: tuple[Any, ...], ratio: float) -> Any:
    """Return a pruner with the model's graph analysed."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd)]
    attention = [module for module in model.modules() if isinstance(module, nn.MultiheadAttention)]
    whole_heads = isinstance(model, TransformerWritten)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.pruner.BasePruner(
            model,
            args,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=False,
            pruning_ratio=ratio,
            ignored_layers=layers[-1:],
            num_heads=_heads(model),
            in_channel_groups={},  # the default is one dictionary for all pruners of a process, and keeps their models
            out_channel_groups={module: module.num_heads for module in attention},
            prune_num_heads=whole_heads,
            prune_head_dims=not whole_heads,
            head_pruning_ratio=ratio if whole_heads else 0.0,
        )


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    written = [module for module in model.modules() if isinstance(module, Attention)]
    return {part: part.out_features // one.size for one in written for part in (one.query, one.key, one.value)}


def cut(model: nn.Module, args: tuple[Any, ...], ratio: float) -> nn.Module:
    """Analyse the model and cut it, in place."""
    pruner_of(model, args, ratio).step()
    return model


def setting_for(model: nn.Module, args: tuple[Any, ...], dense: int) -> float:
    """Return the share of channels with which what is left is nearest to what is asked.

    Every trial starts from the whole network; one that cannot be cut, or does not run any more, counts as too much.
    Where both sides of a layer lose channels, what is left is a square: its root is taken for a line between the two
    nearest shares known, and every second trial halves what is between them.
    """
    low, high, near, failed = (0.0, 1.0), (1.0, 0.0), {}, None
    for trial in range(TRIALS):
        line = (low[1] - math.sqrt(ASKED)) / (low[1] - high[1])
        ratio = low[0] + (high[0] - low[0]) * (0.5 if trial % 2 else min(max(line, 0.02), 0.98))
        try:
            left = macs(cut(copy.deepcopy(model), args, ratio), args) / dense
        except Exception as error:  # noqa: BLE001  # whatever the tool raises is the result if nothing works
            high, failed = (ratio, 0.0), error
            continue
        near[ratio] = abs(left - ASKED)
        if near[ratio] <= NEAR or left == 1.0:
            break
        low, high = (low, (ratio, math.sqrt(left))) if left < ASKED else ((ratio, math.sqrt(left)), high)
    if failed is not None and not near:
        raise failed
    return min(near, key=lambda ratio: near[ratio])


def proof(model: nn.Module, args: tuple[Any, ...], share: float) -> dict[str, Any]:
    """Let nothing read the channels the pruner picks, group by group, then prune the group: nothing may change."""
    row: dict[str, Any] = {"groups": 0, "mixed": 0, "right": 0, "largest_change": 0.0}
    pruner = pruner_of(model, args, share)
    for group in pruner.step(interactive=True):
        row["groups"] += 1
        mixed = any(isinstance(item.dep.target.module, nn.LayerNorm | nn.GroupNorm) for item in group)
        for item in group:
            if pruner.DG.is_in_channel_pruning_fn(item.dep.handler):
                _unread(item.dep.target.module, item.idxs)
        wanted = outputs(model, args)
        group.prune()
        found = distance(outputs(model, args), wanted)
        if mixed:
            row["mixed"] += 1
        else:
            row["right"] += found <= CLOSE
            row["largest_change"] = max(row["largest_change"], found)
    return row


@torch.no_grad()
def _unread(module: Any, idxs: list[int]) -> None:
    """Zero the weights with which a layer reads some of its inputs."""
    if isinstance(module, nn.Linear):
        module.weight[:, idxs] = 0
    elif isinstance(module, _ConvNd) and module.groups == 1:
        (module.weight.transpose(0, 1) if module.transposed else module.weight)[:, idxs] = 0
    elif isinstance(module, nn.LSTM):
        module.weight_ih_l0[:, idxs] = 0
