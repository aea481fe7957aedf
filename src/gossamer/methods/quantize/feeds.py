"""What feeds linear layers, found in the graph: norms with a scale per channel, and linear layers before them.

Between a feed and the layers that read it there is nothing but operators f with f(s x) = s f(x) for s > 0, channel by
channel along the last dimension, so a channel can be made smaller in the feed and larger in all its readers. One
reader more, of any other kind, and it cannot.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from gossamer.methods.quantize.chains import RELU, VIEWS
from gossamer.model import Node, Site, Subject, find_sites

LINEAR: Final = "aten.linear"
NORMS: Final = frozenset({"aten.layer_norm", "aten.rms_norm", "aten.batch_norm"})
_SAME: Final = RELU | {
    "aten.leaky_relu",
    "aten.leaky_relu_",
    "aten.dropout",
    "aten.dropout_",
    "aten.clone",
    "aten.contiguous",
    "aten.alias",
    "aten.to",
    "aten._to_copy",
}
_RESHAPED: Final = VIEWS | {"aten.unsqueeze", "aten.expand"}
"""Operators that leave the last dimension what it is if they leave its size."""
_MOVED: Final = frozenset({"aten.transpose", "aten.permute", "aten.select", "aten.slice", "aten.mean"})
"""Operators that may change what the last dimension is; only sizes tell."""
_SUMS: Final = frozenset({"aten.add", "aten.add_"})


@dataclass(frozen=True, slots=True)
class Feed:
    """What makes the input of some linear layers, and nothing else reads it.

    Attributes:
        makers: names of the parameters whose first dimension counts its channels, and that it is linear in: scale and
            shift of a norm, or weight and bias of a linear layer.
        readers: names of the weights that multiply it, (outputs, channels), in the order in which they run.
    """

    makers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Feeds:
    """The feeds of a model in the order in which they run, and why other weights have none, by site."""

    found: tuple[Feed, ...]
    reasons: Mapping[str, str]


def find_feeds(subject: Subject, refused: Mapping[str, str], *, linear: bool) -> Feeds:
    """Return the feeds of linear layers of ``subject``.

    Args:
        subject: the model.
        refused: sites whose values must stay, with the reason.
        linear: whether a linear layer can be a feed; otherwise only a norm is one.
    """
    nodes = subject.graph.nodes
    known = {node.op for node in nodes}
    hidden = next((one for one in subject.graph.unseen if one.what not in known), None)
    if hidden is not None:
        where = f" in {hidden.where}" if hidden.where else ""
        return Feeds((), dict.fromkeys(subject.sites, f"{hidden.what}{where} hides the graph: {hidden.why}"))
    view = _View(subject, refused, linear)
    reasons: dict[str, str] = {}
    feeds: dict[str, Feed] = {}
    for node in nodes:
        weight = view.weight_of(node)
        if weight is None or weight in refused:
            continue
        head = view.head_of(node)
        if isinstance(head, str):
            reasons[weight] = head
        elif head.name not in feeds:
            feed = view.feed(head)
            if isinstance(feed, Feed):
                feeds[head.name] = feed
            else:
                reasons[weight] = feed
    never = dict.fromkeys(subject.sites, "no linear layer multiplies it as it is")
    return Feeds(tuple(feeds.values()), never | reasons)


@dataclass
class _View:
    """The graph of a subject, read for feeds."""

    subject: Subject
    refused: Mapping[str, str]
    linear: bool
    nodes: dict[str, Node] = field(init=False)
    order: dict[Node, int] = field(init=False)
    readers: dict[str, list[Node]] = field(init=False)
    uses: Counter[str] = field(init=False)
    every: Mapping[str, Site] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.subject.graph
        self.nodes = {node.name: node for node in graph.nodes}
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self.readers = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.uses = Counter(name for node in graph.nodes for name in node.sites)
        self.every = find_sites(self.subject.model, every=True)

    def weight_of(self, node: Node) -> str | None:
        """Return the weight that a linear layer multiplies with whole, once in the model; None if it does not."""
        plain = node.op == LINEAR and len(node.inputs) > 1 and len(node.sites) == len(node.inputs) - 1
        if not plain or node.inputs[1] in self.nodes:
            return None
        site = self.subject.sites.get(node.sites[0])
        whole = site is not None and site.shape == node.input_shapes[1] and self.uses[site.name] == 1
        return site.name if whole and site is not None else None

    def head_of(self, node: Node) -> Node | str:
        """Return the nearest feed before the linear layer ``node``, or why it has none."""
        name, size = node.inputs[0], node.input_shapes[0][-1]
        while name in self.nodes:
            before = self.nodes[name]
            if self.is_head(before):
                return before
            added = self._added(before)
            if added is not None:
                name = next(given for given in before.inputs if given != added[0])
            elif self._passes(before, size):
                name = before.inputs[0]
            elif before.op == LINEAR:
                return f"{_place(before)} feeds it, which is no norm"
            else:
                return f"{_place(before)} feeds it, which is no norm with a scale per channel"
        return "no norm feeds it"

    def is_head(self, node: Node) -> bool:
        """Return whether ``node`` may be a feed by what it is, whatever reads it."""
        if node.op == LINEAR:
            return self.linear and self.weight_of(node) is not None
        return bool(self._factors(node))

    def feed(self, head: Node) -> Feed | str:
        """Return the feed that ``head`` makes, or why its channels cannot be scaled."""
        makers = list(head.sites if head.op == LINEAR else self._factors(head))
        found: list[Node] = []
        waiting = [head]
        while waiting:
            node = waiting.pop()
            if node.name in self.subject.graph.outputs:
                return f"the model returns what {_place(head)} makes"
            for reader in self.readers.get(node.name, []):
                added = self._added(reader)
                if reader.op == LINEAR and reader.inputs.index(node.name) == 0:
                    found.append(reader)
                elif added is not None:
                    makers.append(added[1])
                    waiting.append(reader)
                elif self._passes(reader, head.output_shapes[0][-1]):
                    waiting.append(reader)
                else:
                    return f"{_place(head)}, which feeds it, also feeds {_place(reader)}"
        return self._checked(head, tuple(dict.fromkeys(makers)), sorted(found, key=self.order.__getitem__))

    def _checked(self, head: Node, makers: tuple[str, ...], found: list[Node]) -> Feed | str:
        for name in makers:
            reason = self._why_fixed(name)
            if reason is not None:
                return f"{name}, which feeds it, {reason}"
        readers = []
        for node in found:
            weight = self.weight_of(node)
            if weight is None:
                return f"{_place(head)} feeds {_place(node)}, whose weight is multiplied in parts or more than once"
            if weight in self.refused:
                return f"{_place(head)} also feeds {weight}, and {self.refused[weight]}"
            readers.append(weight)
        return Feed(makers, tuple(readers))

    def _why_fixed(self, name: str) -> str | None:
        """Return why the values of a parameter that makes a feed must stay, or None if they may change."""
        site = self.every.get(name)
        if site is None or len(site.owners) > 1 or self.uses[name] > 1:
            return "is used more than once"
        if name in self.subject.sites:
            return f"must stay: {self.refused[name]}" if name in self.refused else None
        return "is constrained" if name in self.subject.constraints else None

    def _factors(self, node: Node) -> tuple[str, ...]:
        """Return the parameters that scale and shift each channel that ``node`` makes, none if it is no such norm."""
        if node.op == "aten.mul":
            factor = self._parameter_beside(node)
            return () if factor is None else (factor[1],)
        if node.op not in NORMS or (node.op == "aten.batch_norm" and len(node.output_shapes[0]) != 2):
            return ()
        size, given = (node.output_shapes[0][-1],), node.inputs[1 : 1 + len(node.sites)]
        if not given or len(given) != len(node.sites) or any(name in self.nodes for name in given):
            return ()
        # A shift without a scale before it leaves channels as they come.
        only_shift = len(given) == 1 and node.sites[0].endswith("bias")
        return node.sites if not only_shift and self._are_of(node.sites, size) else ()

    def _added(self, node: Node) -> tuple[str, str] | None:
        """Return the parameter with one value per channel that ``node`` adds, if it does, as `_parameter_beside`."""
        return self._parameter_beside(node) if node.op in _SUMS else None

    def _parameter_beside(self, node: Node) -> tuple[str, str] | None:
        """Return the parameter (channels,) that ``node`` reads beside its input, as the graph and the model name it."""
        if len(node.inputs) != 2 or len(node.sites) != 1:
            return None
        size = node.output_shapes[0][-1:]
        for place, other in ((1, 0), (0, 1)):
            name = node.inputs[place]
            bare = name not in self.nodes and name not in self.subject.graph.inputs
            seen = node.inputs[other] in self.nodes or node.inputs[other] in self.subject.graph.inputs
            along = node.input_shapes[place] == size == node.input_shapes[other][-1:]
            if bare and seen and along:
                return (name, node.sites[0]) if self._are_of(node.sites, size) else None
        return None

    def _are_of(self, names: tuple[str, ...], shape: tuple[int, ...]) -> bool:
        return all(name in self.every and self.every[name].shape == shape for name in names)

    def _passes(self, node: Node, size: int) -> bool:
        """Return whether channels of the last dimension, ``size`` of them, are scaled behind ``node`` as before it."""
        if not node.input_shapes or len(node.output_shapes) != 1 or not node.output_shapes[0]:
            return False
        before, after = node.input_shapes[0], node.output_shapes[0]
        if len(node.inputs) != 1 or before[-1:] != (size,) or after[-1:] != (size,):
            return False
        if node.op in _MOVED:
            turned = node.op == "aten.transpose" and self._is_attention(node)  # it turns time and batch only
            return turned or before.count(size) == 1
        return node.op in _RESHAPED or (node.op in _SAME and before == after)

    def _is_attention(self, node: Node) -> bool:
        return isinstance(self.subject.model.get_submodule(node.module), nn.MultiheadAttention)


def _place(node: Node) -> str:
    return f"{node.op} in {node.module or 'the model'}"
