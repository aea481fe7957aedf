"""Train HashedNets and dense networks with as many free parameters on Fashion-MNIST, over several seeds.

    python benchmarks/hashed.py

The experiment of Chen et al., ICML 2015 (arXiv 1504.04788), on their network of one hidden layer: 784 inputs, 1000
rectified units, 10 outputs. `share.hashed` starts from scratch at a ratio of 1/8 and 1/64; the dense network beside it
has fewer hidden units, as many as give it at least as many free parameters (biases are counted in both). All are
trained alike, from the same seeds. Records in benchmarks/results/hashed.json the error on test data, in percent, and
the bytes of the file with the weights only. What is recorded for the same training is not run again.
"""

import argparse
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from provenance import ROOT, commit, machine
from torch import nn

from gossamer import artifact, datasets
from gossamer.methods.share import Hashed
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.task import Task, evaluate
from gossamer.train import Training, train

RESULTS = ROOT / "benchmarks" / "results" / "hashed.json"
INPUTS, UNITS, OUTPUTS = 784, 1000, 10
RATIOS = (8, 64)
TRAINING = Training(epochs=10, lr=2e-3, batch_size=256)


def network(units: int, seed: int) -> nn.Module:
    """Return a new network with one hidden layer."""
    torch.manual_seed(seed)
    layers = (nn.Linear(INPUTS, units), nn.ReLU(), nn.Linear(units, OUTPUTS))
    return nn.Sequential(nn.Flatten(), *layers)


def free(subject: Subject) -> int:
    """Return how many numbers training moves."""
    return sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad)


def subjects(task: Task, one_in: int, seed: int) -> Iterator[tuple[str, Subject]]:
    """Yield the hashed network and the dense one that is equally large."""
    args, kwargs = task.example
    whole = Subject.of(network(UNITS, seed), *args, **kwargs)
    hashed = apply(whole, Hashed(ratio=1 / one_in, start="scratch", seed=seed).plan(whole))
    yield "hashed", hashed
    units = math.ceil((free(hashed) - OUTPUTS) / (INPUTS + 1 + OUTPUTS))
    yield "dense", Subject.of(network(units, seed), *args, **kwargs)


def run(task: Task, subject: Subject, seed: int) -> dict[str, Any]:
    """Train, evaluate and store one network."""
    began = time.process_time()
    train(subject, task, msgspec.structs.replace(TRAINING, seed=seed))
    seconds = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        size = artifact.save(Path(folder) / "net.goss", to_artifact(freeze(subject)))
    return {
        "hidden_units": subject.model[1].out_features,  # type: ignore[index,union-attr]
        "free_parameters": free(subject),
        "file_bytes": size,
        "validation_error": 100 * (1 - evaluate(subject, task, "validation")["accuracy"]),
        "test_error": 100 * (1 - evaluate(subject, task, "test")["accuracy"]),
        "cpu_seconds": seconds,
    }


def main() -> None:
    """Run what is not recorded yet and write the result anew after each network."""
    parser = argparse.ArgumentParser(description="HashedNets against dense networks that are equally large.")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    training = json.loads(msgspec.json.encode(TRAINING))
    digest = hashlib.sha256(json.dumps(training, sort_keys=True).encode()).hexdigest()[:16]
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = known["runs"] if known.get("training_sha256") == digest else []
    done = {(row["parameters"], row["network"], row["seed"]) for row in rows}
    task = datasets.load("fashion-mnist")
    for seed in range(given.seeds):
        for one_in in RATIOS:
            for name, subject in subjects(task, one_in, seed):
                key = {"parameters": f"1/{one_in}", "network": name, "seed": seed}
                if tuple(key.values()) in done:
                    continue
                rows.append({**key, **run(task, subject, seed)})
                print(rows[-1], flush=True)
                RESULTS.write_text(json.dumps(record(rows, given.seeds, digest), indent=1) + "\n")


def record(rows: list[dict[str, Any]], seeds: int, digest: str) -> dict[str, Any]:
    """Return what is written: means over seeds, and the runs."""
    means = []
    for one_in in RATIOS:
        for name in ("hashed", "dense"):
            mine = [row for row in rows if (row["parameters"], row["network"]) == (f"1/{one_in}", name)]
            if mine:
                errors = [row["test_error"] for row in mine]
                means.append(
                    {
                        "parameters": f"1/{one_in}",
                        "network": name,
                        "hidden_units": mine[0]["hidden_units"],
                        "free_parameters": mine[0]["free_parameters"],
                        "file_bytes": statistics.fmean(row["file_bytes"] for row in mine),
                        "test_error": statistics.fmean(errors),
                        "least": min(errors),
                        "most": max(errors),
                    }
                )
    return {
        "title": "HashedNets against dense networks that are equally large",
        "note": "Error on the test data of Fashion-MNIST in percent, of a network with one hidden layer. "
        "`parameters` is the share of those of the dense network with 1000 hidden units.",
        "command": f"python benchmarks/hashed.py --seeds {seeds}",
        "training_sha256": digest,
        "means": means,
        "runs": rows,
        "commit": commit(),
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
