"""Second moments and means of every kind of layer against slow, direct sums."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from gossamer.calibrate import Reading, calibrate
from gossamer.model import Subject


def moments_of(model, *inputs, needs=("second_moment", "mean"), **kwargs):
    """Calibrate on each of ``inputs`` (a tuple of arguments) as one batch."""
    torch.manual_seed(0)
    subject = Subject.of(model, *inputs[0], **kwargs)
    return calibrate(subject, [(args, kwargs, None) for args in inputs], needs)


def check(evidence, site, rows, part=0):
    """Compare one part's evidence with that of a list of input rows."""
    X = torch.stack(list(rows)).double()
    moment = evidence.second_moment(site)[part]
    torch.testing.assert_close(moment.total.double(), X.T @ X, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(evidence.mean(site)[part].vector.double(), X.mean(0), rtol=1e-4, atol=1e-5)
    assert moment.count == evidence.mean(site)[part].count == len(X)


def test_linear_sums_over_batches_and_leading_dimensions():
    inputs = [torch.randn(4, 5, 3), torch.randn(2, 5, 3), torch.randn(3)]
    for bias in (True, False):
        evidence = moments_of(nn.Linear(3, 7, bias=bias), *[(x,) for x in inputs])
        check(evidence, "weight", torch.cat([x.reshape(-1, 3) for x in inputs]))
        assert evidence.second_moment("weight")[0].layout.matrix(torch.zeros(7, 3)).shape == (7, 3)
        assert evidence.batches == 3


def windows(x, kernel, stride, padding, dilation, groups):
    """Input rows of a convolution, one loop per index: a list per group."""
    x = F.pad(x, [number for pad in reversed(padding) for number in (pad, pad)])
    width = x.shape[1] // groups
    sizes = [
        (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    out = [[] for _ in range(groups)]
    for item, group in itertools.product(range(x.shape[0]), range(groups)):
        for place in itertools.product(*map(range, sizes)):
            row = [
                x[(item, channel, *(p * s + j * d for p, s, j, d in zip(place, stride, tap, dilation, strict=True)))]
                for channel in range(group * width, (group + 1) * width)
                for tap in itertools.product(*map(range, kernel))
            ]
            out[group].append(torch.stack(row))
    return out


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7)),
        (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 6, 5)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 4, 4)),
        (nn.Conv3d(2, 2, 2, stride=(1, 2, 1)), (1, 2, 3, 4, 3)),
    ],
    ids=["conv1d grouped", "conv2d dilated", "depthwise", "conv3d"],
)
def test_convolution_has_one_moment_per_group(layer, shape):
    x = torch.randn(shape)
    evidence = moments_of(layer, (x,))
    expected = windows(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert len(evidence.second_moment("weight")) == layer.groups
    for group, rows in enumerate(expected):
        check(evidence, "weight", rows, group)
    # The layout's matrix times the rows is the convolution itself.
    parts = evidence.second_moment("weight")
    outputs = [
        torch.stack(rows) @ part.layout.matrix(layer.weight).T for rows, part in zip(expected, parts, strict=True)
    ]
    direct = (layer(x) - layer.bias.view(1, -1, *[1] * (x.ndim - 2))).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(torch.cat(outputs, 1), direct, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False), (2, 4, 5)),
        (nn.ConvTranspose2d(3, 4, (2, 3), stride=(3, 1), padding=(0, 2), dilation=(1, 2), bias=False), (2, 3, 4, 5)),
    ],
    ids=["grouped", "dilated"],
)
def test_transposed_convolution_rows_reproduce_it(layer, shape):
    """H must be that of rows X with X @ matrix.T equal to the layer's output: found here by probing the layer."""
    x = torch.randn(shape)
    evidence = moments_of(layer, (x,))
    parts = evidence.second_moment("weight")
    assert len(parts) == layer.groups
    per_group = layer.out_channels // layer.groups
    for group, part in enumerate(parts):
        columns = part.total.shape[0]
        rows = []
        for index in range(columns):
            # The layer with a weight that is one at one input and the group's first output gives column ``index``.
            probe = torch.zeros_like(layer.weight)
            matrix = torch.zeros(per_group, columns)
            matrix[0, index] = 1
            with torch.no_grad():
                layer_out = torch.func.functional_call(layer, {"weight": part.layout.put(probe, matrix)}, (x,))
            rows.append(layer_out[:, group * per_group].flatten())
        check(evidence, "weight", torch.stack(rows).T, group)


