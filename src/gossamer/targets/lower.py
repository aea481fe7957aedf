"""Lowering: a float graph and coded tensors become the graph a runtime runs, in 8-bit integers where it can.

A weight on an 8-bit grid whose input has a grid too is stored as its codes with a ``DequantizeLinear`` (ONNX operator
specification), and the node that reads it gets quantised inputs, so that the runtime fuses them into one integer
operator (Jacob et al. 2018, arXiv 1712.05877). What stays in floating point is listed with the reason.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx

from gossamer.artifact.activations import cell_of, output_of
from gossamer.codings.nodes import Array
from gossamer.targets.blocks import Blocks, few_bits, lower_blocks
from gossamer.targets.convolution import lower_convolution
from gossamer.targets.dense import lower_product
from gossamer.targets.dynamic import Recurrent
from gossamer.targets.grouped import Grouped
from gossamer.targets.levels import Levels, Weight
from gossamer.targets.marks import is_mark, module_of_mark, without_marks
from gossamer.targets.quantized import (
    Use,
    add_scale,
    clip_codes,
    hand_on,
    hands_on,
    keeps_codes,
    quantized_input,
    quantized_output,
    rounded_input,
)
from gossamer.targets.reason import Reason
from gossamer.targets.tidy import drop_unused
from gossamer.targets.unrounded import keep_floats
from gossamer.targets.wiring import Wiring, attribute, attributes

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_UNROUNDED = "no LSTM layer runs in integers there, on grids of its inputs and states, so it is not rounded"


def float_name(site: str, *, turned: bool = False) -> str:
    """Return what the constant of a weight's values, or of the transposed ones, is called."""
    return f"{site}:float{':turned' if turned else ''}"


@dataclass(frozen=True, eq=False)
class Lowered:
    """What a runtime runs.

    Attributes:
        proto: the graph.
        integer: sites whose products were laid out for integer operators.
        reasons: sites that stay in floating point, and why.
    """

    proto: onnx.ModelProto
    integer: tuple[str, ...]
    reasons: tuple[Reason, ...]


def lower(
    proto: onnx.ModelProto,
    constants: Mapping[str, Array],
    weights: Mapping[str, Weight],
    inputs: Mapping[str, Levels],
    outputs: Mapping[str, Levels] = MappingProxyType({}),
    *,
    groups: Mapping[str, Blocks] = MappingProxyType({}),
    cells: Mapping[str, Levels] = MappingProxyType({}),
    otherwise: Collection[str] = frozenset(),
) -> Lowered:
    """Return ``proto`` with 8-bit weights, and integer operators where the input of a weight has levels too.

    Args:
        proto: a float graph; weights may be missing from its initializers.
        constants: float arrays of the initializers, by name.
        weights: 8-bit levels of those weights that have them.
        inputs: levels of the inputs of sites, of any number of bits.
        outputs: levels of the outputs of modules, by path, where the graph marks them; other marks go.
        groups: levels of weights with a scale for each group; ``constants`` has their floats too.
        cells: levels of cell states, by the recurrent weight beside them.
        otherwise: sites with a grid of inputs that is not among ``inputs``, so that these must not be put on another.
    """
    plain = without_marks(proto, outputs)
    return _Lowering(plain, constants, weights, inputs, outputs, groups=groups, cells=cells, otherwise=otherwise).run()


def _why_in_float(node: onnx.NodeProto) -> str:
    if node.op_type in _PRODUCTS or node.op_type == "ConvTranspose":
        return "its input has no grid; stored in integers, multiplied in float"
    return f"it enters {node.op_type}, which is done in float; stored in integers"


