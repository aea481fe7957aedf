"""Weights of 4 bits and inputs of 8 without training: plain rounding, AdaRound and BRECQ with QDrop.

    python benchmarks/few_bits.py
    python benchmarks/few_bits.py resnet20 --seeds 0 --methods brecq --iterations 1000

Each starts from the committed reference weights and sees the same 512 samples of the train split, which the seed picks;
AdaRound sees no labels, BRECQ those its loss needs. All layers have 4 bits, the first and the last too. The figures on
the test split are read once, for the table. Results go to benchmarks/results/few_bits.json, a row for each run.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from provenance import ROOT, commit, machine

from gossamer import datasets, zoo
from gossamer.artifact import dumps
from gossamer.calibrate import calibrate
from gossamer.methods.quantize import AdaRound, Brecq, Gptq, PostTraining
from gossamer.model import Method, Subject, apply, freeze, to_artifact
from gossamer.task import evaluate

RESULTS = ROOT / "benchmarks" / "results" / "few_bits.json"
NETWORKS = ("vgg-small", "resnet20")
SAMPLES = 512
SPLITS = ("validation", "test")
BAR = 0.008
"""Most that accuracy should lose."""


def methods(iterations: int, seed: int) -> dict[str, Method]:
    """Return what is compared."""
    return {
        "nearest": PostTraining(weight_bits=4),
        "gptq": Gptq(weight_bits=4),
        "adaround": AdaRound(weight_bits=4, iterations=iterations, seed=seed),
        "brecq": Brecq(weight_bits=4, iterations=iterations, seed=seed),
    }


def one(network: str, name: str, method: Method, seed: int) -> dict[str, Any]:
    """Return the row of one run."""
    began = time.process_time()
    task = datasets.load(str(zoo.network(network).data))
    args, kwargs = task.example
    subject = Subject.of(zoo.build(network, pretrained=True).eval(), *args, **kwargs)
    picked = torch.Generator().manual_seed(seed)
    batches = task.batches("train", samples=SAMPLES, generator=picked)
    found = apply(subject, method.plan(subject, calibrate(subject, batches, method.needs, loss=task.loss)))
    worse = {split: task.worse(evaluate(subject, task, split), evaluate(found, task, split)) for split in SPLITS}
    return {
        "network": network,
        "method": name,
        "seed": seed,
        **{f"{split}_drop": drop for split, drop in worse.items()},
        "file_bytes": len(dumps(to_artifact(freeze(found)))),
        "iterations": getattr(method, "iterations", None),
        "cpu_seconds": time.process_time() - began,
        "commit": commit(),
        "machine": machine(),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean loss on the test split by network and method."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["network"], {}).setdefault(row["method"], []).append(row["test_drop"])
    return {network: {name: fmean(drops) for name, drops in of.items()} for network, of in found.items()}


def main() -> None:
    """Measure what the command line asks for; rows of other runs stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=list(methods(1, 0)), default=list(methods(1, 0)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=100, help="of the learned ones; the papers take 10,000")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(given.output.read_text())["rows"] if given.output.exists() else []
    for network in given.networks:
        for seed in given.seeds:
            for name in given.methods:
                row = one(network, name, methods(given.iterations, seed)[name], seed)
                key = (network, name, seed)
                rows = [old for old in rows if (old["network"], old["method"], old["seed"]) != key] + [row]
                print({what: row[what] for what in ("network", "method", "seed", "validation_drop", "test_drop")})
                head = {"command": f"python benchmarks/few_bits.py --iterations {given.iterations}", "bar": BAR}
                kept = {**head, "test_drop": summary(rows), "rows": rows}
                given.output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
