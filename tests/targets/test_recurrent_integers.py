"""Recurrent layers in integers agree with a slow reference that quantizes inputs and states as they come."""

import numpy as np
import pytest
import torch
from graphs.build import graph, levels, node
from onnx import TensorProto, helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gossamer.codings import Dense, decode
from gossamer.targets import Cpu, dynamic, fill, not_integer, open_session, operators_of, run_session, to_onnx

OPERATOR = {"LSTM": "DynamicQuantizeLSTM", "GRU": "DynamicQuantizeMatMul", "RNN": "DynamicQuantizeMatMul"}
PLAIN = Cpu("plain", saturates=True, why="for the test")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(dynamic, "LEAST", dict.fromkeys(dynamic.LEAST, 1))


def dynamically(x):
    """Put ``x`` on 8 bits between its ends, as DynamicQuantizeLinear does."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1.0)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(kind, gx, gh, h, c):
    if kind == "RNN":
        return np.tanh(gx + gh), c
    if kind == "LSTM":
        i, f, g, o = np.split(gx + gh, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (xr, xz, xn), (hr, hz, hn) = np.split(gx, 3, axis=-1), np.split(gh, 3, axis=-1)
    z = sigmoid(xz + hz)
    return (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h, c


def reference(layer, x, lengths=None, state=None):
    """Return y (time, batch, ways * hidden), h and c of all layers, from torch's formulas and dynamic levels."""
    kind, ways = type(layer).__name__, 2 if layer.bidirectional else 1
    time, batch, _ = x.shape
    lengths = np.full(batch, time) if lengths is None else lengths
    hs, cs = [], []
    for index in range(layer.num_layers):
        outputs = []
        snapped = dynamically(x)
        for way in range(ways):

            def of(name, index=index, way=way):
                found = getattr(layer, f"{name}_l{index}{'_reverse' if way else ''}", None)
                return np.zeros(1) if found is None else found.detach().numpy().astype(np.float64)

            number = index * ways + way
            h = np.zeros((batch, layer.hidden_size)) if state is None else state[0][number].astype(np.float64)
            c = np.zeros((batch, layer.hidden_size)) if state is None else state[-1][number].astype(np.float64)
            y = np.zeros((time, batch, layer.hidden_size))
            for t in range(time):
                at = np.where(lengths > t, lengths - 1 - t, t) if way else np.full(batch, t)
                gx = snapped[at, np.arange(batch)] @ of("weight_ih").T + of("bias_ih")
                gh = dynamically(h) @ of("weight_hh").T + of("bias_hh")
                new, cell = step(kind, gx, gh, h, c)
                inside = (lengths > t)[:, None]
                h, c = np.where(inside, new, h), np.where(inside, cell, c)
                y[at, np.arange(batch)] = np.where(inside, h, 0.0)
            outputs.append(y)
            hs.append(h)
            cs.append(c)
        x = np.concatenate(outputs, axis=-1).astype(np.float32)
    return x, np.stack(hs), np.stack(cs)


class Net(nn.Module):
    def __init__(self, layer, *, lengths=False, state=False):
        super().__init__()
        self.layer, self.lengths, self.state = layer, lengths, state

    def forward(self, x, *more):
        if self.lengths:
            y, after = self.layer(pack_padded_sequence(x, more[0], enforce_sorted=False))
            return pad_packed_sequence(y)[0], after
        if self.state:
            return self.layer(x, more if isinstance(self.layer, nn.LSTM) else more[0])
        return self.layer(x)


def quantized(layer, rng, axis=0):
    """Put the matrices of ``layer`` on random levels and return the codings of all its tensors."""
    tensors = {}
    for name, parameter in layer.named_parameters():
        if name.startswith("weight"):
            coding = levels(rng, tuple(parameter.shape), axis, bits=8)
            parameter.data = torch.from_numpy(decode(coding))
        else:
            coding = Dense(parameter.detach().numpy())
        tensors[f"layer.{name}"] = coding
    return tensors


ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def by_hand(layer, more):
    """Return the graph that an export makes of one layer: gates put in order, directions joined by nodes."""
    kind, ways = type(layer).__name__, 2 if layer.bidirectional else 1
    gates, hidden = len(ORDER[kind]), layer.hidden_size
    constants = {"order": np.array(ORDER[kind]), "apart": np.array([gates, hidden, -1])}
    constants |= {"matrix": np.array([1, gates * hidden, -1]), "row": np.array([1, -1])}
    nodes, inputs = [], ["x"]
    for name, shape in (("weight_ih", "matrix"), ("weight_hh", "matrix"), ("bias", "row")):
        parts = ["bias_ih", "bias_hh"] if name == "bias" else [name]
        found = []
        for way in range(ways):
            for part in parts if layer.bias or name != "bias" else ():
                site = f"layer.{part}_l0{'_reverse' if way else ''}"
                nodes.append(node("Reshape", f"{site} apart", f"{site}:a"))
                nodes.append(node("Gather", f"{site}:a order", f"{site}:b"))
                nodes.append(node("Reshape", f"{site}:b {shape}", f"{site}:c"))
                found.append(f"{site}:c")
        if found and name == "bias":
            pairs = [" ".join(found[2 * way : 2 * way + 2]) for way in range(ways)]
            nodes += [node("Concat", pair, f"bias{way}", axis=1) for way, pair in enumerate(pairs)]
            found = [f"bias{way}" for way in range(ways)]
        if found:
            nodes.append(node("Concat", " ".join(found), name, axis=0))
        inputs.append(name if found else "")
    inputs += ["", *more] if "lengths" not in more else ["lengths"]
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    direction = "bidirectional" if ways == 2 else "forward"
    outputs = ["y", "h", "c"][: 3 if kind == "LSTM" else 2]
    nodes.append(helper.make_node(kind, inputs, outputs, hidden_size=hidden, direction=direction, **options))
    shapes = {name: (ways, 3, hidden) for name in more if name != "lengths"}
    shapes |= {"x": ("time", 3, 6)} | ({"lengths": (3,)} if "lengths" in more else {})
    return graph(nodes, shapes, tuple(outputs), constants, {"lengths": TensorProto.INT32})


