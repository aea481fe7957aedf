"""Sessions of ONNX Runtime, and the checks of what is fed to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from gossamer.codings.nodes import Array
from gossamer.errors import TargetError
from gossamer.targets.cpu import Cpu, read_cpu
from gossamer.targets.exact import exact_products

Inputs = Mapping[str, Array] | Sequence[Array] | Array

_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_LOAD_ERRORS = (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidArgument, ort_errors.NotImplemented)


def open_session(
    model: onnx.ModelProto, *, threads: int = 1, cpu: Cpu | None = None, optimized: Path | None = None
) -> ort.InferenceSession:
    """Return a session on the CPU for ``model``, prepared for this processor.

    Args:
        model: a complete graph.
        threads: threads of one operator; operators run one after another.
        cpu: the processor; by default that of this machine.
        optimized: where to write the graph as the runtime changed it, or None.

    Raises:
        TargetError: the runtime does not take the graph.
    """
    return open_prepared(prepare(model, cpu).SerializeToString(), threads=threads, optimized=optimized)


def prepare(model: onnx.ModelProto, cpu: Cpu | None = None) -> onnx.ModelProto:
    """Return ``model`` as a session wants it; what it computes is unchanged.

    Where 8-bit products saturate on this processor and the weights use all 8 bits, they become unsigned, whose (slower)
    kernels are exact.
    """
    return exact_products(model) if (cpu or read_cpu()).saturates else model


def open_prepared(
    model: bytes | Path,
    *,
    threads: int = 1,
    optimized: Path | None = None,
    optimize: bool = True,
    profiled: Path | None = None,
) -> ort.InferenceSession:
    """Return a session for a prepared graph, given as bytes or as its file.

    Args:
        model: the graph.
        threads: threads of one operator; operators run one after another.
        optimized: where to write the graph as the runtime changed it, or None.
        optimize: whether it changes the graph at all.
        profiled: what the name of the file with the times of operators begins with, or None for no such file.

    Raises:
        TargetError: the runtime does not take the graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what it would print is in the error that is raised
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profiled is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiled)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        text = str(error).splitlines()[0]
        raise TargetError(
            f"ONNX Runtime {ort.__version__} does not take the graph: {text}",
            hint="an operator or opset it does not know? a newer onnxruntime may",
        ) from error


def feed(session: ort.InferenceSession, inputs: Inputs) -> dict[str, Array]:
    """Return the inputs by name, checked against what the graph wants.

    Args:
        session: the session.
        inputs: arrays by name, or in order, or the only one.

    Raises:
        TargetError: names, number, dtypes or shapes do not fit; says which, and what was wanted.
    """
    wanted = session.get_inputs()
    names = [entry.name for entry in wanted]
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(names):
            raise TargetError(f"wanted {len(names)} inputs ({', '.join(names)}), got {len(inputs)}")
        inputs = dict(zip(names, inputs, strict=True))
    unknown, absent = sorted(set(inputs) - set(names)), sorted(set(names) - set(inputs))
    if unknown or absent:
        got = ", ".join(inputs) or "nothing"
        raise TargetError(f"wanted the inputs {', '.join(names)}, got {got}", hint="name them as the graph does")
    for entry in wanted:
        _check(entry, np.asarray(inputs[entry.name]))
    return {name: np.asarray(inputs[name]) for name in names}


def run_session(session: ort.InferenceSession, inputs: Inputs) -> dict[str, Array]:
    """Return the outputs by name.

    Raises:
        TargetError: the inputs do not fit, or the runtime fails on them.
    """
    fed = feed(session, inputs)
    names = [entry.name for entry in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, fed), strict=True))
    except (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.RuntimeException) as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in fed.items())
        raise TargetError(f"ONNX Runtime failed on {shapes}: {str(error).splitlines()[0]}") from error


def _check(entry: Any, array: Array) -> None:
    wanted = _TYPES.get(entry.type, entry.type)
    if array.dtype.name != wanted:
        raise TargetError(
            f"input {entry.name}: wanted {wanted}, got {array.dtype.name}", hint=f"convert it: astype({wanted!r})"
        )
    shape = tuple(entry.shape)
    fits = len(shape) == array.ndim and all(
        not isinstance(length, int) or length == got for length, got in zip(shape, array.shape, strict=False)
    )
    if not fits:
        names = ", ".join(str(length) for length in shape)
        got = ", ".join(str(length) for length in array.shape)
        raise TargetError(f"input {entry.name}: wanted shape ({names}), got ({got})")
