"""Hooks by their kind, before and after a module, and what folding a batch norm does to grids of outputs."""

import torch
from torch import nn

from gossamer.model import Grid, Plan, Subject, apply
from gossamer.model.activations import activations, take_activations
from gossamer.model.edits import Fold
from gossamer.model.hooks import hook_of, take_hook
from gossamer.model.input_grid import InputGrid
from gossamer.model.output_grid import OutputGrid


def grid(scale):
    return Grid(torch.tensor(scale), torch.tensor(0, dtype=torch.int32), 8)


def test_a_hook_is_found_and_taken_by_its_kind():
    module = nn.Linear(2, 2)
    first, second, other = OutputGrid(grid(0.1)), OutputGrid(grid(0.2)), InputGrid("weight", grid(0.3))
    kept = module.register_forward_hook(lambda *_: None)
    module.register_forward_hook(first)
    module.register_forward_hook(second)
    module.register_forward_pre_hook(other, with_kwargs=True)
    assert hook_of(module, OutputGrid) is first
    assert hook_of(module, InputGrid) is other
    assert take_hook(module, OutputGrid) is first
    assert take_hook(module, OutputGrid) is None
    assert take_hook(module, InputGrid) is other
    assert list(module._forward_hooks) == [kept.id]
    assert not module._forward_pre_hooks
    assert not module._forward_pre_hooks_with_kwargs


def test_a_layer_that_takes_in_its_batch_norm_gets_the_grid_of_what_that_made():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()).eval()
    subject = Subject.of(model, torch.rand(4, 1, 3, 3))
    grids = {"0:output": grid(0.01), "1:output": grid(0.5)}
    both = apply(subject, Plan("test", activations=grids))
    folded = apply(both, Plan("test", edits=(Fold("batch_norm", "0", "weight", "1"),)))
    assert {name: float(one.scale) for name, one in activations(folded.model)} == {"0:output": 0.5}
    take_activations(folded.model)
    assert dict(activations(folded.model)) == {}