def check(lowered, layer, tensors, feeds, wanted):
    kind = type(layer).__name__
    sites = [name for name in tensors if ".weight" in name]
    assert sorted(lowered.integer) == sorted(sites)
    assert not lowered.reasons
    assert set(operators_of(lowered.proto, sites).values()) == {OPERATOR[kind]}
    assert not_integer(lowered.proto, sites) == []
    for cpu in (None, PLAIN):
        found = list(run_session(open_session(lowered.proto, cpu=cpu), feeds).values())
        for got, true in zip(found, wanted, strict=False):
            like = got.transpose(0, 2, 1, 3).reshape(true.shape) if got.ndim == 4 else got
            # one code of an input may round the other way
            np.testing.assert_allclose(like, true, atol=0.03, rtol=0)
            assert np.abs(like - true).mean() < 0.002


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=["plain", "both", "bare"])
@pytest.mark.parametrize("extra", ["", "lengths", "state"])
def test_an_operator_equals_the_reference(kind, options, extra):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    layer = getattr(nn, kind)(6, 5, **options)
    tensors = quantized(layer, rng)
    ways = 2 if layer.bidirectional else 1
    feeds = {"x": rng.normal(size=(4, 3, 6)).astype(np.float32)}
    lengths, state = None, None
    if extra == "lengths":
        lengths = feeds["lengths"] = np.array([2, 4, 1], np.int32)
    if extra == "state":
        state = [rng.uniform(-0.5, 0.5, (ways, 3, 5)).astype(np.float32) for _ in range(2 if kind == "LSTM" else 1)]
        feeds |= dict(zip(("h0", "c0"), state, strict=False))
    more = [name for name in feeds if name != "x"]
    lowered = fill(by_hand(layer, more), tensors, {}, quantized=True)
    check(lowered, layer, tensors, feeds, reference(layer, feeds["x"], lengths, state))


CASES = {
    "plain": {},
    "stacked both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("case", "extra"), [("plain", ""), ("stacked both ways", "lengths"), ("no bias", "state")])
def test_a_module_equals_the_reference(kind, case, extra):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    layer = getattr(nn, kind)(6, 5, **CASES[case])
    net = Net(layer, lengths=extra == "lengths", state=extra == "state")
    tensors = quantized(layer, rng)
    x = torch.randn(4, 3, 6)
    lengths, state, more = None, None, ()
    if extra == "lengths":
        lengths = np.array([2, 4, 1])
        more = (torch.from_numpy(lengths),)
    if extra == "state":
        ways = layer.num_layers * (2 if layer.bidirectional else 1)
        more = tuple(torch.rand(ways, 3, 5) - 0.5 for _ in range(2 if kind == "LSTM" else 1))
        state = [part.numpy() for part in more]
    lowered = fill(to_onnx(net, (x, *more)), tensors, {}, quantized=True)
    names = [entry.name for entry in lowered.proto.graph.input]
    feeds = dict(zip(names, [part.numpy() for part in (x, *more)], strict=True))
    check(lowered, layer, tensors, feeds, reference(layer, x.numpy(), lengths, state))


def test_a_small_layer_stays_in_float_and_says_why(monkeypatch):
    monkeypatch.setattr(dynamic, "LEAST", {"LSTM": 64, "GRU": 320, "RNN": 256})
    layer = nn.GRU(6, 5)
    tensors = quantized(layer, np.random.default_rng(0))
    lowered = fill(by_hand(layer, []), tensors, {}, quantized=True)
    assert not lowered.integer
    assert {reason.what for reason in lowered.reasons} == {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert "GRU units are too few: float is faster below 320" in str(lowered.reasons[0])
    x = np.random.default_rng(1).normal(size=(4, 3, 6)).astype(np.float32)
    found = run_session(open_session(lowered.proto), {"x": x})["y"]
    np.testing.assert_allclose(found[:, 0], layer(torch.from_numpy(x))[0].detach().numpy(), atol=1e-5)


def test_one_matrix_in_8_bits_is_not_enough():
    layer = nn.LSTM(6, 5)
    tensors = quantized(layer, np.random.default_rng(0))
    tensors["layer.weight_hh_l0"] = Dense(layer.weight_hh_l0.detach().numpy())
    lowered = fill(by_hand(layer, []), tensors, {}, quantized=True)
    assert not lowered.integer
    assert "layer.weight_hh_l0 beside it is not on a grid of 8 bits" in str(lowered.reasons[0])
