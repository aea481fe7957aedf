"""Outputs that want a grid of their own, found in the graph."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gossamer import zoo
from gossamer.errors import ModelError, PlanError
from gossamer.model import Grid, Plan, Subject, apply, foldable, plain_copy
from gossamer.model.ends import on_outputs, open_ends, possible_ends, without_idle


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
    assert found == (*(f"features.{number}.inner.7" for number in range(4, 11)), "features.14", "features.9")
    assert ends(nn.Linear(3, 2), 3) == ()


def test_codes_go_through_a_relu_to_the_next_layer():
    chain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    subject = Subject.of(chain.eval(), torch.zeros(1, 1, 6, 6))
    assert open_ends(subject.graph, subject.sites) == ("5",)


def test_what_multiplies_numbers_of_an_output_and_no_other():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.twice, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 3)

        def forward(self, x):
            x = self.stem(x)
            y = self.twice(torch.sigmoid(self.twice(x)) + self.body(F.max_pool2d(F.relu(x), 3, 1, 1)))
            return self.fc(F.avg_pool2d(y, 2).flatten(1)) + self.fc(F.max_pool2d(y, 2).flatten(1))

    subject = Subject.of(Net().eval(), torch.zeros(1, 1, 8, 8))
    assert on_outputs(subject.graph, ["stem", "twice"]) == {"body.weight": "stem"}, "others read something else too"
    assert on_outputs(subject.graph, ["twice"]) == {}


@pytest.mark.parametrize(("between", "found"), [("relu", {"body.weight": "stem"}), ("relu6", {}), ("hardtanh", {})])
def test_a_bound_that_may_be_no_code_ends_a_grid(between, found):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.body(getattr(F, between)(self.stem(x)))

    assert on_outputs(Subject.of(Net().eval(), torch.zeros(1, 1, 8, 8)).graph, ["stem"]) == found


def test_a_layer_that_reads_the_input_of_the_model_too_has_a_grid_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.twice = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            y = self.stem(x)
            return self.twice(x) + self.twice(y) + torch.sigmoid(y)

    assert on_outputs(Subject.of(Net().eval(), torch.zeros(1, 4, 8, 8)).graph, ["stem"]) == {}


def test_every_end_that_some_sites_have_is_possible_and_those_of_no_product_are_idle():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Block(), nn.Flatten(), nn.Linear(64, 2))
    subject = Subject.of(model.eval(), torch.zeros(1, 1, 4, 4))
    sites = list(subject.sites)
    found = set(possible_ends(subject.graph, sites))
    for kept in itertools.chain.from_iterable(itertools.combinations(sites, count) for count in range(len(sites))):
        assert set(open_ends(subject.graph, kept)) <= found
    grids = dict.fromkeys(["0.weight", "1:output", "2.bn2:output", "2.bn1:output"], None)
    assert set(without_idle(subject.graph, grids, ["2.conv2.weight"])) == {"0.weight", "1:output", "2.bn2:output"}
    assert set(without_idle(subject.graph, grids, ["4.weight"])) == {"0.weight"}


def test_a_module_with_two_paths_can_have_a_grid_under_either():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU())
            self.body = nn.Sequential(*self.layers)

        def forward(self, x):
            return self.body(x)

    subject = Subject.of(Two().eval(), torch.zeros(1, 1, 6, 6))
    grid = Grid(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), 8)
    for path in ("body.0", "layers.0"):
        done = apply(subject, Plan("test", activations={f"{path}:output": grid}))
        assert list(done.activations) == ["layers.0:output"]
    with pytest.raises(PlanError, match=r"no module 'body\.7'"):
        apply(subject, Plan("test", activations={"body.7:output": grid}))


def test_a_fold_and_a_copy_keep_the_grid():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.SiLU()).eval()
    subject = Subject.of(model, torch.randn(1, 1, 6, 6))
    grid = Grid(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), 8)
    done = apply(subject, Plan("test", activations={"1:output": grid}))
    wanted = done.model(*done.args)
    assert not torch.equal(wanted, model(*done.args))
    folded = apply(done, Plan("fold", edits=foldable(done)))
    assert list(folded.activations) == ["0:output"]
    torch.testing.assert_close(folded.model(*done.args), wanted)
    torch.testing.assert_close(plain_copy(folded)(*done.args), model(*done.args))


def test_what_makes_no_tensor_cannot_be_put_on_a_grid():
    subject = Subject.of(nn.GRU(2, 2), torch.zeros(1, 3, 2))
    grid = Grid(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), 8)
    with pytest.raises(ModelError, match="wanted a tensor"):
        apply(subject, Plan("test", activations={":output": grid})).model(*subject.args)