def unrolled_lstm(cell, x):
    """Inputs of an LSTM's hidden weight and its outputs, step by step."""
    W, U = cell.weight_ih_l0, cell.weight_hh_l0
    h = c = torch.zeros(x.shape[1], cell.hidden_size)
    hidden = []
    for step in x:
        hidden.append(h)
        i, f, g, o = (step @ W.T + h @ U.T + cell.bias_ih_l0 + cell.bias_hh_l0).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return torch.cat(hidden)


def test_lstm_against_a_hand_unrolled_cell():
    lstm, x = nn.LSTM(3, 4), torch.randn(6, 2, 3)
    evidence = moments_of(lstm, (x,))
    check(evidence, "weight_ih_l0", x.flatten(0, 1))
    check(evidence, "weight_hh_l0", unrolled_lstm(lstm, x).detach())


def test_gru_rnn_and_packed_sequences():
    for kind in (nn.GRU, nn.RNN):
        net = kind(3, 4, batch_first=True)
        x = torch.randn(2, 5, 3)
        evidence = moments_of(net, (x,))
        states = net(x)[0].detach()
        before = torch.cat([torch.zeros(2, 1, 4), states[:, :-1]], 1)
        check(evidence, "weight_ih_l0", x.flatten(0, 1))
        check(evidence, "weight_hh_l0", before.flatten(0, 1))

    net = nn.GRU(3, 4)
    sequences = [torch.randn(4, 3), torch.randn(2, 3)]
    evidence = moments_of(net, (pack_sequence(sequences),))
    check(evidence, "weight_ih_l0", torch.cat(sequences))
    before = [torch.cat([torch.zeros(1, 4), net(sequence)[0][:-1].detach()]) for sequence in sequences]
    check(evidence, "weight_hh_l0", torch.cat(before))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_stacked_bidirectional_lstm_with_projection_sees_every_weight():
    net = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    evidence = moments_of(net, (torch.randn(5, 2, 3),))
    assert not evidence.unread
    for name, weight in net.named_parameters():
        if weight.ndim == 2:
            (moment,) = evidence.second_moment(name)
            assert moment.total.shape == (weight.shape[1], weight.shape[1])
            assert moment.count == 10


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, query, key, value):
        return self.heads(query, key, value)


def test_attention_slices_have_their_own_inputs():
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    evidence = moments_of(Attention(), (q, k, v))
    parts = evidence.second_moment("heads.in_proj_weight")
    assert [(part.layout.start, part.layout.stop) for part in parts] == [(0, 8), (8, 16), (16, 24)]
    for index, x in enumerate((q, k, v)):
        check(evidence, "heads.in_proj_weight", x.flatten(0, 1), index)
    # Self-attention multiplies the whole projection at once.
    whole = moments_of(Attention(), (q, q, q))
    check(whole, "heads.in_proj_weight", q.flatten(0, 1))
    assert len(whole.second_moment("heads.in_proj_weight")) == 1
    # Both uses together: each row's inputs are counted once, under its own slice.
    both = moments_of(Attention(), (q, q, q), (q, k, v))
    assert [part.layout.start for part in both.second_moment("heads.in_proj_weight")] == [0, 8, 16]
    check(both, "heads.in_proj_weight", torch.cat([q.flatten(0, 1), k.flatten(0, 1)]), 1)
    assert moments_of(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (q,)).unread == {}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 3)
        self.decode = nn.Linear(3, 6)
        self.decode.weight = self.embed.weight

    def forward(self, tokens):
        return self.decode(self.embed(tokens))


def test_tied_embedding_has_counts_and_rows():
    net, tokens = Tied(), torch.tensor([[0, 2, 2], [5, 2, 0]])
    evidence = moments_of(net, (tokens,))
    rows, table = evidence.second_moment("embed.weight")
    assert (rows.layout.reading, table.layout.reading) == (Reading.ROWS, Reading.TABLE)
    assert table.total.tolist() == table.diagonal.tolist() == [2, 0, 3, 0, 0, 1]
    assert table.layout.matrix(net.embed.weight).shape == (3, 6)
    check(evidence, "embed.weight", net.embed(tokens).flatten(0, 1).detach())


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 3)

    def forward(self, tokens):
        return self.bag(tokens)


