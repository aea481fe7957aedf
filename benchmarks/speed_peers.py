"""Speed of the 8-bit networks of benchmarks/quantization.py: Gossamer beside three peers, each with its defaults.

ONNX Runtime's own tools are measured with a scale per channel and unsigned inputs too, which makes their graphs faster.

    pip install nncf==3.4.0 torchao==0.18.0
    python benchmarks/speed_peers.py

One sample a run, on two threads, turns of each in one process. The graphs of Gossamer, of ONNX Runtime's own tools and
of NNCF run on ONNX Runtime, beside the float graph. What torchao makes is compiled by torch.compile with constants
folded, as its authors say, and runs beside the float network compiled likewise. Each ratio is the time of the float
network over that of the quantized one on the same runtime. Where integers are slower than floats, `gossamer export`
writes floats (`default`).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from provenance import ROOT, commit, machine
from quantization import NETWORKS, PEERS, Case, onnxruntime
from torch import nn
from torch._inductor import config as inductor

from gossamer.figure import measured
from gossamer.targets import arrays_of
from gossamer.targets.choice import Choice
from gossamer.targets.session import open_prepared, prepare

RESULTS = ROOT / "benchmarks" / "results" / "speed_peers.json"
THREADS = 2
WARM_UP, RUNS, ROUNDS = 3, 30, 10
MAKERS = PEERS | {"onnxruntime_best": partial(onnxruntime, best=True)}
"""The peers, and ONNX Runtime's tools with the settings that are fastest."""


def turns(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median time of one run of each, in seconds, of runs that take turns."""
    taken: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(ROUNDS + 1):
        for label, run in runs.items():
            times = _timed(run)
            taken[label] += times if number else []
    return {label: statistics.median(times) for label, times in taken.items()}


def _timed(run: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(WARM_UP + RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return times[WARM_UP:]


def on_runtime(graphs: dict[str, onnx.ModelProto], inputs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return what runs each graph; ours and the float one as the target opens them, those of others as they are."""
    ready = {label: prepare(graph) if label in {"float", "gossamer"} else graph for label, graph in graphs.items()}
    sessions = {label: open_prepared(graph.SerializeToString(), threads=THREADS) for label, graph in ready.items()}
    return {label: partial(session.run, None, inputs) for label, session in sessions.items()}


def ratios(found: dict[str, float], plain: str) -> dict[str, dict[str, float]]:
    """Return milliseconds, and how many times as fast as ``plain`` each is."""
    return {label: {"ratio": found[plain] / taken, "ms": 1e3 * taken} for label, taken in found.items()}


def one(name: str) -> dict[str, Any]:
    """Return the ratios of one network, of every peer that does not refuse it."""
    case = Case(name, 0)
    args = tuple(part[:1] for part in case.args)
    graphs: dict[str, onnx.ModelProto] = {"float": case.graph}
    row: dict[str, Any] = {"network": name}
    for peer, make in MAKERS.items():
        try:
            made = make(case)
            if isinstance(made, nn.Module):
                both = {"torch": case.model, peer: made}
                row |= ratios(
                    turns({label: partial(torch.compile(one), *args) for label, one in both.items()}), "torch"
                )
            else:
                graphs[peer] = made
        except Exception as refused:
            if peer == "gossamer":  # whatever another raises is its answer
                raise
            row[peer] = {"refused": f"{type(refused).__name__}: {str(refused).splitlines()[0][:200]}"}
    found = turns(on_runtime(graphs, arrays_of(case.graph, args, case.kwargs)))
    row |= ratios(found, "float")
    choice = Choice(measured(found["gossamer"], "s"), measured(found["float"], "s"))
    row["default"] = "floats" if choice.for_floats else "integers"
    return row


def main() -> None:
    """Measure the networks named on the command line, or all; rows that are there for others stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    inductor.freezing = True
    np.random.seed(0)  # noqa: NPY002 the peers draw from the old global generator
    rows = json.loads(given.output.read_text())["rows"] if given.output.exists() else []
    for name in given.networks:
        row = {**one(name), "commit": commit(), "machine": machine()}
        rows = [old for old in rows if old["network"] != name] + [row]
        print(json.dumps(row), flush=True)
        kept = {"command": "python benchmarks/speed_peers.py", "threads": THREADS, "seed": 0}
        given.output.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
