"""A graph is called as its model was: arguments by name, outputs put together the same way."""

import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

from gossamer.errors import TargetError
from gossamer.targets import Runner, arrays_of, compare, to_onnx

TOLERANCE = 1e-5
Pair = namedtuple("Pair", "first second")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)


class Difference(Base):
    def forward(self, a, b):
        return self.layer(a) - 2 * b


class Nested(Base):
    def forward(self, b, parts, twice=False):
        return self.layer(parts["q"]) - (2 * b if twice else b) + 3 * parts["p"][0]


class Several(Base):
    def forward(self, a, *more):
        return self.layer(a) + more[0] + 2 * more[1]


class Answers(Base):
    def forward(self, a):
        scores = self.layer(a)
        return {"scores": scores, "rest": [2 * a, (scores + 1, None)], "pair": Pair(a - 1, 3 * a)}


class PassedThrough(Base):
    def forward(self, a):
        scores = self.layer(a)
        return scores, scores, a, self.layer.weight


def rows(count=2):
    return torch.rand(count, 3)


@pytest.fixture(scope="module")
def plain():
    """A graph without a note, called with two tensors."""
    return to_onnx(Difference(), (rows(), rows()))


@pytest.fixture(scope="module")
def noted():
    """A graph with a note, called with a tensor and a dict."""
    return to_onnx(Nested(), (rows(), {"q": rows(), "p": [rows()]}))


def test_keywords_find_their_inputs_in_any_order():
    model, a, b = Difference(), rows(), rows()
    proto = to_onnx(model, (a, b))
    runner = Runner(proto)
    for args, kwargs in (((), {"b": b, "a": a}), ((a,), {"b": b}), ((a, b), {})):
        assert compare(model, proto, args, kwargs) <= TOLERANCE
        assert torch.allclose(runner(*args, **kwargs), model(a, b), atol=TOLERANCE)
    assert list(arrays_of(proto, (), {"b": b, "a": a})) == ["a", "b"]


@pytest.mark.parametrize(("args", "kwargs"), [((1,), {}), ((1, 1, 1), {}), ((1, 1), {"a": 1}), ((1,), {"c": 1})])
@pytest.mark.parametrize("graph", ["plain", "noted"])
def test_inputs_that_find_no_place_are_refused(args, kwargs, graph, request):
    proto = request.getfixturevalue(graph)
    assert bool(proto.metadata_props) == (graph == "noted")
    with pytest.raises(TargetError, match=r"the graph|fit"):
        arrays_of(proto, tuple(rows() for _ in args), {name: rows() for name in kwargs})


def test_nested_inputs_go_by_their_keys():
    model, q, p, b = Nested(), rows(), rows(), rows()
    proto = to_onnx(model, (b, {"q": q, "p": [p]}), {"twice": True})
    assert compare(model, proto, (b,), {"parts": {"p": [p], "q": q}, "twice": True}) <= TOLERANCE
    assert compare(model, proto, (b, {"p": [p], "q": q}, True)) <= TOLERANCE


def test_a_dict_as_the_last_positional_input():
    model = Nested()
    example = (rows(), {"p": [rows()], "q": rows()})
    assert compare(model, to_onnx(model, example), example) <= TOLERANCE


def test_any_number_of_positional_inputs():
    model, inputs = Several(), (rows(), rows(), rows())
    assert compare(model, to_onnx(model, inputs), inputs) <= TOLERANCE


def test_outputs_are_put_together_as_the_model_does():
    model, a = Answers(), rows()
    got, wanted = Runner(to_onnx(model, (a,)))(a), model(a)
    assert list(got) == list(wanted)
    assert torch.allclose(got["scores"], wanted["scores"], atol=TOLERANCE)
    assert torch.allclose(got["rest"][0], 2 * a)
    assert isinstance(got["rest"][1], tuple)
    assert got["rest"][1][1] is None
    assert torch.allclose(got["pair"].first, a - 1)
    assert torch.allclose(got["pair"].second, 3 * a)


@pytest.mark.parametrize("text", ["", "{}", "[[],[],[5]]", '[[["a",9]],["a"],0]', '[[["a",1]],["[\'a\']"],7]'])
def test_a_damaged_note_is_told(text, plain):
    proto = copy.deepcopy(plain)
    proto.metadata_props.add(key="gossamer.call", value=text)
    with pytest.raises(TargetError):
        Runner(proto)(rows(), rows())


def test_inputs_and_weights_may_be_returned():
    model, a = PassedThrough(), rows(4)
    proto = to_onnx(model, (rows(),))
    assert compare(model, proto, (a,)) <= TOLERANCE
    assert {"layer.weight", "layer.bias"} == {tensor.name for tensor in proto.graph.initializer}


class FirstChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, images):
        return self.layer(images[:, 0].flatten(1))


@pytest.mark.parametrize("pool", [False, True])
def test_channels_keep_their_number(pool):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), FirstChannel()) if pool else FirstChannel()
    proto = to_onnx(model, (torch.rand(1, 1, 8, 8),))
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in shape] == [0, 1, 8, 8]
    assert compare(model, proto, (torch.rand(5, 1, 8, 8),)) <= TOLERANCE
