"""Cut every network of the zoo to half its multiply-accumulates with this library and with Torch-Pruning.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/torch_pruning.py resnet50 char-lstm

For each network and tool: whether it can be cut, and if not what the tool says; whether the cut network runs, trains a
step and exports to ONNX with the same outputs; the share of multiply-accumulates left, by this library's counter for
both; whether outputs stay the same when units that nothing reads are cut, group by group; time and peak memory of
analysis and cut in fresh processes that take turns. What was measured stays in benchmarks/results/torch_pruning.json
and is left out of the next run, unless it is named.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from provenance import commit, machine

from gossamer import zoo

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "torch_pruning.json"
TOOLS = ("ours", "theirs")
WITHOUT = {"xor", "edges"}
LIMIT = 3600


def asked(tool: str, network: str, *options: str) -> dict[str, Any]:
    """Return what a fresh process says of a network."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cutters" / "fresh.py"), tool, network, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"cut": f"not finished in {LIMIT} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"cut": f"the process ended with {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(network: str, repeats: int) -> dict[str, Any]:
    """Return what is recorded of a network: verdicts first, then times of what could be cut, in turns."""
    row: dict[str, Any] = {"network": network, **{tool: asked(tool, network) for tool in TOOLS}}
    cutting = [tool for tool in TOOLS if "setting" in row[tool]]
    times: dict[str, list[dict[str, Any]]] = {tool: [] for tool in cutting}
    for _ in range(repeats):
        for tool in cutting:
            times[tool].append(asked(tool, network, "--setting", str(row[tool]["setting"])))
    for tool, runs in times.items():
        for figure in ("seconds", "cpu_seconds", "warm_cpu_seconds", "memory_ratio"):
            values = [run[figure] for run in runs if figure in run]
            if values:
                middle, least, most = statistics.median(values), min(values), max(values)
                row[tool][figure] = {"median": middle, "least": least, "most": most, "processes": len(values)}
    return {**row, "load": os.getloadavg()[1], "commit": commit("src/gossamer", "benchmarks/cutters")}


def written(rows: dict[str, dict[str, Any]], repeats: int) -> None:
    """Write the results so far."""
    record = {
        "title": "Half the operations of every network in the zoo, with Torch-Pruning beside",
        "command": f"python benchmarks/torch_pruning.py --repeats {repeats}",
        "torch_pruning": importlib.metadata.version("torch-pruning"),
        "asked": 0.5,
        "seed": 0,
        "threads": 1,
        "machine": machine(),
        "networks": [rows[name] for name in sorted(rows)],
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n")


def _by_size() -> list[str]:
    return [one.name for one in sorted(zoo.NETWORKS, key=lambda one: one.parameters)]


def main() -> None:
    """Cut the networks named, or all that are not measured yet."""
    parser = argparse.ArgumentParser(description="Cut every network of the zoo with two tools.")
    parser.add_argument("networks", nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes per tool in which the cut is timed")
    given = parser.parse_args()
    known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
    rows = {row["network"]: row for row in known}
    for name in given.networks or [each for each in _by_size() if each not in WITHOUT and each not in rows]:
        rows[name] = one(name, given.repeats)
        written(rows, given.repeats)
        for tool in TOOLS:
            shown = {key: rows[name][tool].get(key) for key in ("cut", "macs_left", "runs", "seconds", "proof")}
            print(name, tool, shown, flush=True)


if __name__ == "__main__":
    main()
