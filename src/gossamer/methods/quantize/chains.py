"""Pairs of layers whose channels can be scaled against each other, found in the graph.

Between the two there is nothing but operators f with f(s x) = s f(x) for s > 0, channel by channel: ReLU and leaky
ReLU, pooling, dropout, padding by zeros or by what is there, changes of shape that keep channels together. A ReLU6
between them is no such operator, and becomes one when it loses its bound.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from gossamer.model import Node, Subject

LAYERS: Final = frozenset({"aten.linear", "aten.conv1d", "aten.conv2d", "aten.conv3d"})
CLIPPED: Final = frozenset({"aten.hardtanh", "aten.hardtanh_", "aten.relu6", "aten.relu6_"})
RELU: Final = frozenset({"aten.relu", "aten.relu_"})
VIEWS: Final = frozenset({"aten.flatten", "aten.view", "aten.reshape", "aten._unsafe_view", "aten.squeeze"})
_SAME: Final = frozenset(
    {"aten.dropout", "aten.dropout_", "aten.feature_dropout", "aten.clone", "aten.contiguous", "aten.alias"}
)
_SHIFTED: Final = frozenset(
    {
        *_SAME,
        "aten.max_pool1d",
        "aten.max_pool2d",
        "aten.max_pool3d",
        "aten.adaptive_avg_pool1d",
        "aten.adaptive_avg_pool2d",
        "aten.adaptive_avg_pool3d",
    }
)
"""Operators with f(x + c) = f(x) + c for a constant c of each channel."""
SCALED: Final = frozenset(
    {*_SHIFTED, "aten.leaky_relu", "aten.leaky_relu_", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d"}
)
_PADS: Final = (
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers, the second of which alone reads what the first makes.

    Attributes:
        first: path of the first layer.
        second: path of the second.
        spread: inputs of the second that one channel of the first becomes, more than one after a flattening.
        clips: paths of the ReLU6 modules between them.
        rectified: whether all that is between them beside them is one ReLU or ReLU6 and operators that pass a shift of
            a channel on, and the second pads with no zeros.
    """

    first: str
    second: str
    spread: int = 1
    clips: tuple[str, ...] = ()
    rectified: bool = False


def find_pairs(subject: Subject, layers: Iterable[str]) -> tuple[Pair, ...]:
    """Return the pairs among ``layers``, paths of modules, in the order in which they run."""
    graph, able = subject.graph, frozenset(layers)
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    runs = Counter((node.op, node.module) for node in graph.nodes)
    found = []
    for node in graph.nodes:
        if is_layer(node, able) and runs[node.op, node.module] == 1:
            pair = _followed(subject, node, readers, able)
            if pair is not None and runs[_op_of(subject, pair.second), pair.second] == 1:
                found.append(pair)
    return tuple(found)


def is_layer(node: Node, layers: frozenset[str]) -> bool:
    """Return whether ``node`` is the product of one of ``layers`` with its own weight, on a batch."""
    own = f"{node.module}.weight" if node.module else "weight"
    if node.op not in LAYERS or node.module not in layers or node.sites[:1] != (own,):
        return False
    return node.op == "aten.linear" or len(node.output_shapes[0]) == int(node.op[-2]) + 2


def channel_dim(node: Node) -> int:
    """Return the dimension of a layer's output that counts channels."""
    return len(node.output_shapes[0]) - 1 if node.op == "aten.linear" else 1


def spread_of(node: Node, dim: int) -> int | None:
    """Return how many numbers one channel becomes by a change of shape, or None if channels do not stay together.

    Args:
        node: the operator.
        dim: the dimension of its input that counts channels.
    """
    before, after = node.input_shapes[0], node.output_shapes[0]
    if before == after:
        return 1
    together = dim == 1 and len(after) == 2 and after[0] == before[0] and after[1] == math.prod(before[1:])
    return math.prod(before[2:]) if together else None


def averages_maps(node: Node, dim: int) -> bool:
    """Return whether ``node`` is the mean over all positions of each channel, beyond doubt."""
    if node.op != "aten.mean" or dim != 1 or not node.input_shapes or not node.output_shapes:
        return False
    before, after = node.input_shapes[0], node.output_shapes[0]
    kept = after[:2] == before[:2] and all(size == 1 for size in after[2:])
    # Shapes are all there is to tell by, so the mean over other dimensions must have another one.
    return len(before) > 2 and kept and before[1] not in before[2:]


def pads_with_itself(model: nn.Module, node: Node) -> bool:
    """Return whether ``node`` pads with zeros or with what is there."""
    module = model.get_submodule(node.module)
    return isinstance(module, _PADS) and node.op in {"aten.pad", "aten.constant_pad_nd"}


def by_input(weight: Tensor, groups: int, spread: int = 1) -> Tensor:
    """Return a view of a linear layer's or convolution's weight by input channels: (groups, inputs, outputs, taps).

    Args:
        weight: contiguous, (outputs, inputs / groups, ...).
        groups: of the convolution.
        spread: inputs that make one channel.
    """
    outputs = weight.shape[0] // groups
    inputs = weight.shape[1] // spread
    return weight.view(groups, outputs, inputs, -1).permute(0, 2, 1, 3)


@dataclass
class _Way:
    """What lies between a layer and the next one, as far as it was followed."""

    model: nn.Module
    dim: int
    spread: int = 1
    relus: int = 0
    shifted: bool = True
    clips: list[str] = field(default_factory=list)

    def passes(self, node: Node) -> bool:
        """Take in one more operator; return whether scaled channels stay scaled channels behind it."""
        if node.op in VIEWS:
            more = spread_of(node, self.dim)
            self.spread *= more or 1
            return more is not None
        if node.op in CLIPPED and type(self.model.get_submodule(node.module)) is nn.ReLU6:
            self.clips.append(node.module)
            self.relus += 1
            return True
        self.relus += node.op in RELU
        self.shifted = self.shifted and (node.op in RELU | _SHIFTED or averages_maps(node, self.dim))
        return node.op in RELU | SCALED or averages_maps(node, self.dim) or pads_with_itself(self.model, node)


def _followed(subject: Subject, first: Node, readers: dict[str, list[Node]], able: frozenset[str]) -> Pair | None:
    """Return the pair that ``first`` makes with the layer after it, if there is one."""
    way, node = _Way(subject.model, channel_dim(first)), first
    while True:
        after = readers.get(node.name, [])
        if len(after) != 1 or node.name in subject.graph.outputs or after[0].inputs[0] != node.name:
            return None
        node = after[0]
        if is_layer(node, able):
            break
        if not way.passes(node):
            return None
    if _reads_along(node) != way.dim:
        return None
    pad = getattr(subject.model.get_submodule(node.module), "padding", 0)
    bare = pad == "valid" or (not isinstance(pad, str) and not any(pad if isinstance(pad, tuple) else (pad,)))
    return Pair(first.module, node.module, way.spread, tuple(way.clips), way.relus == 1 and way.shifted and bare)


def _reads_along(node: Node) -> int:
    """Return the dimension of its input along which a layer multiplies."""
    return len(node.input_shapes[0]) - 1 if node.op == "aten.linear" else 1


def _op_of(subject: Subject, module: str) -> str:
    return next(node.op for node in subject.graph.nodes if node.module == module and node.op in LAYERS)
