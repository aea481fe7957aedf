"""Where the time of one run goes: the runtime's own profile, by the weights that its operators read.

The profiler writes down every operator inside a loop in every step, and a loop then takes ten times as long. Its time
is what is left of a run without the profiler once all other operators are taken off.
"""

import json
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnx

from gossamer.targets.optimized import optimized_graph, sites_of
from gossamer.targets.session import Inputs, feed, open_prepared, run_session
from gossamer.targets.wiring import all_nodes, inner_graphs

_WARMUP = 5
_TAKEN_IN = frozenset({"BatchNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
"""Operators that the runtime lets the product before them do."""


@dataclass(frozen=True)
class Profile:
    """Times of one run, in seconds.

    Attributes:
        sites: of the operators that read each weight; of one that reads several, an equal share each.
        whole: of a run without the profiler.
    """

    sites: Mapping[str, float]
    whole: float


def profile(
    proto: onnx.ModelProto, sites: Collection[str], inputs: Inputs, *, threads: int = 1, runs: int = 30
) -> Profile:
    """Return the median time of each operator over some runs in this process, summed up by weight.

    Args:
        proto: a complete graph.
        sites: names of weights.
        inputs: arrays by name, or in order.
        threads: threads of one operator.
        runs: how many are counted.

    Raises:
        TargetError: the graph or the inputs do not fit.
    """
    made = _made(proto, sites)
    graph = optimized_graph(proto, threads=threads)
    for number, node in enumerate(graph.graph.node):
        node.name = f"{number}:{node.name}"
    whole = _whole(graph, inputs, threads, runs)
    times = _times(graph, inputs, threads, runs)
    loops = [node.name for node in graph.graph.node if inner_graphs(node)]
    rest = max(whole - sum(spent for name, spent in times.items() if name not in loops), 0.0)
    looped = sum(times[name] for name in loops)
    times |= {name: rest * times[name] / looped for name in loops if looped}
    spent = dict.fromkeys(sites, 0.0)
    for node in graph.graph.node:
        read = _read(node, sites) or next((made[name] for name in _makes(node) if name in made), set())
        for site in read:
            spent[site] += times[node.name] / len(read)
    return Profile(spent, whole)


def _makes(node: onnx.NodeProto) -> tuple[str, str]:
    """Return what a node of the optimised graph makes, as that may have been called before.

    A convolution in blocks of channels reads weights of no name, and has its own name from what it makes.
    """
    return node.output[0].removesuffix("_pre_q"), node.name.partition(":")[2].removesuffix("_nchwc")


def _made(proto: onnx.ModelProto, sites: Collection[str]) -> dict[str, set[str]]:
    """Return, for values that products make, and for these after what products take in, the weights that are read.

    What is made of constants alone hands them on.
    """
    known = {tensor.name for tensor in proto.graph.initializer}
    moved: dict[str, set[str]] = {}
    made: dict[str, set[str]] = {}
    for node in proto.graph.node:
        read = _read(node, sites).union(*(moved.get(name, set()) for name in node.input))
        if all(name in known or name in moved for name in node.input if name):
            moved[node.output[0]] = read
        elif read:
            made[node.output[0]] = read
        elif node.op_type in _TAKEN_IN and node.input[0] in made:
            made[node.output[0]] = made[node.input[0]]
    return made


def _read(node: onnx.NodeProto, sites: Collection[str]) -> set[str]:
    """Return the weights whose constants ``node`` reads, inside of it too."""
    return {site for inner in all_nodes([node]) for name in inner.input if name for site in sites_of(name, sites)}


def _whole(graph: onnx.ModelProto, inputs: Inputs, threads: int, runs: int) -> float:
    """Return the median time of a run of an optimised graph, in seconds."""
    session = open_prepared(graph.SerializeToString(), threads=threads, optimize=False)
    fed = feed(session, inputs)
    taken = []
    for _ in range(_WARMUP + runs):
        began = time.perf_counter()
        session.run(None, fed)
        taken.append(time.perf_counter() - began)
    return median(taken[_WARMUP:])


def _times(graph: onnx.ModelProto, inputs: Inputs, threads: int, runs: int) -> dict[str, float]:
    """Return the median time of each node of an optimised graph, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_prepared(
            graph.SerializeToString(), threads=threads, optimize=False, profiled=Path(folder) / "profile"
        )
        for _ in range(_WARMUP + runs):
            run_session(session, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[int]] = {node.name: [] for node in graph.graph.node}
    for event in events:
        name = event.get("name", "").removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name in found and name != event["name"]:
            found[name].append(event["dur"])
    return {name: 1e-6 * median(taken[_WARMUP:] or [0]) for name, taken in found.items()}
