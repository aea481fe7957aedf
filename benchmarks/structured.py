"""Cut units of the ResNet-20 without any training, with and without repair, over several seeds.

    python benchmarks/structured.py

Starts from the committed reference weights, takes a share of the multiply-accumulates by `prune.units`, and records
accuracy on test data in benchmarks/results/structured.json. The seed picks the calibration images. Repair is least
squares of the layers that read what went, and batch norms measured anew.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from provenance import commit, machine

from gossamer import datasets, zoo
from gossamer.calibrate import reset_batch_norm
from gossamer.methods.prune import Units
from gossamer.model import Subject, apply
from gossamer.recipe.evidence import Collector
from gossamer.task import Task, evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "structured.json"
NETWORK = "resnet20"


def runs(task: Task, seeds: int, amount: float, samples: int) -> Iterator[dict[str, Any]]:
    """Yield what is recorded of each seed, with repair and without."""
    args, kwargs = task.example
    subject = Subject.of(zoo.build(NETWORK, pretrained=True).eval(), *args, **kwargs)
    before = 100 * evaluate(subject, task, "test")["accuracy"]
    for seed in range(seeds):
        collector = Collector(task, seed, samples)
        for repair in (True, False):
            method = Units(amount=amount, repair=repair)
            plan = method.plan(subject, collector.get(subject, method.needs))
            small = apply(subject, plan)
            if plan.reset_norms:
                small = reset_batch_norm(small, collector.batches())
            after = 100 * evaluate(small, task, "test")["accuracy"]
            left = (small.graph.macs or 0) / (subject.graph.macs or 1)
            row = {"network": NETWORK, "repair": repair, "seed": seed, "macs_left": left}
            yield {**row, "test_before": before, "test_after": after, "lost": before - after}


def main() -> None:
    """Cut, evaluate and write the result."""
    parser = argparse.ArgumentParser(description="Structured pruning without training.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--amount", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in runs(datasets.load("fashion-mnist"), given.seeds, given.amount, given.samples):
        rows.append(row)
        print(row, flush=True)
    means = [
        {
            "repair": repair,
            **{
                name: statistics.fmean(row[name] for row in rows if row["repair"] is repair)
                for name in ("macs_left", "test_before", "test_after", "lost")
            },
        }
        for repair in (True, False)
    ]
    result = {
        "title": "Units cut without training",
        "note": "Test accuracy in percent, on Fashion-MNIST; `lost` in points.",
        "command": f"python benchmarks/structured.py --seeds {given.seeds} --amount {given.amount}",
        "calibration_images": given.samples,
        "means": means,
        "runs": rows,
        "commit": commit(),
        "machine": machine(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
