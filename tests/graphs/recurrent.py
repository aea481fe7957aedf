"""Recurrent layers as an export writes them, and what their integer form must give, the slow and plain way."""

import numpy as np
import torch
from graphs.build import graph, levels, node
from onnx import TensorProto, helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gossamer.codings import Dense, decode


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


def reference(layer, x, lengths=None, state=None, put=lambda _, factor: dynamically(factor)):
    """Return y (time, batch, ways * hidden), h and c of all layers, from torch's formulas.

    ``put`` puts what the matrix of a name multiplies on levels, by default on dynamic ones.
    """
    kind, ways = type(layer).__name__, 2 if layer.bidirectional else 1
    time, batch, _ = x.shape
    lengths = np.full(batch, time) if lengths is None else lengths
    hs, cs = [], []
    for index in range(layer.num_layers):
        outputs = []
        for way in range(ways):

            def of(name, index=index, way=way):
                found = getattr(layer, f"{name}_l{index}{'_reverse' if way else ''}", None)
                return np.zeros(1) if found is None else found.detach().numpy().astype(np.float64)

            number = index * ways + way
            which = f"l{index}{'_reverse' if way else ''}"
            snapped = put(f"weight_ih_{which}", x)
            h = np.zeros((batch, layer.hidden_size)) if state is None else state[0][number].astype(np.float64)
            c = np.zeros((batch, layer.hidden_size)) if state is None else state[-1][number].astype(np.float64)
            y = np.zeros((time, batch, layer.hidden_size))
            for t in range(time):
                at = np.where(lengths > t, lengths - 1 - t, t) if way else np.full(batch, t)
                gx = snapped[at, np.arange(batch)] @ of("weight_ih").T + of("bias_ih")
                gh = put(f"weight_hh_{which}", h) @ of("weight_hh").T + of("bias_hh")
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


def feeds_of(rng, kind, ways, extra):
    """Return inputs of an operator with ``lengths``, a ``state`` or neither, the lengths and the state."""
    feeds = {"x": rng.normal(size=(4, 3, 6)).astype(np.float32)}
    lengths, state = None, None
    if extra == "lengths":
        lengths = feeds["lengths"] = np.array([2, 4, 1], np.int32)
    if extra == "state":
        state = [rng.uniform(-0.5, 0.5, (ways, 3, 5)).astype(np.float32) for _ in range(2 if kind == "LSTM" else 1)]
        feeds |= dict(zip(("h0", "c0"), state, strict=False))
    return feeds, lengths, state
