"""Store the weights of the reference networks in few bits, computing in floats, and weigh the files.

    python benchmarks/weight_only.py digits-lstm digits-gru

For each network: starts from the committed reference weights, treats every site alike, without data or training, and
records in benchmarks/results/weight_only.json the bytes of the weights-only files, header and all, the figures on
validation and test data, the commit, machine and command. The settings are the same for all networks and are not
chosen by any figure.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from provenance import commit, machine

from gossamer import artifact, datasets, zoo
from gossamer.methods.quantize import Half, PostTraining
from gossamer.model import Method, Subject, apply, freeze, to_artifact
from gossamer.task import evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "weight_only.json"
METHODS: dict[str, Method] = {
    "float16": Half(),
    "bfloat16": Half(dtype="bfloat16"),
} | {
    f"{bits} bits, {scales if isinstance(scales, str) else f'groups of {scales}'}": PostTraining(
        weight_bits=bits, weight_scales=scales, inputs=False
    )
    for bits in (8, 4, 3, 2)
    for scales in ("channel", 32)
}


def one(network: str) -> list[dict[str, Any]]:
    """Return what is recorded of one network, a row for each way to store its weights."""
    entry = zoo.network(network)
    if entry.data is None:
        raise SystemExit(f"{network} has no data set")
    task = datasets.load(entry.data)
    args, kwargs = task.example
    subject = Subject.of(zoo.build(network, pretrained=True).eval(), *args, **kwargs)
    rows = []
    for name, method in {"float32": None, **METHODS}.items():
        done = subject if method is None else apply(subject, method.plan(subject))
        frozen = freeze(done)
        with tempfile.TemporaryDirectory() as folder:
            size = artifact.save(Path(folder) / "weights.goss", to_artifact(frozen))
        figures = {split: evaluate(frozen.model, task, split)[task.main] for split in ("validation", "test")}
        rows.append({"weights": name, "bytes": size, **figures})
        print(f"{network}, {name}: {size} bytes, {task.main} {figures['validation']:.4f}, test {figures['test']:.4f}")
    return rows


def main() -> None:
    """Quantize and weigh the networks named on the command line."""
    parser = argparse.ArgumentParser(description="Weight-only quantization of the reference networks.")
    parser.add_argument("networks", nargs="+", choices=zoo.names())
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "note": "Bytes of the weights-only file, main metric on validation and test data; groups of 32 at most.",
        "command": f"python benchmarks/weight_only.py {' '.join(given.networks)}",
        "commit": commit(),
        "machine": machine(),
    }
    found |= {network: one(network) for network in given.networks}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
