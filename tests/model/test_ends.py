"""Outputs that want a grid of their own, found in the graph."""

import torch
import torch.nn.functional as F
from torch import nn

from gossamer import zoo
from gossamer.model import Subject
from gossamer.model.ends import open_ends


def ends(model, *shape, without=()):
    subject = Subject.of(model.eval(), torch.zeros(1, *shape))
    return open_ends(subject.graph, set(subject.sites) - set(without))


class Block(nn.Module):
    """A residual block whose shortcut is its input."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


def test_a_chain_of_layers_wants_none():
    chain = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)),
    )
    assert ends(chain, 1, 22, 22) == ()
    assert ends(chain, 1, 22, 22, without=["4.weight"]) == ("3",), "after what keeps order, before the layer in floats"


def test_both_parts_of_a_sum_want_one():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Block(), Block(), nn.Flatten(), nn.Linear(64, 2))
    assert ends(model, 1, 4, 4) == ("1", "2.bn2", "3.bn2", "2")


def test_what_a_convolution_makes_for_a_smooth_function_or_the_caller_wants_one():
    assert ends(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.SiLU(), nn.Conv2d(2, 2, 3)), 1, 8, 8) == (
        "1",
        "3",
    )


def test_a_module_that_runs_twice_is_passed_by():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.ReLU()

        def forward(self, x):
            return torch.tanh(self.relu(self.second(self.relu(self.first(x)))))

    assert ends(Twice(), 1, 8, 8) == ("second",)


def test_joined_parts_go_to_the_grid_that_awaits_them():
    class Fire(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 3, padding=1), last

        def forward(self, x):
            return self.last(torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1))

    layer = nn.Linear(64, 3)
    assert ends(Fire(nn.Sequential(nn.Flatten(), layer)), 1, 4, 4) == ()
    assert ends(Fire(nn.Sequential(nn.Softplus(), nn.Flatten(), layer)), 1, 4, 4) == ("a", "b")


def test_bottlenecks_of_the_zoo():
    model = zoo.build("mobilenetv2-small", pretrained=None)
    found = ends(model, *zoo.example("mobilenetv2-small")[0].shape[1:])
    assert [path for path in found if not path.endswith(("inner.7", "14", "9"))] == []
    assert ends(nn.Linear(3, 2), 3) == ()
