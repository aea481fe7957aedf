"""Which outputs want a grid of their own so that convolutions go from codes to codes, read from the graph.

An integer convolution writes codes. Through operators that keep the order of numbers they reach the next layer, whose
input grid they are on. Elsewhere what the convolution makes ends in a sum, an average or a smooth function, and wants a
grid of its own (`output_grid`); and so do the other parts of the sum, or what their numbers come from. Only the output
of a module can have one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gossamer.artifact.activations import module_of
from gossamer.model.constraint import Grid
from gossamer.model.graph import Graph, Node

_CONVOLUTIONS: Final = frozenset({"aten.conv1d", "aten.conv2d", "aten.conv3d"})
_LAYERS: Final = _CONVOLUTIONS | {"aten.linear"}
_SUMS: Final = frozenset({"aten.add", "aten.add_"})
_JOINS: Final = frozenset({"aten.cat", "aten.concat"})
_POOLS: Final = frozenset({"aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d"})
_FURTHER_BOUNDS: Final = frozenset({"aten.relu6", "aten.relu6_", "aten.hardtanh", "aten.hardtanh_"})
_BOUNDS: Final = _FURTHER_BOUNDS | {"aten.relu", "aten.relu_"}
_PARTS: Final = frozenset({"aten.slice", "aten.pad", "aten.constant_pad_nd"})
"""Operators that leave numbers out or add zeros."""
_KEEPS_ORDER: Final = (
    _POOLS
    | _BOUNDS
    | frozenset(
        {
            *("aten.dropout", "aten.dropout_", "aten.feature_dropout", "aten.contiguous", "aten.clone", "aten.alias"),
            *("aten.flatten", "aten.view", "aten.reshape", "aten._unsafe_view", "aten.squeeze", "aten.unsqueeze"),
            *("aten.permute", "aten.transpose"),
        }
    )
)


def open_ends(graph: Graph, integer: Collection[str]) -> tuple[str, ...]:
    """Return the paths of modules whose outputs want a grid of their own, in the order in which they run.

    Args:
        graph: of the model.
        integer: sites whose products are of integers.
    """
    return _Ends(graph, frozenset(integer)).found()


def possible_ends(graph: Graph, sites: Iterable[str]) -> tuple[str, ...]:
    """Return every path that :func:`open_ends` gives for some of ``sites``."""
    every = tuple(sites)
    found = list(open_ends(graph, every))
    for site in every:
        found += open_ends(graph, {site})
    return tuple(dict.fromkeys(found))


def on_outputs(graph: Graph, outputs: Collection[str]) -> dict[str, str]:
    """Return which sites multiply numbers of a module's output and no other, with the path of that module.

    What stands between picks among numbers or clips them at 0: what is on a grid before it is on it behind.

    Args:
        graph: of the model.
        outputs: paths of modules.
    """
    ends = _Ends(graph, frozenset())
    found: dict[str, set[str | None]] = {}
    for node in graph.nodes:
        before = ends.nodes.get(node.inputs[0]) if node.op in _LAYERS else None
        for site in node.sites:
            known = None if before is None or site != node.sites[0] else ends.output_before(before, outputs)
            found.setdefault(site, set()).add(known)
    return {site: path for site, (path, *others) in found.items() if path is not None and not others}


def without_idle(graph: Graph, activations: Mapping[str, Grid], integer: Collection[str]) -> dict[str, Grid]:
    """Return ``activations`` without the outputs that no product of ``integer`` sites ends in any more."""
    ends = set(open_ends(graph, integer))
    return {name: grid for name, grid in activations.items() if (path := module_of(name)) is None or path in ends}


@dataclass(frozen=True)
class _Ends:
    graph: Graph
    integer: frozenset[str]

    def found(self) -> tuple[str, ...]:
        ends = {}
        for node in self.graph.nodes:
            if node.op in _CONVOLUTIONS and self._is_integer(node):
                end = self._end(node)
                if end is not None:
                    ends[end.name] = end
        for node in self.graph.nodes:
            if node.op in _SUMS and len(node.inputs) == 2 and any(name in ends for name in node.inputs):
                parts = (self._origin(self.nodes[name]) for name in node.inputs if name in self.nodes)
                ends |= {part.name: part for part in parts}
        paths = (self._path(end) for name, end in ends.items())
        return tuple(dict.fromkeys(path for path in paths if path is not None))

    def _origin(self, node: Node) -> Node:
        """Return the end of a module that the numbers of ``node`` come from, itself if there is none."""
        found = node
        while self._path(found) is None:
            before = [self.nodes[name] for name in found.inputs if name in self.nodes]
            if found.op not in _KEEPS_ORDER | _PARTS or len(before) != 1:
                return node
            found = before[0]
        return found

    def output_before(self, node: Node, outputs: Collection[str]) -> str | None:
        """Return which of ``outputs`` the numbers of ``node`` are."""
        while (path := self._path(node)) not in outputs:
            before = [self.nodes[name] for name in node.inputs if name in self.nodes]
            if node.op not in _KEEPS_ORDER - _FURTHER_BOUNDS or len(before) != 1:
                return None
            node = before[0]
        return path

    @cached_property
    def nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self.graph.nodes}

    @cached_property
    def _readers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        return readers

    @cached_property
    def _last(self) -> dict[str, str]:
        """Return the name of the last node that each module runs, by its path."""
        last = {}
        for node in self.graph.nodes:
            path = node.module
            while path:
                last[path] = node.name
                path = path.rpartition(".")[0]
        return last

    @cached_property
    def _again(self) -> set[str]:
        """Return the paths of modules of one operator that run it more than once."""
        operators: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            operators.setdefault(node.module, []).append(node.op)
        return {path for path, found in operators.items() if len(found) > 1 == len(set(found))}

    def _is_integer(self, node: Node) -> bool:
        return node.op in _LAYERS and bool(node.sites) and node.sites[0] in self.integer

    def _path(self, node: Node) -> str | None:
        """Return the path of the innermost module that ends with ``node``, None if there is none or it runs again."""
        path = node.module
        return path if path and self._last[path] == node.name and path not in self._again else None

    def _end(self, node: Node) -> Node | None:
        """Return the node after which what a convolution makes wants a grid, or None if one awaits it further on."""
        norm = self._only_reader(node)
        if norm is not None and norm.op == "aten.batch_norm":
            node = norm
        return self._after(node, node if self._path(node) is not None else None)

    def _after(self, node: Node, best: Node | None) -> Node | None:
        if self._is_multiplied(node):
            return None
        reader = self._only_reader(node)
        if reader is None or reader.op not in _KEEPS_ORDER | _JOINS:
            return best
        if reader.op in _JOINS:
            if self._after(reader, reader) is None:
                return None
            worth = self._path(reader) is not None and self._is_multiplied(reader, _POOLS)
            return reader if worth else best
        return self._after(reader, reader if self._path(reader) is not None else best)

    def _is_multiplied(self, node: Node, besides: frozenset[str] = frozenset()) -> bool:
        """Return whether nothing but integer products, and operators ``besides``, reads what ``node`` makes."""
        readers = self._readers.get(node.name, [])
        known = all(self._is_integer(reader) or reader.op in besides for reader in readers)
        return bool(readers) and known and node.name not in self.graph.outputs

    def _only_reader(self, node: Node) -> Node | None:
        readers: Sequence[Node] = self._readers.get(node.name, [])
        return readers[0] if len(readers) == 1 and node.name not in self.graph.outputs else None