def test_embedding_bag_counts_tokens():
    (table,) = moments_of(Bag(), (torch.tensor([[1, 1], [4, 1]]),)).second_moment("bag.weight")
    assert table.total.tolist() == [0, 3, 0, 0, 1, 0]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


def test_shared_module_adds_its_uses():
    net, x = Shared(), torch.randn(4, 3)
    check(moments_of(net, (x,)), "layer.weight", torch.cat([x, net.layer(x).detach()]))


class InputFirst(nn.Module):
    """Weights written by hand: x @ W, W @ x, a stack of matrices, a vector."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.randn(3, 4))
        self.B = nn.Parameter(torch.randn(5, 4))
        self.C = nn.Parameter(torch.randn(2, 5))

    def forward(self, x):
        y = x @ self.A
        z = self.B @ y.T
        return torch.einsum("of,bfn->bon", self.C, z[None].expand(2, -1, -1)), self.C @ z[:, 0]


def test_functional_products_either_way_round():
    net, x = InputFirst(), torch.randn(6, 3)
    evidence = moments_of(net, (x,))
    y = (x @ net.A).detach()
    z = (net.B.detach() @ y.T).T
    check(evidence, "A", x)
    assert evidence.second_moment("A")[0].layout.reading is Reading.COLUMNS
    check(evidence, "B", y)
    check(evidence, "C", torch.cat([z, z, z[:1]]))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled = nn.Parameter(torch.randn(3, 3))
        self.left = nn.Parameter(torch.randn(3, 3))
        self.right = nn.Parameter(torch.randn(3, 3))
        self.strided = nn.Parameter(torch.randn(4, 3))
        self.unused = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return x @ (2 * self.scaled), x @ (self.left @ self.right), F.linear(x, self.strided[::2])


def test_what_cannot_be_read_is_listed_with_the_reason():
    evidence = moments_of(Odd(), (torch.randn(2, 3),))
    assert "aten::mul" in evidence.unread["scaled"]
    assert "another weight" in evidence.unread["left"]
    assert "another weight" in evidence.unread["right"]
    assert "neither a range of whole rows" in evidence.unread["strided"]
    assert evidence.unread["unused"] == "no batch used it"
    assert not evidence.moments


class Reshaped(nn.Module):
    def __init__(self):
        super().__init__()
        self.bank = nn.Parameter(torch.randn(2, 3, 4))
        self.point = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.kernel = nn.Parameter(torch.randn(4, 1, 3))
        self.table = nn.Parameter(torch.randn(6, 2))

    def forward(self, x, tokens):
        return (
            torch.bmm(x.expand(2, -1, -1), self.bank),
            F.linear(x, self.point.view(4, 3)),
            F.conv1d(x[:, None], self.kernel[:2]),
            F.embedding(tokens, self.table[1:]),
        )


def test_parts_and_other_shapes_of_a_weight():
    net, x = Reshaped(), torch.randn(5, 3)
    evidence = moments_of(net, (x, torch.tensor([0, 4])))
    assert "separate inputs" in evidence.unread["bank"]
    assert "used as a kernel" in evidence.unread["kernel"]
    assert "used as a table" in evidence.unread["table"]
    check(evidence, "point", x)
    (moment,) = evidence.second_moment("point")
    torch.testing.assert_close(moment.layout.matrix(net.point), net.point.flatten(1))


def test_packed_classifier_with_padding_is_not_fooled_by_padding():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x, lengths):
            return self.cell(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][0]

    x = torch.randn(3, 4, 2)
    lengths = torch.tensor([2, 4, 1])
    evidence = moments_of(Net(), (x, lengths))
    check(evidence, "cell.weight_ih_l0", torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)]))


def test_half_precision_and_mode_are_left_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).half().train()
    subject = Subject.of(net, torch.randn(2, 3).half())
    x = torch.randn(5, 3).half()
    evidence = calibrate(subject, [((x,), {}, None)], {"second_moment", "mean"})
    check(evidence, "0.weight", x)
    assert subject.model.training
    assert all(weight.grad is None for weight in subject.model.parameters())
