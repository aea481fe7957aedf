"""Integers in the ONNX file for weights that are multiplied in floating point.

A constant that is on a grid, or whose values are shared, is stored as its codes, followed by the operators (ONNX
operator specification) that make values of them: ``Cast``, ``Sub`` and ``Mul``, or ``Gather`` from the shared values.
ONNX Runtime runs these once, when it loads the graph, and drops them: what runs is the graph with float constants. A
``DequantizeLinear`` it would run every time. Codes of 4 bits take half a byte, in opset 21, which ONNX Runtime knows
from 1.20 on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gossamer.codings import Affine, Codebook, Coding, Reshape, Sparse, decode, dtype
from gossamer.codings.nodes import Array, shape
from gossamer.targets.levels import affine_levels
from gossamer.targets.wiring import all_nodes

LEAST = 256
"""Smaller constants save less than the operators take."""
_FOUR_BITS = 21
"""The first opset with integers of 4 bits. Since the one before, only ``_OTHERWISE`` do anything else."""
_OTHERWISE = frozenset({"GroupNormalization"})
_HALF_BYTES: dict[int, tuple[int, int]] = {TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15)}
_KINDS: dict[int, tuple[int, int]] = {
    kind: (int(limits.min), int(limits.max))
    for kind in (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
    for limits in [np.iinfo(helper.tensor_dtype_to_np_dtype(kind))]
}


@dataclass(frozen=True, eq=False)
class Form:
    """A constant as ``(codes - zero) * scale`` or ``table[codes]``, in another shape or transposed at last.

    Attributes:
        codes: integers.
        shape: of the weight.
        scale: float32, as many dimensions as ``codes``; None with a table.
        zero: likewise.
        table: the shared values, float32; None with a scale.
        turned: whether the constant is the weight transposed.
    """

    codes: Array
    shape: tuple[int, ...]
    scale: Array | None = None
    zero: Array | None = None
    table: Array | None = None
    turned: bool = False

    @property
    def values(self) -> Array:
        """What the operators make of it."""
        if self.table is not None:
            found = self.table[self.codes]
        else:
            scale, zero = np.asarray(self.scale, np.float32), np.asarray(self.zero, np.float32)
            found = (self.codes.astype(np.float32) - zero) * scale
        weight: Array = found.reshape(self.shape)
        return weight.T if self.turned else weight


def form_of(coding: Coding) -> Form | None:
    """Return the form of a weight of two dimensions or more, or None if it has none."""
    if len(shape(coding)) < 2:
        return None
    inner = coding.values if isinstance(coding, Reshape) else coding
    if isinstance(coding, Reshape) and not isinstance(inner, Affine):
        return None
    levels = affine_levels(inner)
    if levels is not None:
        codes, scale, zero, axis = levels
        along = [-1 if at == axis else 1 for at in range(codes.ndim)]
        scale, zero = (np.asarray(part, np.float32).reshape(along) for part in (scale, zero))
        return Form(codes, coding.shape if isinstance(coding, Reshape) else codes.shape, scale, zero)
    return _shared(inner)


def _shared(coding: Coding) -> Form | None:
    """Return the form of a weight of shared values, zeros outside a support among them."""
    book = coding.values if isinstance(coding, Sparse) else coding
    if not isinstance(book, Codebook) or dtype(book.centers) != "float32":
        return None
    codes, table = decode(book.codes), decode(book.centers)
    if isinstance(coding, Sparse):
        support, table = decode(coding.support), np.concatenate([np.zeros(1, np.float32), table])
        whole = np.zeros(support.shape, np.min_scalar_type(len(table)))
        whole[support] = codes
        whole[support] += 1
        codes = whole
    return Form(codes, codes.shape, table=table)


def store_integers(proto: onnx.ModelProto, forms: Mapping[str, tuple[str, Form]]) -> onnx.ModelProto:
    """Return ``proto`` with some of its constants stored as integers, where that gives the same values.

    Args:
        proto: a graph; not changed.
        forms: the weight's name and its form, by the name of the constant. Constants of one weight share its codes,
            also with a constant of the weight's name that holds them.
    """
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 1)
    others = any(node.op_type in _OTHERWISE for node in all_nodes(proto.graph.node))
    kinds = _HALF_BYTES | _KINDS if opset >= _FOUR_BITS - (not others) else _KINDS
    there = {tensor.name: tensor for tensor in proto.graph.initializer}
    made: dict[str, list[onnx.NodeProto]] = {}
    tensors: dict[str, TensorProto] = {}
    for name, (site, form) in forms.items():
        kind = _kind(form.codes, kinds) if form.codes.size >= LEAST else None
        array = numpy_helper.to_array(there[name])
        if kind is not None and form.values.shape == array.shape and np.array_equal(form.values, array):
            codes = site if _holds(there.get(site), form.codes) else f"{site}:codes"
            if codes != site:
                tensors[codes] = _packed(codes, form.codes, kind)
            made[name] = _nodes(name, codes, form, tensors)
    if not made:
        return proto
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    if any(tensor.data_type in _HALF_BYTES for tensor in tensors.values()):
        for entry in new.opset_import:
            entry.version = entry.version if entry.domain else max(entry.version, _FOUR_BITS)
    del new.graph.initializer[:], new.graph.node[:]
    new.graph.initializer.extend(tensor for name, tensor in there.items() if name not in made)
    new.graph.initializer.extend(tensors.values())
    new.graph.node.extend(node for nodes in made.values() for node in nodes)
    new.graph.node.extend(proto.graph.node)
    return new


def _kind(codes: Array, kinds: Mapping[int, tuple[int, int]]) -> int | None:
    """Return the narrowest of ``kinds`` of integers, with their ends, that holds ``codes``; None if there is none."""
    low, high = int(codes.min()), int(codes.max())
    return next((kind for kind, (least, most) in kinds.items() if least <= low and high <= most), None)


def _holds(tensor: TensorProto | None, codes: Array) -> bool:
    """Return whether ``tensor`` is a constant of these codes."""
    if tensor is None or tensor.data_type not in _KINDS:
        return False
    return np.array_equal(numpy_helper.to_array(tensor), codes)


def _nodes(name: str, codes: str, form: Form, tensors: dict[str, TensorProto]) -> list[onnx.NodeProto]:
    """Return the operators that make the value ``name`` of ``codes``; constants that they read join ``tensors``."""

    def constant(what: str, array: Array) -> list[str]:
        found = f"{name}:{what}"
        tensors[found] = numpy_helper.from_array(np.ascontiguousarray(array), found)
        return [found]

    cast = TensorProto.FLOAT if form.table is None else TensorProto.INT32
    nodes = [helper.make_node("Cast", [codes], [], to=cast)]
    if form.table is not None:
        nodes.append(helper.make_node("Gather", constant("table", form.table), []))
    elif form.scale is not None and form.zero is not None:
        if form.zero.any():
            nodes.append(helper.make_node("Sub", constant("zeros", form.zero), []))
        nodes.append(helper.make_node("Mul", constant("scales", form.scale), []))
    if form.shape != form.codes.shape:
        nodes.append(helper.make_node("Reshape", constant("shape", np.array(form.shape, np.int64)), []))
    if form.turned:
        nodes.append(helper.make_node("Transpose", [], [], perm=[1, 0]))
    for number, node in enumerate(nodes):
        if number:
            node.input.insert(1 if node.op_type == "Gather" else 0, nodes[number - 1].output[0])
        node.output.append(name if node is nodes[-1] else f"{name}:made{number}")
    return nodes


def _packed(name: str, codes: Array, kind: int) -> TensorProto:
    if kind in _HALF_BYTES:
        flat = np.append(codes.reshape(-1), np.zeros(codes.size % 2, codes.dtype)).astype(np.int64) & 15
        raw = (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
        return helper.make_tensor(name, kind, codes.shape, raw, raw=True)
    return numpy_helper.from_array(np.ascontiguousarray(codes, helper.tensor_dtype_to_np_dtype(kind)), name)