class _Lowering:
    """One pass over the nodes; values that stand for a weight are followed through transpositions."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        constants: Mapping[str, Array],
        weights: Mapping[str, Weight],
        inputs: Mapping[str, Levels],
        outputs: Mapping[str, Levels],
        *,
        groups: Mapping[str, Blocks],
        cells: Mapping[str, Levels],
        otherwise: Collection[str],
    ) -> None:
        self.wiring = Wiring(proto, constants)
        self.weights = weights
        self.outputs = outputs
        self.otherwise = otherwise
        bytes_ = {site: levels for site, levels in inputs.items() if levels.every_byte}
        strange = frozenset(otherwise) | (inputs.keys() - bytes_.keys())
        self.recurrent = Recurrent(self.wiring, weights, bytes_, strange, cells)
        grids = {site: levels for site, levels in inputs.items() if site not in self.recurrent.sites}
        self.inputs = {site: levels for site, levels in grids.items() if site in weights and levels.bytes_do}
        self.rounded = {site: levels for site, levels in grids.items() if site not in self.inputs}
        self.sources: dict[str, tuple[str, bool]] = {name: (name, False) for name in (*weights, *self.rounded)}
        self.grouped = Grouped(self.wiring, groups)
        self.replaced = self.recurrent.unread() | self.grouped.unread
        self.integer: dict[str, None] = {}
        self.on_levels: dict[str, Levels] = {}
        self.marked: dict[str, str] = {}
        self.reasons: dict[Reason, None] = {Reason(site, why): None for site, why in self.grouped.reasons.items()}
        idle = (cell_of(site) for site in cells if site not in self.recurrent.cells)
        self.reasons |= {Reason(name, _UNROUNDED): None for name in idle}

    def run(self) -> Lowered:
        ends = self._quantized_values()
        for node in self.wiring.old.graph.node:
            if node.output[0] not in self.replaced and not self._between(node, ends):
                self._node(node, ends)
        proto = self.wiring.finish()
        drop_unused(proto.graph)
        keep_floats(proto)
        for node in proto.graph.node:
            node.name = self.marked.get(node.output[0], node.name)
        stay = {reason.what for reason in self.reasons}
        done = tuple(site for site in self.integer if site not in stay)
        return Lowered(proto, done, tuple(self.reasons))

    def _between(self, node: onnx.NodeProto, ends: Mapping[str, Levels]) -> bool:
        """Write ``node`` if it stands between products that go from codes to codes: a mark, a join or a clip."""
        wiring, output = self.wiring, node.output[0]
        if is_mark(node):
            path = module_of_mark(node)
            self.on_levels[output] = self.outputs[path]
            self.marked[quantized_output(wiring, node, self.outputs[path])] = output_of(path)
        elif node.op_type == "Concat" and output in ends:
            parts = [quantized_input(wiring, name, ends[output]) for name in node.input]
            wiring.add("Concat", parts, output, **attributes(node))
        elif node.op_type in {"Relu", "Clip"} and node.input[0] in ends:
            return clip_codes(wiring, node, ends[output])
        elif node.input and self._goes_on(node, self.on_levels.get(node.input[0]), ends):
            self.on_levels[output] = self.on_levels[node.input[0]]
            hand_on(wiring, node, self.on_levels[output])
        else:
            return False
        return True

    def _goes_on(self, node: onnx.NodeProto, levels: Levels | None, ends: Mapping[str, Levels]) -> bool:
        """Return whether ``node`` makes numbers on ``levels`` of such, and the runtime would not do so by itself.

        That is where they enter a sum, by others of the kind too, or where several want them as codes.
        """
        if levels is None or not hands_on(self.wiring, node, levels):
            return False
        readers = self.wiring.readers(node.output[0])
        several = len(readers) > 1 and ends.get(node.output[0]) == levels
        return several or any(one.op_type == "Add" or self._goes_on(one, levels, ends) for one in readers)

    def _node(self, node: onnx.NodeProto, ends: Mapping[str, Levels]) -> None:
        for kind in (self.recurrent, self.grouped):
            if kind.takes(node):
                self.integer |= dict.fromkeys(kind.write(node))
                return
        found = [(index, *self.sources[name]) for index, name in enumerate(node.input) if name in self.sources]
        if not found:
            self.wiring.nodes.append(node)
            return
        index, site, turned = found[0]
        turns = node.op_type == "Transpose" and attribute(node, "perm", [1, 0]) == [1, 0] and not turned
        if turns and not self.wiring.is_output(node.output[0]):
            self.sources[node.output[0]] = (site, True)
            return
        looked_up = node.op_type == "Gather" and index == 0 and attribute(node, "axis", 0) == 0
        if looked_up and site in self.weights and not turned:
            self._gather(node, site)
            return
        if site in self.inputs and len(found) == 1 and self._integers(node, index, site, ends, turned=turned):
            return
        bare = site not in self.inputs and site not in self.rounded
        if bare and len(found) == 1 and self._blocks(node, index, site, turned=turned):
            return
        self._float(node, found)

    def _blocks(self, node: onnx.NodeProto, index: int, site: str, *, turned: bool) -> bool:
        """Lay ``node`` out for blocks of 4 bits if its weight has so few and that is possible; note the outcome."""
        product = index == 1 and node.op_type in {"Gemm", "MatMul"} and site in self.weights
        if not product or site in self.otherwise or not few_bits(self.weights[site]):
            return False
        blocks = Blocks.of_rows(self.weights[site])
        why = blocks if isinstance(blocks, str) else lower_blocks(self.wiring, node, site, blocks, turned=turned)
        if why is None:
            self.integer[site] = None
        else:
            self.reasons[Reason(site, f"{why}; stored in integers, multiplied in float")] = None
        return why is None

    def _integers(
        self, node: onnx.NodeProto, index: int, site: str, ends: Mapping[str, Levels], *, turned: bool
    ) -> bool:
        """Lay ``node`` out in integers if that is possible; note the outcome."""
        use = Use(node, site, self.weights[site], self.inputs[site])
        why: str | None = f"it enters {node.op_type}, which has no integer operator here"
        if index == 1 and node.op_type in {"Gemm", "MatMul"}:
            why = lower_product(self.wiring, use, ends, turned=turned)
        elif index == 1 and node.op_type == "Conv":
            folded = lower_convolution(self.wiring, use, ends)
            why = folded if isinstance(folded, str) else None
            self.replaced.update(() if isinstance(folded, str) else folded)
        if why is None:
            self.integer[site] = None
        else:
            self.reasons[Reason(site, why)] = None
        return why is None

    def _float(self, node: onnx.NodeProto, found: list[tuple[int, str, bool]]) -> None:
        """Keep ``node`` in floating point, reading dequantised weights."""
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for index, site, turned in found:
            levels = self.inputs.get(site) or self.rounded.get(site)
            if index == 1 and levels is not None and node.op_type in _PRODUCTS:
                kept.input[0] = rounded_input(self.wiring, node.input[0], levels)
            elif levels is not None:
                self.reasons[Reason(site, f"what it meets in {node.op_type} is not rounded to its grid")] = None
            kept.input[index] = self._value(site, turned=turned)
            if levels is None and not any(reason.what == site for reason in self.reasons):
                self.reasons[Reason(site, self.recurrent.reasons.get(site) or _why_in_float(node))] = None
        self.wiring.nodes.append(kept)

    def _value(self, site: str, *, turned: bool) -> str:
        """Return the value of the weight as a constant, so that the runtime makes no integer operator of its own."""
        value = self.weights[site].values if site in self.weights else self.wiring.constants[site]
        return self.wiring.constant(float_name(site, turned=turned), np.ascontiguousarray(value.T) if turned else value)

    def _gather(self, node: onnx.NodeProto, site: str) -> None:
        """Look rows up in the codes and dequantise only those."""
        weight, wiring = self.weights[site], self.wiring
        self.reasons[Reason(site, "rows are looked up in 8 bits and used in float")] = None
        if weight.axis == 0 and not weight.symmetric:
            self._float(node, [(0, site, False)])
            return
        codes = wiring.add("Gather", [wiring.constant(site, weight.codes), node.input[1]], f"{node.output[0]}:codes")
        scale, zero = add_scale(wiring, site, weight)
        if weight.axis == 0:
            rows = wiring.add("Gather", [scale, node.input[1]], f"{node.output[0]}:scale")
            last = wiring.constant("gossamer:last", np.array([-1], np.int64))
            column = wiring.add("Unsqueeze", [rows, last], f"{node.output[0]}:column")
            cast = wiring.add("Cast", [codes], f"{node.output[0]}:cast", to=onnx.TensorProto.FLOAT)
            wiring.add("Mul", [cast, column], node.output[0])
        else:
            wiring.add("DequantizeLinear", [codes, scale, zero], node.output[0], axis=-1)

    def _quantized_values(self) -> dict[str, Levels]:
        """Return the values that nothing reads but what wants them on levels, all on the same.

        That are integer products, marks, and operators that can be done on codes where what they make is such a value.
        """
        wanted: dict[str, list[Levels]] = {}
        for value, levels in (*self._product_inputs(), *self._marked()):
            wanted.setdefault(value, []).append(levels)
        ends: dict[str, Levels] = {}
        for node in reversed(self.wiring.old.graph.node):
            for value in node.output:
                self._end(value, wanted, ends)
            if node.output[0] in ends and keeps_codes(self.wiring, node):
                for name in node.input if node.op_type == "Concat" else node.input[:1]:
                    wanted.setdefault(name, []).append(ends[node.output[0]])
        for given in self.wiring.old.graph.input:
            self._end(given.name, wanted, ends)
        return ends

    def _end(self, value: str, wanted: Mapping[str, list[Levels]], ends: dict[str, Levels]) -> None:
        """Add ``value`` to ``ends`` if all that read it want the same levels."""
        grids = wanted.get(value, [])
        every = len(grids) == len(self.wiring.readers(value)) and not self.wiring.is_output(value)
        if grids and every and all(grid == grids[0] for grid in grids):
            ends[value] = grids[0]

    def _product_inputs(self) -> Iterator[tuple[str, Levels]]:
        """Yield the inputs of integer products with their levels, once for every product."""
        for site, levels in self.inputs.items():
            turned = [
                reader
                for node in self.wiring.readers(site)
                if node.op_type == "Transpose"
                for reader in self.wiring.readers(node.output[0])
            ]
            for node in (*self.wiring.readers(site), *turned):
                if node.op_type in _PRODUCTS:
                    yield node.input[0], levels

    def _marked(self) -> Iterator[tuple[str, Levels]]:
        for node in self.wiring.old.graph.node:
            if is_mark(node):
                yield node.input[0], self.outputs[module_of_mark(node)]
