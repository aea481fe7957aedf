"""Latency on ONNX Runtime of networks cut to half, against the whole ones: fp32, batch 1, two threads.

    python benchmarks/latency.py
    python benchmarks/latency.py vgg16 --repeats 9

Convolutional networks lose half of their multiply-accumulates, recurrent ones half of their hidden units. Whole and cut
network live in fresh processes that take turns (gossamer.targets.measure); this is repeated with new processes, each
repeat gives one ratio of medians, and the ratio that counts is the median of those. Weights are those of the zoo,
trained where it has them, units are ranked by the norm of their weights: this is about time, not accuracy. Results go
to benchmarks/results/latency.json, one entry per network.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import msgspec
import torch
from provenance import commit, machine

from gossamer import zoo
from gossamer.methods.prune import Units
from gossamer.model import Subject, apply, freeze
from gossamer.targets import Timing, arrays_of, measure, to_onnx

RESULT = Path(__file__).resolve().parent / "results" / "latency.json"
HALF = {
    "vgg16": Units(amount=0.5, criterion="l2", repair=False),
    "resnet50": Units(amount=0.5, criterion="l2", repair=False),
    "char-lstm": Units(amount=0.5, of="units", groups=("lstm",), criterion="l2", repair=False),
    "char-gru": Units(amount=0.5, of="units", groups=("gru",), criterion="l2", repair=False),
}
BARS = {"vgg16": 1.7, "resnet50": 1.5, "char-lstm": 1.8, "char-gru": 1.8}
"""How many times as fast the cut network should be."""
RUNS = {"vgg16": 5, "resnet50": 10}
"""Runs in one turn; of the small networks more."""


def one(name: str, method: Units, repeats: int, threads: int) -> dict[str, Any]:
    """Return what is recorded of one network."""
    torch.manual_seed(0)
    args = zoo.example(name)
    subject = Subject.of(zoo.build(name, pretrained=None).eval(), *args)
    small = apply(subject, method.plan(subject))
    graphs = {"whole": to_onnx(freeze(subject).model, args), "cut": to_onnx(freeze(small).model, args)}
    timing = Timing(threads=threads, warmup=3, rounds=5, runs=RUNS.get(name, 40))
    inputs = arrays_of(graphs["whole"], args, {})
    found = [_seconds(measure(graphs, inputs, timing)) for _ in range(repeats)]
    ratios = [run["whole"]["median"] / run["cut"]["median"] for run in found]
    return {
        "network": name,
        "bar": BARS[name],
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        **{f"{label}_ms": 1e3 * statistics.median(run[label]["median"] for run in found) for label in graphs},
        **{f"{label}_quartiles_apart": statistics.median(run[label]["spread"] for run in found) for label in graphs},
        "macs_left": (small.graph.macs or 0) / (subject.graph.macs or 1),
        "load": os.getloadavg()[1],
        "commit": commit(),
        "method": msgspec.to_builtins(method),
        "runs": found,
    }


def _seconds(runs: Any) -> dict[str, dict[str, float]]:
    """Return the median in seconds of each model, and the range between its quartiles as a share of that."""
    return {
        label: {
            "median": run.latency.median.value,
            "spread": run.latency.spread.value / run.latency.median.value,
            "fastest": run.latency.fastest.value,
        }
        for label, run in runs.items()
    }


def main() -> None:
    """Cut and measure the networks named, or all."""
    parser = argparse.ArgumentParser(description="Latency of networks cut to half on ONNX Runtime.")
    parser.add_argument("networks", nargs="*", choices=[*HALF, []], default=[])
    parser.add_argument("--repeats", type=int, default=5, help="times that fresh processes are measured")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
    rows = {row["network"]: row for row in known}
    for name in given.networks or HALF:
        row = one(name, HALF[name], given.repeats, given.threads)
        rows[name] = row
        record = {
            "title": "Latency of networks cut to half",
            "command": f"python benchmarks/latency.py --repeats {given.repeats} --threads {given.threads}",
            "seed": 0,
            "threads": given.threads,
            "machine": machine(),
            "networks": [rows[each] for each in HALF if each in rows],
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
        print(
            f"{name}: {row['ratio']:.2f} times as fast ({row['ratio_least']:.2f} to {row['ratio_most']:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
