"""The graph: multiply-accumulates against the definition of each operator, memory by hand, what is not seen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gossamer.model import Subject, convolution_table


def graph_of(model, *args):
    return Subject.of(model, *args).graph


class Calls(nn.Module):
    """Calls a function with a weight of its own."""

    def __init__(self, function, *shape):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.randn(*shape)), function

    def forward(self, *args):
        return self.function(self.weight, *args)


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8), 2 * 4 * 6 * 2 * 3),
        (nn.Conv2d(3, 5, (2, 3), bias=False), (1, 3, 6, 7), 5 * 5 * 5 * 3 * 6),
        (nn.Conv2d(4, 4, 3, groups=4, padding="same"), (1, 4, 5, 5), 25 * 4 * 9),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 3 * 8 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 5), 4 * 25 * 3 * 9),
        (nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), (2, 5, 3), 10 * 2 * 16 * (3 + 4 + 8 + 4)),
        (nn.GRU(3, 4), (5, 2, 3), 10 * 12 * (3 + 4)),
        (nn.GRU(3, 4), (5, 3), 5 * 12 * (3 + 4)),
        (nn.RNN(3, 4), (5, 2, 3), 10 * 4 * (3 + 4)),
        (nn.GRUCell(3, 4), (2, 3), 2 * 12 * 7),
        (nn.LSTMCell(3, 4), (2, 3), 2 * 16 * 7),
        (Calls(lambda w, x: x @ w, 3, 4), (2, 3), 2 * 3 * 4),
        (Calls(lambda w, x: torch.einsum("bi,oi->bo", x, w), 4, 3), (2, 3), 2 * 3 * 4),
        (Calls(lambda w, x: torch.addmm(x[0, 0], x, w), 3, 4), (2, 3), 2 * 3 * 4),
        (Calls(lambda w, x: x + w, 2, 3), (2, 3), 0),
        (Calls(lambda w, x: torch.einsum("...qd,...kd->...qk", x, w), 4, 3), (2, 5, 3), 2 * 5 * 4 * 3),
        (Calls(lambda w, x: torch.einsum("...qd,...kd->...qk", x, x), 1, 1), (2, 5, 3), 2 * 5 * 5 * 3),
        (Calls(lambda w, x: torch.tensordot(x, w, dims=([2, 0], [0, 1])), 3, 2), (2, 5, 3), 2 * 5 * 3),
        (Calls(lambda w, x: torch.inner(x, w), 4, 3), (2, 3), 2 * 3 * 4),
        (Calls(lambda w, x: torch.outer(x[0], w[0]), 4, 5), (2, 3), 3 * 5),
        (Calls(lambda w, x: torch.addbmm(w, x, x.transpose(1, 2)), 3, 3), (2, 3, 4), 2 * 3 * 4 * 3),
        (Calls(lambda w, x: (x * w).softmax(-1).cumsum(0).topk(2).values.flip(0), 1, 4), (2, 4), 0),
        (Calls(lambda w, x: F.scaled_dot_product_attention(x, x, w.expand(2, 4, 6)), 4, 6), (2, 4, 5), 2 * 4 * 4 * 11),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_multiply_accumulates(model, shape, macs):
    graph = graph_of(model, torch.randn(*shape))
    assert not graph.unseen
    assert graph.macs == macs


def test_bilinear_and_attention():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Bilinear(3, 4, 5)

        def forward(self, x, y):
            return self.both(x, y)

    assert graph_of(Pair(), torch.randn(2, 3), torch.randn(2, 4)).macs == 2 * 5 * (3 * 4 + 3)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    projections, scores = 10 * 8 * 24 + 10 * 8 * 8, 2 * 2 * 5 * 5 * (4 + 4)
    assert graph_of(attention, x, x, x).macs == projections + scores


def test_nodes_say_where_they_come_from():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return torch.relu(self.fc(x))

    linear, relu = graph_of(Net(), torch.randn(2, 3)).nodes
    assert (linear.op, linear.module, linear.sites) == ("aten.linear", "fc", ("fc.weight", "fc.bias"))
    assert linear.input_shapes == ((2, 3), (4, 3), (4,))
    assert (linear.output_shapes, linear.bytes) == (((2, 4),), 32)
    assert linear.source.rpartition(":")[0] == __file__
    assert (relu.op, relu.inputs, relu.macs) == ("aten.relu", (linear.name,), 0)


def test_peak_memory_by_hand():
    """10 inputs, then 100, then 20 while the 100 are alive, the input long gone: 4 bytes each."""
    model = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 20), nn.Linear(20, 1))
    graph = graph_of(model, torch.randn(1, 10))
    assert graph.peak_bytes == 4 * (100 + 20)
    assert graph.activation_bytes == 4 * (100 + 20 + 1)


def test_views_and_in_place_operators_need_no_memory():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Unflatten(1, (2, 3)), nn.Flatten())
    graph = graph_of(model, torch.randn(1, 4))
    assert graph.activation_bytes == 4 * 6
    assert graph.peak_bytes == 4 * (4 + 6)


def test_a_residual_keeps_its_input_alive():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.b(self.a(x))

    assert graph_of(Residual(), torch.randn(1, 8)).peak_bytes == 4 * 8 * 3


def test_weights_reach_operators_through_other_operators():
    """A weight that is standardised first still belongs to its convolution; blocks without gradients are seen."""

    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(2, 3, 2), nn.Linear(3, 2)

        def forward(self, x):
            w = self.conv.weight
            x = F.conv2d(x, (w - w.mean()) / w.std(), self.conv.bias).mean((2, 3))
            with torch.no_grad():
                return self.out(x)

    graph = graph_of(Standardised(), torch.randn(1, 2, 3, 3))
    by_op = {node.op: node for node in graph.nodes if node.op in {"aten.conv2d", "aten.linear"}}
    assert by_op["aten.conv2d"].sites == ("conv.weight", "conv.bias")
    assert graph.macs == 4 * 3 * 2 * 4 + 3 * 2
    assert not graph.unseen


def test_an_operator_without_a_rule_is_listed():
    graph = graph_of(Calls(lambda w, x: torch.cdist(x, w), 4, 3), torch.randn(2, 3))
    (unseen,) = graph.unseen
    assert "cdist" in unseen.what
    assert unseen.where.startswith(__file__)
    assert "weight" in unseen.why


@pytest.mark.parametrize(
    "call", [torch.cdist, lambda x, y: torch.einsum("ab,cb,cd->ad", x, y, x), lambda x, _: torch.fft.rfft(x).abs()]
)
def test_products_of_activations_without_a_rule_are_listed_too(call):
    graph = graph_of(Calls(lambda w, x: call(x * w, x), 1, 4), torch.randn(4, 4))
    (unseen,) = graph.unseen
    assert unseen.why == "has no rule for its cost"


def test_a_model_that_cannot_be_traced_still_works(capfd):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.fc(x)
            return y if y.sum() > 0 else -y

    subject = Subject.of(Branches(), torch.randn(2, 3))
    graph = subject.graph
    assert (graph.nodes, graph.macs, graph.peak_bytes, graph.activation_bytes) == ((), None, None, None)
    (unseen,) = graph.unseen
    assert unseen.where.startswith(__file__)
    assert "torch.export" in unseen.why
    assert list(subject.sites) == ["fc.weight"]
    captured = capfd.readouterr()
    assert not captured.out
    assert not captured.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_blocks_that_depend_on_data_are_listed():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.fc, torch.sin, (self.fc(x),))

    graph = graph_of(Loop(), torch.randn(2, 3))
    assert [unseen.why for unseen in graph.unseen] == ["how often its block runs depends on the data"]
    assert graph.macs == 2 * 9


def test_unused_parameters_are_listed():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    assert graph_of(Idle(), torch.randn(1, 3)).unused == ("idle.weight", "idle.bias")


def test_edge_detection_table():
    """Goodfellow, Bengio and Courville, Deep Learning, section 9.2: the numbers of the book, ours by counting."""
    kernel = torch.tensor([[1.0, -1.0]])
    table = convolution_table(kernel, 280, 320)
    assert (table["convolution"].floats, table["convolution"].operations) == (2, 267_960)
    assert table["dense"].floats > 8e9
    assert table["dense"].operations > 16e9
    assert table["sparse"].floats == 178_640
    model = nn.Conv2d(1, 1, (1, 2), bias=False)
    graph = graph_of(model, torch.randn(1, 1, 280, 320))
    outputs = 280 * 319
    assert graph.macs == 178_640
    assert 2 * graph.macs - outputs == table["convolution"].operations


def test_convolution_table_against_the_matrix_itself():
    kernel = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    table = convolution_table(kernel, 4, 5)
    columns = [F.conv2d(torch.eye(20)[i].view(1, 1, 4, 5), kernel.view(1, 1, 2, 2)).flatten() for i in range(20)]
    matrix = torch.stack(columns, 1)
    assert table["dense"].floats == matrix.numel()
    assert table["sparse"].floats == int(matrix.count_nonzero())
    assert table["convolution"].floats == 3


def test_a_recurrent_subclass_with_its_own_forward_is_followed():
    class Doubled(nn.GRU):
        def forward(self, x):
            return super().forward(2 * x)[0]

    graph = graph_of(Doubled(3, 4, batch_first=True), torch.randn(2, 5, 3))
    assert any(node.op == "aten.mul" for node in graph.nodes)
    assert graph.macs == 10 * 12 * (3 + 4)
