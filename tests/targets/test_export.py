"""Modules become small ONNX graphs with free axes whose initializers are the state dict."""

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gossamer.errors import TargetError
from gossamer.targets import Runner, compare, to_onnx

TOLERANCE = 1e-4


class Images(nn.Module):
    """Convolution, batch norm and a linear layer, with a buffer that is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(64, 5)
        self.register_buffer("shift", torch.full((5,), 0.5), persistent=False)

    def forward(self, images):
        maps = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        return self.fc(maps.flatten(1)) + self.shift


class Tokens(nn.Module):
    """Stacked bidirectional LSTM over tokens; the output layer is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 10)
        self.lstm = nn.LSTM(10, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens, state=None):
        states, last = self.lstm(self.table(tokens), state)
        return {"scores": self.out(states), "last": last}


class Packed(nn.Module):
    """Sequences of varying length through a packed GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 6, bidirectional=True)

    def forward(self, frames, lengths):
        packed = pack_padded_sequence(frames, lengths, enforce_sorted=False)
        states, last = self.gru(packed)
        padded, after = pad_packed_sequence(states)
        return padded, last, after


@pytest.fixture(scope="module")
def images():
    model = Images().eval()
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model, to_onnx(model, (torch.rand(1, 1, 10, 10),))


@pytest.fixture(scope="module")
def tokens():
    model = Tokens()
    return model, to_onnx(model, (torch.randint(0, 11, (2, 4)),))


def test_outputs_agree_at_another_batch_size(images):
    model, proto = images
    onnx.checker.check_model(proto, full_check=True)
    assert compare(model, proto, (torch.rand(7, 1, 10, 10),)) <= TOLERANCE


def test_initializers_are_the_state_dict(images):
    model, proto = images
    have = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    state = model.state_dict()
    assert set(state) - set(have) == {"norm.num_batches_tracked"}
    for name in set(have) & set(state):
        assert torch.equal(torch.from_numpy(have[name].copy()), state[name])


def test_only_the_batch_is_free(images):
    _, proto = images
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param or axis.dim_value for axis in shape] == ["batch", 1, 10, 10]


def test_the_graph_is_small(images):
    model, proto = images
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert len(proto.SerializeToString()) - weights < 1200


def test_the_model_is_left_as_it_was(images):
    model, _ = images
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    compare(model, to_onnx(model, (torch.rand(2, 1, 10, 10),), axes="none"), (torch.rand(2, 1, 10, 10),))
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()


def test_a_recurrent_layer_is_one_node_per_layer_with_free_batch_and_time(tokens):
    model, proto = tokens
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node].count("LSTM") == 2
    for shape in ((1, 1), (3, 9)):
        assert compare(model, proto, (torch.randint(0, 11, shape),)) <= TOLERANCE


def test_a_recurrent_layer_keeps_the_weights_of_torch(tokens):
    model, proto = tokens
    have = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, value in model.lstm.state_dict().items():
        assert torch.equal(torch.from_numpy(have[f"lstm.{name}"].copy()), value)


def test_a_tied_weight_is_there_once_under_its_first_name(tokens):
    _, proto = tokens
    names = [tensor.name for tensor in proto.graph.initializer]
    assert "table.weight" in names
    assert "out.weight" not in names


def test_packed_sequences_take_lengths_as_an_input():
    model = Packed().eval()
    proto = to_onnx(model, (torch.randn(5, 3, 3), torch.tensor([2, 5, 3])))
    assert [value.name for value in proto.graph.input] == ["frames", "lengths"]
    for lengths in ([5, 1, 3], [6, 6], [1, 2, 3, 7]):
        args = (torch.randn(max(lengths), len(lengths), 3), torch.tensor(lengths))
        assert compare(model, proto, args) <= TOLERANCE


class OneLayer(nn.Module):
    """A recurrent layer with an initial state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, *state):
        given = None if not state else state[0] if len(state) == 1 else tuple(state)
        return self.layer(x, given)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True, "bias": False},
        {"bidirectional": True, "batch_first": True, "bias": False, "num_layers": 3},
    ],
    ids=str,
)
def test_recurrent_layers_with_and_without_a_state(kind, options):
    layer = kind(4, 5, **options)
    model = OneLayer(layer).eval()
    parts = layer.num_layers * (2 if layer.bidirectional else 1)

    def inputs(steps, batch, *, state):
        x = torch.randn(batch, steps, 4) if layer.batch_first else torch.randn(steps, batch, 4)
        states = [torch.randn(parts, batch, 5) for _ in range((2 if kind is nn.LSTM else 1) * state)]
        return (x, *states)

    for state in (False, True):
        proto = to_onnx(model, inputs(3, 2, state=state))
        for steps, batch in ((3, 2), (6, 3)):
            assert compare(model, proto, inputs(steps, batch, state=state)) <= TOLERANCE


