"""Compress the reference networks by a built-in recipe over several seeds and record file sizes and test figures.

    python benchmarks/deep_compression.py lenet5 lenet300 char-lstm char-gru

For each network: starts from the committed reference weights, runs the recipe with each seed, and records in
benchmarks/results/deep_compression_<network>.json the commit, machine, command, and per seed the bytes of the
weights-only file and the figures on test data before and after, with their means. Dense bytes are 4 per parameter.
A run that was stopped continues; a seed that is recorded for the same recipe is not run again.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from provenance import commit, machine

from gossamer import compress, datasets, zoo
from gossamer.recipe import Recipe, find
from gossamer.report import summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

RECIPES = {
    "lenet5": "deep-compression",
    "lenet300": "deep-compression",
    "char-lstm": "deep-compression-recurrent",
    "char-gru": "deep-compression-recurrent",
}


def one_seed(network: str, recipe: Recipe, seed: int, folder: Path) -> dict[str, Any]:
    """Compress one network with one seed and return what is recorded of it."""
    entry = zoo.network(network)
    if entry.data is None:
        raise SystemExit(f"{network} has no data set")
    task = datasets.load(entry.data)
    model = zoo.build(network, pretrained=True)
    out = folder / f"{network}-{seed}.goss"
    result = compress(model, task, recipe, out=out, seed=seed, report=True, progress=sys.stderr.isatty())
    report = result.report
    print(f"{network}, seed {seed}: {summary(report)}", flush=True)
    return {
        "seed": seed,
        "file_bytes": result.path.stat().st_size,
        "ratio": report.ratio,
        "test_before": {name: figure.value for name, figure in report.test_before.items()},
        "test_after": {name: figure.value for name, figure in report.test_after.items()},
        "validation_before": report.start.metrics[report.metric].value,
        "validation_after": report.end.metrics[report.metric].value,
        "density": {site.site: site.density.value for site in report.end.sites},
        "bits_per_weight": {site.site: site.bits.value for site in report.end.sites},
        "seconds": sum(step.seconds.value for step in report.steps if step.seconds is not None),
        "commit": commit(),
    }


def zoo_bytes(network: str) -> bytes:
    """Return the bytes of the reference weights, so that new weights make a new run."""
    return (ROOT / "src" / "gossamer" / "zoo" / "weights" / f"{network}.safetensors").read_bytes()


def run(network: str, recipe: str, seeds: list[int], folder: Path) -> None:
    """Run every seed that is not recorded yet and record the means."""
    path = RESULTS / f"deep_compression_{network}.json"
    found = find(recipe)
    fingerprint = hashlib.sha256(found.to_toml().encode() + zoo_bytes(network)).hexdigest()[:16]
    known = json.loads(path.read_text()) if path.exists() else {}
    done = {row["seed"]: row for row in known.get("seeds", [])} if known.get("run_sha256") == fingerprint else {}
    place = folder / f"{network}-{fingerprint}"
    place.mkdir(parents=True, exist_ok=True)
    main = datasets.load(str(zoo.network(network).data)).main
    for seed in seeds:
        if seed not in done:
            done[seed] = one_seed(network, found, seed, place)
        rows = [done[key] for key in sorted(done)]
        dense = 4 * zoo.network(network).parameters
        changes = [row["test_after"][main] - row["test_before"][main] for row in rows]
        record = {
            "network": network,
            "recipe": recipe,
            "run_sha256": fingerprint,
            "command": f"python benchmarks/deep_compression.py {network} --seeds {' '.join(map(str, seeds))}",
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "dense_bytes": dense,
            "metric": main,
            "mean": {
                "file_bytes": sum(row["file_bytes"] for row in rows) / len(rows),
                "ratio": sum(dense / row["file_bytes"] for row in rows) / len(rows),
                "test_before": sum(row["test_before"][main] for row in rows) / len(rows),
                "test_after": sum(row["test_after"][main] for row in rows) / len(rows),
                "test_change": sum(changes) / len(changes),
            },
            "seeds": rows,
        }
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    """Compress the networks named on the command line, one after another."""
    parser = argparse.ArgumentParser(description="Deep Compression of the reference networks.")
    parser.add_argument("networks", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "deep_compression", help="for journals")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for network in given.networks:
        run(network, RECIPES[network], given.seeds, given.folder)


if __name__ == "__main__":
    main()
