"""Measure the coders and codings: overhead over entropy, speed and memory on a 100 MB model, size of the parts.

The model has six 2048 x 2048 float32 matrices of Gaussian weights, pruned by magnitude to 10 % and shared to 32 values.
Beside it single quantized matrices, without a hint: int4 of a Laplace distribution whose scale varies by row, int8 of a
normal one, int4 with a mean of low rank, and float32 that are 90 % zeros and else 31 shared values.
Speeds are in megabytes (10^6) of dense float32 per second of one process; encoding includes the search, the proof by
equality and writing the file, decoding includes reading it. Each run is a fresh process; its peak memory is its own.

    python benchmarks/coder.py --repeats 5 --output benchmarks/results/coder.json
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import commit, machine

from gossamer import coders
from gossamer.artifact import Artifact, load, save
from gossamer.codings import Codebook, Sparse, decode, describe, encode, nbytes

LAYERS, SIDE, DENSITY, VALUES = 6, 2048, 0.10, 32
DENSE = LAYERS * SIDE * SIDE * 4


def hints(seed: int) -> dict[str, Sparse]:
    """Return the pruned and shared matrices as hint trees."""
    rng = np.random.default_rng(seed)
    built = {}
    for layer in range(LAYERS):
        weights = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
        where = np.abs(weights) > np.quantile(np.abs(weights), 1 - DENSITY)
        values = weights[where]
        centers = np.linspace(values.min(), values.max(), VALUES, dtype=np.float32)
        codes = np.abs(values[:, None] - centers).argmin(axis=1).astype(np.uint8)
        built[f"layers.{layer}.weight"] = Sparse(where, Codebook(codes, centers))
    return built


def one_run(action: str, path: Path, seed: int) -> dict[str, float]:
    """Encode to or decode from ``path`` in this process; return seconds and the growth of its peak memory in bytes."""
    made = hints(seed) if action == "encode" else {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    if action == "encode":
        save(path, Artifact({name: encode(hint) for name, hint in made.items()}))
    else:
        artifact = load(path)
        arrays = {name: artifact.array(name) for name in artifact.tensors}
        made.update(arrays)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu_seconds": cpu, "peak": peak * 1024, "before": before * 1024}


def speeds(path: Path, seed: int, repeats: int) -> dict[str, object]:
    """Run both actions ``repeats`` times in fresh processes."""
    results: dict[str, object] = {"dense_bytes": DENSE}
    for action in ("encode", "decode"):
        runs = []
        for _ in range(repeats):
            command = [sys.executable, __file__, "--action", action, "--path", str(path), "--seed", str(seed)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        rates = sorted(DENSE / 1e6 / run["seconds"] for run in runs)
        results[action] = {
            "megabytes_per_second": {"least": rates[0], "median": statistics.median(rates), "most": rates[-1]},
            "megabytes_per_cpu_second": DENSE / 1e6 / min(run["cpu_seconds"] for run in runs),
            "peak_process_bytes_over_dense": max(run["peak"] for run in runs) / DENSE,
            "peak_before_bytes_over_dense": max(run["before"] for run in runs) / DENSE,
        }
    results["file_bytes"] = path.stat().st_size
    results["ratio"] = DENSE / path.stat().st_size
    results["coding"] = describe(next(iter(load(path).tensors.values())))
    return results


def matrices(seed: int) -> dict[str, np.ndarray]:
    """Return quantized matrices of some kinds."""
    rng = np.random.default_rng(seed)
    rows, normal = rng.lognormal(0, 0.4, (SIDE, 1)) * 1.2, rng.normal(size=(SIDE, SIDE))
    mean = 0.4 * rng.normal(size=(SIDE, 6)) @ rng.normal(size=(6, SIDE))
    step = 5.0 / (VALUES - 1)
    large = np.abs(normal) > np.quantile(np.abs(normal), 1 - DENSITY)
    kept = np.where(large, np.clip(np.rint(normal / step), -15, 15), 0)
    return {
        "int4 rows": np.clip(np.rint(rng.laplace(size=(SIDE, 2 * SIDE)) * rows), -8, 7).astype(np.int8),
        "int4 low rank": np.clip(np.rint((normal + mean) * 1.5), -8, 7).astype(np.int8),
        "int8": np.clip(np.rint(normal * 30), -127, 127).astype(np.int8),
        "sparse float32": (kept * step).astype(np.float32),
    }


def quantized(seed: int, repeats: int) -> list[dict[str, object]]:
    """Return the speed of the whole of encode and of decode, in this process, the best of some runs."""
    rows: list[dict[str, object]] = []
    for name, matrix in matrices(seed).items():
        spent: dict[str, list[float]] = {"encode": [], "decode": []}
        for _ in range(repeats):
            began = time.process_time()
            tree = encode(matrix)
            spent["encode"].append(time.process_time() - began)
            began = time.process_time()
            decode(tree)
            spent["decode"].append(time.process_time() - began)
        speed = {f"{way}_megabytes_per_cpu_second": 4e-6 * matrix.size / min(spent[way]) for way in spent}
        rows.append({"matrix": name, "elements": matrix.size, "bytes": nbytes(tree), "coding": describe(tree), **speed})
    return rows


def overheads(seed: int) -> list[dict[str, object]]:
    """Return coded bytes over the entropy of the counted frequencies, side information included."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(seed)
    for alphabet in (2, 32, 256):
        chances = rng.dirichlet(np.full(alphabet, 2.0))
        each = -float(chances @ np.log2(chances))
        for size in (10_000, 100_000, 1_000_000):
            symbols = rng.choice(alphabet, int(8 * size / each), p=chances)
            share = np.bincount(symbols, minlength=alphabet) / symbols.size
            entropy = -symbols.size * float(share[share > 0] @ np.log2(share[share > 0])) / 8
            for model in ("static", "adaptive"):
                ideal = coders.estimate(symbols, alphabet, model) - (3 if model == "static" else 4)
                for coder in ("ans", "range"):
                    coded = len(coders.encode(symbols, alphabet, model=model, coder=coder))
                    rows.append(
                        {
                            "alphabet": alphabet,
                            "entropy_bytes": round(entropy),
                            "model": model,
                            "coder": coder,
                            "coded_bytes": coded,
                            "over_counted_entropy_percent": round(100 * (coded / entropy - 1), 4),
                            "over_model_entropy_percent": round(100 * (coded / ideal - 1), 4),
                        }
                    )
    return rows