@pytest.mark.slow
def test_a_relu_rnn_and_an_input_without_a_batch():
    model = OneLayer(nn.RNN(4, 5, nonlinearity="relu", bidirectional=True)).eval()
    for shape in ((6, 2, 4), (6, 4)):
        assert compare(model, to_onnx(model, (torch.randn(*shape),), axes="none"), (torch.randn(*shape),)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projection_is_folded_into_the_recurrent_matrix():
    layer = nn.LSTM(4, 6, proj_size=3, num_layers=2, bidirectional=True)
    model = OneLayer(layer).eval()
    proto = to_onnx(model, (torch.randn(3, 2, 4),))
    assert compare(model, proto, (torch.randn(7, 5, 4),)) <= TOLERANCE
    state = (torch.randn(4, 2, 3), torch.randn(4, 2, 6))
    with pytest.raises(TargetError, match="layer: an LSTM with a projection and an initial state"):
        to_onnx(model, (torch.randn(3, 2, 4), *state))


class Branches(nn.Module):
    """Cannot be traced: it looks at a value."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced_says_so():
    with pytest.raises(TargetError, match="Branches cannot be exported to ONNX") as caught:
        to_onnx(Branches(), (torch.randn(2, 3),))
    assert caught.value.hint is not None
    assert "branches" in caught.value.hint


def test_inputs_that_do_not_fit_the_signature():
    with pytest.raises(TargetError, match="the example inputs do not fit forward: too many"):
        to_onnx(Branches(), (torch.randn(2, 3), torch.randn(1)))


def test_half_precision_comes_out_in_float32():
    model = nn.Sequential(nn.Linear(4, 3)).to(torch.bfloat16).eval()
    proto = to_onnx(model, (torch.randn(2, 4).bfloat16(),))
    assert {tensor.data_type for tensor in proto.graph.initializer} == {onnx.TensorProto.FLOAT}
    assert compare(model, proto, (torch.randn(2, 4).bfloat16(),)) < 0.05


def test_a_runner_takes_and_returns_tensors(tokens):
    model, proto = tokens
    given = torch.randint(0, 11, (3, 5))
    answers = Runner(proto)(given)
    scores, (hidden, cells) = answers["scores"], answers["last"]
    with torch.no_grad():
        wanted = model.eval()(given)
    torch.testing.assert_close(scores, wanted["scores"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(hidden, wanted["last"][0], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(cells, wanted["last"][1], atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_a_model_that_makes_numbers_of_lengths_is_exported_for_the_example_alone():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(3, 3)

        def forward(self, x):
            h = x.new_zeros(len(x), 3)
            states = []
            for one in x.unbind(1):
                h = torch.tanh(self.step(h) + one)
                states.append(h)
            return torch.stack(states, 1)

    model, x = ByHand(), torch.randn(1, 5, 3)
    assert compare(model, to_onnx(model, (x,)), (x,)) < 1e-5


@pytest.mark.slow
def test_a_recurrent_layer_may_be_called_by_the_names_that_torch_gives():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 3)

        def forward(self, x, state):
            return self.gru(input=x, hx=state)[0]

    model, given = Named().eval(), (torch.randn(5, 2, 4), torch.randn(1, 2, 3))
    assert compare(model, to_onnx(model, given), given) <= TOLERANCE
