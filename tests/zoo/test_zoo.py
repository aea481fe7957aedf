"""The reference networks: sizes, shapes, equations, and the weights that come with them."""

import pytest
import torch
from torch import nn

from gossamer import datasets, zoo
from gossamer.errors import ModelError
from gossamer.task import Sequences, evaluate
from gossamer.train import Training, train
from gossamer.train.config import Config
from gossamer.zoo.char_rnn import CharRNN, summed_loss
from gossamer.zoo.edges import HEIGHT, WIDTH, Edges
from gossamer.zoo.hidden import Hidden, hidden_unit
from gossamer.zoo.lenet300 import LeNet300
from gossamer.zoo.spoken import SpokenGRU, SpokenLSTM
from gossamer.zoo.xor import POINTS, VALUES, learned, linear_fit, solved

PUBLISHED = {
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "vgg16-bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19-bn": 143_678_248,
    "googlenet": 6_624_904,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "mobilenetv2": 3_504_872,
    "densenet121": 7_978_856,
    "squeezenet": 1_235_496,
}
SHAPES = {
    "xor": (1,),
    "edges": (1, 1, HEIGHT, WIDTH - 1),
    "unet": (1, 2, 128, 128),
    "unet-small": (1, 2, 64, 64),
    **dict.fromkeys(("char-rnn", "char-lstm", "char-gru"), (1, 64, 80)),
    **dict.fromkeys(("seq2seq-lstm", "seq2seq-gru"), (1, 16, 1000)),
}


@pytest.mark.parametrize("entry", zoo.NETWORKS, ids=lambda entry: entry.name)
def test_each_network_has_the_stated_size_and_shapes(entry):
    with torch.device("meta"):  # shapes without values: the largest takes no memory
        model = entry.make().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    inputs = entry.example()
    classes = 1000 if inputs[0].shape[1:] == (3, 224, 224) else 10
    assert model(*(given.to("meta") for given in inputs)).shape == SHAPES.get(entry.name, (1, classes))


@pytest.mark.parametrize("entry", [entry for entry in zoo.NETWORKS if entry.data], ids=lambda entry: entry.name)
def test_each_network_for_data_takes_a_batch(entry):
    inputs = (given.expand(2, *given.shape[1:]) for given in entry.example())
    assert zoo.build(entry.name).eval()(*inputs).shape == (2, *SHAPES.get(entry.name, (1, 10))[1:])


def test_the_published_parameter_counts():
    counts = {entry.name: entry.parameters for entry in zoo.NETWORKS}
    assert counts["lenet300"] == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert counts["lenet5"] == 431_080
    assert counts["lenet5-lecun"] == 61_706
    assert counts["vgg-small"] <= 1_500_000
    assert counts["mobilenetv2-small"] <= 1_000_000
    assert {name: counts[name] for name in PUBLISHED} == PUBLISHED


def test_unknown_names_and_missing_weights_are_named():
    with pytest.raises(ModelError, match="did you mean 'lenet5'"):
        zoo.build("lenet-5")
    with pytest.raises(ModelError, match="edges has no trained weights"):
        zoo.build("edges", pretrained=True)
    assert isinstance(zoo.build("edges", pretrained=None), Edges)


