"""Prune the LeNets without any training and compare second-order methods with magnitude on test accuracy.

    python benchmarks/second_order.py

For each network: starts from the committed reference weights, calibrates on 1,000 images of the training split (the
seed picks them), prunes to 80 % and 90 % zeros with each method, and records in benchmarks/results/second_order.json
the commit, machine, command, and per seed the share of zeros, the accuracy on test data before and after, and the
seconds that the method took to decide, with the means over the seeds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from provenance import commit, machine

from gossamer import datasets, zoo
from gossamer.calibrate import calibrate
from gossamer.methods.prune import Magnitude, Obs, SparseGpt
from gossamer.model import Method, Subject, apply, live_weight
from gossamer.task import evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "second_order.json"
NETWORKS = ("lenet300", "lenet5")


def methods(sparsity: float) -> Iterator[tuple[str, Method]]:
    """Yield what is compared, by name."""
    yield "magnitude, global", Magnitude(sparsity=sparsity)
    yield "magnitude, per layer", Magnitude(sparsity=sparsity, scope="layer")
    yield "sparsegpt", SparseGpt(sparsity=sparsity)
    yield "obs, per layer", Obs(sparsity=sparsity)
    yield "obs, global", Obs(sparsity=sparsity, scope="global")


def runs(network: str, seed: int, samples: int) -> Iterator[dict[str, Any]]:
    """Yield what is recorded of every method on one network, calibrated with one seed."""
    data = zoo.network(network).data
    if data is None:
        raise SystemExit(f"{network} has no data set")
    task = datasets.load(data)
    args, kwargs = task.example
    subject = Subject.of(zoo.build(network, pretrained=True).eval(), *args, **kwargs)
    picked = torch.Generator().manual_seed(seed)
    evidence = calibrate(subject, task.batches("train", samples=samples, generator=picked), {"second_moment"})
    before = 100 * evaluate(subject.model, task, "test")["accuracy"]
    for sparsity in (0.8, 0.9):
        for name, method in methods(sparsity):
            started = time.monotonic()
            plan = method.plan(subject, evidence)
            seconds = time.monotonic() - started
            pruned = apply(subject, plan)
            values = [live_weight(pruned, site) for site in pruned.sites]
            zeros = sum(int((value == 0).sum()) for value in values) / sum(value.numel() for value in values)
            after = 100 * evaluate(pruned.model, task, "test")["accuracy"]
            row = {"network": network, "sparsity": sparsity, "method": name, "seed": seed, "zeros": zeros}
            yield {**row, "test_before": before, "test_after": after, "lost": before - after, "seconds": seconds}


def means(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row per network, sparsity and method, means over the seeds."""
    keys = ("network", "sparsity", "method")
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in keys) == group]
        figures = {
            name: statistics.fmean(row[name] for row in mine)
            for name in ("zeros", "test_before", "test_after", "lost", "seconds")
        }
        yield {**dict(zip(keys, group, strict=True)), **figures}


def main() -> None:
    """Prune, evaluate and write the result."""
    parser = argparse.ArgumentParser(description="Second-order pruning without training, against magnitude.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    origin = {"commit": commit(), "machine": machine()}
    rows = []
    for network in NETWORKS:
        for seed in range(given.seeds):
            for row in runs(network, seed, given.samples):
                rows.append(row)
                print(
                    f"{network} {row['sparsity']:.0%} seed {seed} {row['method']}: {row['test_before']:.2f} -> "
                    f"{row['test_after']:.2f}, {row['seconds']:.1f} s",
                    flush=True,
                )
    result = {
        "title": "Second-order pruning without training",
        "note": "Test accuracy in percent, on Fashion-MNIST; `lost` in points. Zeros are a share of all weights. The "
        "seed picks the calibration images. Seconds are wall time of deciding, on a machine that ran other work "
        "beside.",
        "command": f"python benchmarks/second_order.py --seeds {given.seeds} --samples {given.samples}",
        "calibration_images": given.samples,
        "means": list(means(rows)),
        "runs": rows,
        **origin,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
