"""The time of each operator goes to the weight that it reads, whatever the runtime makes of the graph."""

import pytest
import torch
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze
from gossamer.targets import arrays_of, graph_of, lower_frozen, profile
from gossamer.targets.profiling import _made


class Net(nn.Module):
    """Convolutions in blocks of channels, a batch norm to fold, a recurrent layer and a product."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(8, 32, 5, padding=2)
        self.norm = nn.BatchNorm1d(32)
        self.second = nn.Conv1d(32, 32, 5, padding=2)
        self.gru = nn.GRU(32, 64, batch_first=True)
        self.fc = nn.Linear(64, 64)

    def forward(self, x):
        x = self.second(torch.relu(self.norm(self.first(x))))
        return self.fc(self.gru(torch.relu(x).transpose(1, 2))[0])


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return Subject.of(Net().eval(), torch.randn(2, 8, 128))


@pytest.mark.parametrize("integers", [False, True])
def test_every_weight_has_its_time(subject, integers):
    live = subject
    if integers:
        seen = calibrate(subject, [(subject.args, {}, None)], {"range"})
        live = apply(subject, PostTraining().plan(subject, seen))
    frozen = freeze(live)
    graph = graph_of(frozen, subject.args)
    found = profile(lower_frozen(frozen, graph).proto, list(subject.sites), arrays_of(graph, subject.args), runs=5)
    assert set(found.sites) == set(subject.sites)
    assert all(seconds > 0 for seconds in found.sites.values()), found.sites
    assert found.sites["gru.weight_ih_l0"] == found.sites["gru.weight_hh_l0"], "one operator reads both"
    assert found.whole > 0


def test_a_loop_takes_what_is_left_of_a_run_without_the_profiler(monkeypatch):
    torch.manual_seed(0)
    subject = Subject.of(nn.GRU(8, 320).eval(), torch.randn(6, 1, 8))
    live = apply(subject, PostTraining().plan(subject, calibrate(subject, [(subject.args, {}, None)], {"range"})))
    frozen = freeze(live)
    graph = graph_of(frozen, subject.args)
    lowered = lower_frozen(frozen, graph)
    assert "Scan" in {node.op_type for node in lowered.proto.graph.node}
    monkeypatch.setattr("gossamer.targets.profiling._whole", lambda *_given: 1.0)
    found = profile(lowered.proto, list(subject.sites), arrays_of(graph, subject.args), runs=5)
    assert found.whole == 1.0
    assert found.sites["weight_hh_l0"] > 0.9, "the loop, but for what stands outside of it"
    assert sum(found.sites.values()) <= 1.0


def test_what_a_product_takes_in_is_its_own(subject):
    made = _made(graph_of(freeze(subject), subject.args), list(subject.sites))
    values = list(made.values())
    assert values.count({"first.weight"}) == 3, "the convolution, its batch norm and its ReLU"
    assert {"gru.weight_ih_l0", "gru.weight_hh_l0"} in values