def structured(seed: int) -> dict[str, object]:
    """Return what the mixed model gains on a 300 x 784 matrix whose rows and columns differ in density."""
    rng = np.random.default_rng(seed)
    chances = np.clip(np.outer(rng.gamma(2, 0.5, 300), rng.gamma(2, 0.5, 784)) * 0.08, 0, 1)
    where = rng.random(chances.shape) < chances
    centers = np.linspace(-1, 1, VALUES, dtype=np.float32)
    codes = np.clip(rng.normal(16, 5, int(where.sum())), 0, 31).astype(np.uint8)
    hint = Sparse(where, Codebook(codes, centers))
    rows = {}
    for effort in ("fast", "best"):
        began = time.process_time()
        tree = encode(hint, effort=effort)
        rows[effort] = {"bytes": nbytes(tree), "coding": describe(tree), "cpu_seconds": time.process_time() - began}
    return rows


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--action", choices=["encode", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.action:
        print(json.dumps(one_run(options.action, options.path, options.seed)))
        return
    with tempfile.TemporaryDirectory() as folder:
        speed = speeds(Path(folder) / "model.goss", options.seed, options.repeats)
    results = {
        "commit": commit(),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "load_average": os.getloadavg(),
        "seed": options.seed,
        "repeats": options.repeats,
        "model_of_100_megabytes": speed,
        "quantized": quantized(options.seed, options.repeats),
        "overhead": overheads(options.seed),
        "structured_matrix": structured(options.seed),
    }
    text = json.dumps(results, indent=2) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


if __name__ == "__main__":
    main()