@pytest.mark.parametrize("name", zoo.names())
def test_settings_of_a_network_are_sound_and_name_known_data(name):
    text = zoo.config(name)
    if text is not None:
        found = Config.parse(text, name)
        assert found.data == zoo.network(name).data
        assert found.data in datasets.BY_NAME


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.trained(name)])
def test_weights_that_come_with_the_package_fit(name):
    model = zoo.build(name, pretrained=True)
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_xor_a_linear_model_says_one_half_everywhere():
    w, b = linear_fit()
    assert torch.allclose(w, torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert b == pytest.approx(0.5)
    task = datasets.load("xor")
    line = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    train(line, task, Training(epochs=100, lr=0.1, batch_size=4))
    assert line(torch.tensor(POINTS)).tolist() == pytest.approx([0.5] * 4, abs=0.02)


def test_xor_two_hidden_units_are_exact():
    assert solved()(torch.tensor(POINTS)).tolist() == list(VALUES)


def test_xor_is_found_by_gradient_descent():
    network = learned()
    assert network(torch.tensor(POINTS)).tolist() == pytest.approx(list(VALUES), abs=1e-2)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("relu", [0.0, 0.0, 3.0]),
        ("absolute", [2.0, 0.0, 3.0]),
        ("leaky", [-0.02, 0.0, 3.0]),
        ("prelu", [-0.5, 0.0, 3.0]),
        ("sigmoid", [0.1192029, 0.5, 0.9525741]),
        ("tanh", [-0.9640276, 0.0, 0.9950548]),
    ],
)
def test_hidden_units(kind: Hidden, wanted):
    z = torch.tensor([-2.0, 0.0, 3.0])
    assert hidden_unit(kind)(z).tolist() == pytest.approx(wanted, abs=1e-6)
    assert LeNet300(kind)(torch.zeros(1, 784)).shape == (1, 10)


def test_the_recurrent_network_follows_its_equations():
    torch.manual_seed(2)
    model = CharRNN(symbols=7, hidden=5).double()
    with torch.no_grad():
        model.b.normal_()
        model.c.normal_()
    text = torch.randint(7, (3, 6))
    o = model(text)
    for n in range(3):
        h = torch.zeros(5, dtype=torch.float64)
        for t in range(6):
            a = model.b + model.W @ h + model.U[:, text[n, t]]
            h = torch.tanh(a)
            assert torch.allclose(o[n, t], model.c + model.V @ h)
    assert torch.allclose(model.probabilities(text).sum(-1), torch.ones(3, 6, dtype=torch.float64))
    targets = torch.randint(7, (3, 6))
    y = model.probabilities(text)
    wanted = -sum(torch.log(y[n, t, targets[n, t]]) for n in range(3) for t in range(6))
    assert torch.allclose(summed_loss(o, targets), wanted)


def test_the_recurrent_network_equals_torchs():
    model, reference = CharRNN(symbols=7, hidden=5), nn.RNN(7, 5, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(model.U)
        reference.weight_hh_l0.copy_(model.W)
        reference.bias_ih_l0.copy_(model.b)
        reference.bias_hh_l0.zero_()
    text = torch.randint(7, (2, 9))
    states, _ = reference(nn.functional.one_hot(text, 7).float())
    assert torch.allclose(model(text), states @ model.V.T + model.c, atol=1e-6)


@pytest.mark.parametrize("kind", [SpokenGRU, SpokenLSTM])
def test_padding_does_not_change_what_a_sequence_says(kind):
    model = kind(hidden=8).eval()
    frames = [torch.randn(n, 13) for n in (4, 11, 7, 1)]
    batch = Sequences(frames, torch.zeros(4)).batch(torch.arange(4))
    together = model(*batch.args)
    alone = torch.cat([model(f[None], torch.tensor([len(f)])) for f in frames])
    packed = nn.utils.rnn.pack_sequence(frames, enforce_sorted=False)
    _, last = (model.gru if kind is SpokenGRU else model.lstm)(packed)
    packed_logits = model.fc((last if kind is SpokenGRU else last[0])[0])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together, packed_logits, atol=1e-6)


def test_edges_are_differences_of_neighbours():
    image = torch.rand(1, 1, HEIGHT, WIDTH)
    assert torch.equal(Edges()(image), image[..., :-1] - image[..., 1:])


@pytest.mark.parametrize("name", [name for name in ("mlp-digits",) if zoo.trained(name)])
def test_trained_weights_are_trained(name):
    assert evaluate(zoo.build(name, pretrained=True), datasets.load(zoo.network(name).data))["accuracy"] > 0.95
