"""Recurrent layers in integers agree with a slow reference that quantizes inputs and states as they come."""

import numpy as np
import pytest
import torch
from graphs.recurrent import Net, by_hand, feeds_of, quantized, reference
from torch import nn

from gossamer.codings import Dense
from gossamer.targets import Cpu, dynamic, fill, not_integer, open_session, operators_of, run_session, to_onnx

OPERATOR = {"LSTM": "DynamicQuantizeLSTM", "GRU": "DynamicQuantizeMatMul", "RNN": "DynamicQuantizeMatMul"}
PLAIN = Cpu("plain", saturates=True, why="for the test")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(dynamic, "LEAST", dict.fromkeys(dynamic.LEAST, 1))


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
    feeds, lengths, state = feeds_of(rng, kind, 2 if layer.bidirectional else 1, extra)
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
