"""Recurrent layers in integers agree with a slow reference whose inputs and states are on stored grids."""

import numpy as np
import onnx
import pytest
import torch
from graphs.build import grid, snap
from graphs.recurrent import Net, by_hand, feeds_of, quantized, reference
from torch import nn

from gossamer.codings import Dense
from gossamer.targets import (
    Cpu,
    dynamic,
    fill,
    not_integer,
    open_session,
    operators_of,
    run_session,
    static_loop,
    to_onnx,
)
from gossamer.targets.exact import exact_products, needs_exact

PLAIN = Cpu("plain", saturates=True, why="for the test")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", dict.fromkeys(static_loop.LEAST_STATIC, 1))


def grids_of(layer):
    """Return a grid for each matrix, all of other scales and zeros."""
    names = [name for name, _ in layer.named_parameters() if name.startswith("weight")]
    return {
        name: grid(0.012 + 0.001 * index, index - 8 if index % 2 else 120 + index, signed=bool(index % 2))
        for index, name in enumerate(names)
    }


def filled(proto, tensors, grids):
    return fill(proto, tensors, {f"layer.{name}": of for name, of in grids.items()}, quantized=True)


def check(lowered, tensors, feeds, wanted):
    sites = [name for name in tensors if ".weight" in name]
    assert sorted(lowered.integer) == sorted(sites)
    assert not lowered.reasons
    operators = operators_of(lowered.proto, sites)
    assert {operators[site] for site in sites if "_hh_" in site} == {"MatMulInteger"}
    assert {operators[site] for site in sites if "_ih_" in site} == {"MatMulIntegerToFloat"}
    assert not_integer(lowered.proto, sites) == []
    for cpu in (None, PLAIN):
        found = list(run_session(open_session(lowered.proto, cpu=cpu), feeds).values())
        for got, true in zip(found, wanted, strict=False):
            like = got.transpose(0, 2, 1, 3).reshape(true.shape) if got.ndim == 4 else got
            np.testing.assert_allclose(like, true, atol=0.01, rtol=0)  # a state may round the other way
            assert np.abs(like - true).mean() < 1e-4


def reference_of(layer, x, grids, lengths=None, state=None):
    return reference(layer, x, lengths, state, lambda name, factor: snap(factor, grids[name]))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}], ids=["plain", "both", "bare"])
@pytest.mark.parametrize("extra", ["", "lengths", "state"])
def test_an_operator_equals_the_reference(kind, options, extra):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    layer = getattr(nn, kind)(6, 5, **options)
    tensors, grids = quantized(layer, rng), grids_of(layer)
    feeds, lengths, state = feeds_of(rng, kind, 2 if layer.bidirectional else 1, extra)
    more = [name for name in feeds if name != "x"]
    lowered = filled(by_hand(layer, more), tensors, grids)
    check(lowered, tensors, feeds, reference_of(layer, feeds["x"], grids, lengths, state))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_module_equals_the_reference(kind):
    torch.manual_seed(0)
    layer = getattr(nn, kind)(6, 5, num_layers=2, bidirectional=True)
    tensors, grids = quantized(layer, np.random.default_rng(0)), grids_of(layer)
    x, lengths = torch.randn(4, 3, 6), np.array([2, 4, 1])
    lowered = filled(to_onnx(Net(layer, lengths=True), (x, torch.from_numpy(lengths))), tensors, grids)
    names = [entry.name for entry in lowered.proto.graph.input]
    feeds = dict(zip(names, [x.numpy(), lengths], strict=True))
    check(lowered, tensors, feeds, reference_of(layer, x.numpy(), grids, lengths))


def float_of(layer, grids, tensors=None, change=None):
    """Return the reasons of a layer that stays in float."""
    tensors = tensors or quantized(layer, np.random.default_rng(0))
    proto = by_hand(layer, [])
    if change is not None:
        change(proto.graph.node[-1])
    lowered = filled(proto, tensors, grids)
    assert not lowered.integer
    x = np.random.default_rng(1).normal(size=(4, 3, 6)).astype(np.float32)
    if change is None:
        found = run_session(open_session(lowered.proto), {"x": x})["y"]
        np.testing.assert_allclose(found[:, 0], layer(torch.from_numpy(x))[0].detach().numpy(), atol=1e-5)
    return {reason.what: str(reason) for reason in lowered.reasons}


def test_a_small_layer_stays_in_float_and_says_why(monkeypatch):
    monkeypatch.setattr(static_loop, "LEAST_STATIC", {"LSTM": 256})
    layer = nn.LSTM(6, 5)
    reasons = float_of(layer, grids_of(layer))
    assert set(reasons) == {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert "LSTM units are too few: with grids float is faster below 256" in reasons["layer.weight_hh_l0"]


def test_one_grid_is_not_enough(monkeypatch):
    monkeypatch.setattr(dynamic, "LEAST", dict.fromkeys(dynamic.LEAST, 1))
    layer = nn.GRU(6, 5)
    grids = grids_of(layer)
    reasons = float_of(layer, {"weight_ih_l0": grids["weight_ih_l0"]})
    assert "what layer.weight_hh_l0 multiplies beside it has no grid" in reasons["layer.weight_ih_l0"]
    reasons = float_of(layer, grids | {"weight_hh_l0": grid(0.01, 7, 4)})
    assert set(reasons) == {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert "on a grid that is not of 8 bits" in reasons["layer.weight_ih_l0"]
    tensors = quantized(layer, np.random.default_rng(0))
    tensors["layer.weight_hh_l0"] = Dense(layer.weight_hh_l0.detach().numpy())
    assert "layer.weight_hh_l0 beside it is not" in float_of(layer, grids, tensors)["layer.weight_ih_l0"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("clip", 1.0, "a clip"), ("input_forget", 1, "couples its gates"), ("activations", ["Relu"] * 3, "activations")],
)
def test_what_a_loop_does_not_do_stays_in_float(name, value, why):
    layer = nn.LSTM(6, 5)

    def change(node):
        node.attribute.append(onnx.helper.make_attribute(name, value))

    assert why in float_of(layer, grids_of(layer), change=change)["layer.weight_hh_l0"]


def test_peepholes_stay_in_float():
    layer = nn.LSTM(6, 5)

    def change(node):
        node.input.extend([""] * (7 - len(node.input)) + ["peepholes"])

    tensors = quantized(layer, np.random.default_rng(0))
    proto = by_hand(layer, [])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 15), np.float32), "peepholes"))
    change(proto.graph.node[-1])
    lowered = filled(proto, tensors, grids_of(layer))
    assert "has peepholes" in str(lowered.reasons[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_where_sums_saturate_codes_become_unsigned_before_and_inside_the_loop(kind):
    layer = getattr(nn, kind)(6, 5)
    lowered = filled(by_hand(layer, []), quantized(layer, np.random.default_rng(0)), grids_of(layer))
    assert needs_exact(lowered.proto)
    exact = exact_products(lowered.proto)
    kinds = {tensor.name: tensor.data_type for tensor in exact.graph.initializer}
    for site in ("layer.weight_ih_l0", "layer.weight_hh_l0"):
        assert kinds[f"{site}:codes"] == kinds[f"{site}:one:zero"] == onnx.TensorProto.UINT8
    assert not needs_exact(exact)
