"""A file as something that can be called like a model, and inputs for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gossamer.codings.nodes import Array
from gossamer.errors import TargetError, about
from gossamer.targets import OnnxRuntime

FREE = 16
"""Length of a free axis other than the batch, where inputs are made up."""

_DTYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.BOOL: np.bool_,
}


def callable_model(file: Path, *, threads: int = 1) -> Callable[..., Any]:
    """Return a function from torch inputs to torch outputs that runs the file on ONNX Runtime.

    Raises:
        TargetError: the file holds no graph, or one the runtime does not take.
        ArtifactError: the file is not sound.
    """
    from gossamer.targets import Runner

    proto = OnnxRuntime(threads=threads).model(file)
    with about(file):
        return Runner(proto, threads=threads)


def read_inputs(path: Path) -> Any:
    """Return the array of a ``.npy`` file, or the arrays of a ``.npz`` file by name; nothing in it is run.

    Raises:
        TargetError: it is neither.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise TargetError(
            f"{path}: not a file of arrays: {error}", hint="numpy.save or numpy.savez writes one"
        ) from error
    return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found


def inputs_of(proto: onnx.ModelProto, data: str | None, batch: int) -> dict[str, Array]:
    """Return inputs of a graph: the first samples of the validation split of ``data``, or made up without it.

    Raises:
        DataError: there are no such data.
        TargetError: they do not fit the graph, or an input is of a type that cannot be made up.
    """
    if data is None:
        return made_up_inputs(proto, batch)
    from gossamer.cli.tasks import task_of
    from gossamer.targets import arrays_of

    first = next(iter(task_of(data).batches("validation", batch_size=batch)))
    return arrays_of(proto, first.args, first.kwargs)


def made_up_inputs(proto: onnx.ModelProto, batch: int) -> dict[str, Array]:
    """Return inputs that fit a graph: normal numbers from seed 0, zeros for integers; free axes are ``batch``, 16, ...

    Raises:
        TargetError: an input is of a type without a numpy form here.
    """
    generator = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for entry in proto.graph.input:
        kind = entry.type.tensor_type
        if kind.elem_type not in _DTYPES:
            raise TargetError(
                f"input {entry.name}: inputs of its type cannot be made up", hint="give --data or --input"
            )
        axes = enumerate(kind.shape.dim)
        shape = [axis.dim_value or (batch if place == 0 else FREE) for place, axis in axes]
        dtype = np.dtype(_DTYPES[kind.elem_type])
        made[entry.name] = (generator.normal(size=shape) if dtype.kind == "f" else np.zeros(shape)).astype(dtype)
    return made
