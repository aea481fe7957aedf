"""Small ONNX graphs written by hand, so that tests of targets need no export."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gossamer.codings import Affine, Dense


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: tuple[str, ...],
    constants: dict[str, np.ndarray] | None = None,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a graph; inputs are float32 unless ``kinds`` says otherwise, shapes of outputs are left open."""
    kinds = kinds or {}
    made = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node; ``inputs`` are separated by spaces."""
    return helper.make_node(op, inputs.split(), [output], **attributes)


def levels(rng: np.random.Generator, shape: tuple[int, ...], axis: int | None = 0, bits: int = 7) -> Affine:
    """Return random symmetric codes of ``bits`` bits with random scales."""
    top = 2 ** (bits - 1) - 1
    codes = rng.integers(-top, top + 1, shape).astype(np.int8)
    count = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.001, 0.02, count).astype(np.float32)
    return Affine(Dense(codes), Dense(np.asarray(scale)), Dense(np.zeros(count, np.int32)), axis)


def grid(scale: float, zero: int, bits: int = 8, *, signed: bool = False) -> dict[str, Any]:
    """Return an input grid as an artifact holds it."""
    return {"scale": scale, "zero": zero, "bits": bits, "signed": signed}


def snap(values: np.ndarray, of: dict[str, Any]) -> np.ndarray:
    """Return ``values`` on a grid, the slow and plain way, in float64."""
    count = 2 ** of["bits"]
    low = -count // 2 if of["signed"] else 0
    codes = np.clip(np.rint(values / np.float32(of["scale"])) + of["zero"], low, low + count - 1)
    return (codes - of["zero"]) * np.float64(np.float32(of["scale"]))
