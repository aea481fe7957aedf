"""What is kept between the steps of a run."""

import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.recipe.gauge import Graphs
from gossamer.targets import agreements, lower_artifact


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(torch.relu(x + self.b(x))).mean((2, 3))


def test_a_graph_that_is_kept_has_the_grids_of_the_step():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 4, 9, 9)
    subject, graphs = Subject.of(model, x), Graphs()
    evidence = calibrate(subject, [((x,), {}, None)], PostTraining().needs)
    live = apply(subject, PostTraining().plan(subject, evidence))
    assert any(name.endswith(":output") for name in live.activations)
    before, after = (graphs.of(each, freeze(each)) for each in (subject, live))
    assert isinstance(after, bytes)
    assert after != before
    assert graphs.of(live, freeze(live)) is after
    lowered = lower_artifact(to_artifact(freeze(live), graph=after))
    assert max(one.steps for one in agreements(live, lowered, (x,)) if one.compared == "input") <= 1
