"""Weights with a scale for each group of inputs: which of them are multiplied in blocks, and why the others are not.

A weight goes into blocks (``blocks.py``) only where every node that reads it can take it so; otherwise the runtime
would hold it twice, in blocks and in floats.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from gossamer.codings import Affine, Coding, Reshape, decode
from gossamer.codings.nodes import shape
from gossamer.targets.blocks import Blocks, lower_blocks, why_no_product
from gossamer.targets.wiring import Wiring, attribute


def weight_groups(coding: Coding) -> Blocks | None:
    """Return the groups of a matrix that has a scale for each, or None for any other coding.

    A grid that puts 0.0 between two codes has none, nor do codes beyond 16 bits.
    """
    if not isinstance(coding, Reshape) or not isinstance(coding.values, Affine) or len(coding.shape) != 2:
        return None
    levels = coding.values
    rows, columns = coding.shape
    count, size = shape(levels.codes) if len(shape(levels.codes)) == 2 else (0, 0)
    if levels.axis != 0 or not rows or not size or columns % size:
        return None
    codes, scale, zero = (decode(slot) for slot in (levels.codes, levels.scale, levels.zero))
    limit = np.iinfo(np.int16)
    if (zero != np.rint(zero)).any() or any(part.min() < limit.min or part.max() > limit.max for part in (codes, zero)):
        return None
    groups = (rows, count // rows)
    return Blocks(
        codes.astype(np.int16).reshape(rows, columns),
        scale.astype(np.float32).reshape(groups),
        zero.astype(np.int16).reshape(groups),
        size,
    )


class Grouped:
    """What becomes of the weights of a graph that have a scale for each group.

    Args:
        wiring: the graph being written.
        groups: those weights, by the name that the graph reads.

    Attributes:
        reasons: for the weights that stay in floating point, why.
        unread: outputs of the nodes that only led to weights that are now in blocks.
    """

    def __init__(self, wiring: Wiring, groups: Mapping[str, Blocks]) -> None:
        self.wiring = wiring
        self.groups = groups
        self.reasons: dict[str, str] = {}
        self.unread: set[str] = set()
        self._products: dict[str, tuple[str, bool]] = {}
        for site in groups:
            self._decide(site)

    def takes(self, node: onnx.NodeProto) -> bool:
        """Return whether ``node`` is a product with a weight in blocks."""
        return node.output[0] in self._products

    def write(self, node: onnx.NodeProto) -> tuple[str, ...]:
        """Write ``node`` with its weight in blocks and return the weight that it multiplies."""
        site, turned = self._products[node.output[0]]
        lower_blocks(self.wiring, node, site, self.groups[site], turned=turned)
        return (site,)

    def _decide(self, site: str) -> None:
        uses = list(self._uses(site))
        whys = [self._why_not(node, value, site, turned=turned) for node, value, turned in uses]
        why = next((found for found in whys if found is not None), None)
        if why is not None:
            self.reasons[site] = f"{why}; stored in integers, multiplied in float"
            return
        for node, value, turned in uses:
            self._products[node.output[0]] = (site, turned)
            if turned:
                self.unread.add(value)

    def _uses(self, site: str) -> Iterator[tuple[onnx.NodeProto, str, bool]]:
        """Yield the nodes that read a weight, the value they read, and whether that is the weight transposed."""
        for node in self.wiring.readers(site):
            turns = node.op_type == "Transpose" and attribute(node, "perm", [1, 0]) == [1, 0]
            if not turns or self.wiring.is_output(node.output[0]):
                yield node, site, False
                continue
            for reader in self.wiring.readers(node.output[0]):
                yield reader, node.output[0], True

    def _why_not(self, node: onnx.NodeProto, value: str, site: str, *, turned: bool) -> str | None:
        if [index for index, name in enumerate(node.input) if name == value] != [1]:
            return f"it enters {node.op_type}, which has no integer operator here"
        return why_no_product(node, self.groups[site], turned=turned)
