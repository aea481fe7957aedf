"""Cluster weights: how fast, how near the optimum, and what files weigh with codebooks of each scope.

    python benchmarks/clustering.py --threads 2

Three parts, all written to benchmarks/results/clustering.json with commit, machine and command.

*Time*: 100 million float32 weights, drawn from a normal and from a Laplace distribution, into 32 shared values by
`start = "optimal"`: seconds to find the values, and to give each weight its nearest.

*Distortion*: weights of committed networks, and numbers drawn from distributions of other kinds; the sum of squared
distances of the weighted histogram's centers over that of the exact method, which sees every distinct number.

*Files*: the LeNets with shared values, no training: bytes of the file and accuracy on test data, for one codebook per
site, one for every eight rows, one across sites; plain and weighted by second moments or squared gradients of 1,000
training images.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import commit, machine

from gossamer import datasets, zoo
from gossamer.artifact import dumps
from gossamer.calibrate import calibrate
from gossamer.methods.share import KMeans
from gossamer.methods.share.codebooks import shared_values
from gossamer.methods.share.lloyd import lloyd
from gossamer.methods.share.optimal import exact, optimal
from gossamer.methods.share.points import Points, summed
from gossamer.model import Subject, apply, freeze, nearest_center, to_artifact
from gossamer.task import evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "clustering.json"
NETWORKS = ("lenet300", "lenet5")
PARTS = ("times", "distortion", "files")
KINDS: tuple[dict[str, Any], ...] = (
    {"scope": "layer", "weigh": "none"},
    {"scope": "layer", "weigh": "second_moment"},
    {"scope": "layer", "weigh": "fisher"},
    {"scope": "global", "weigh": "none"},
    {"scope": "global", "weigh": "fisher"},
    {"scope": 8, "weigh": "none"},
    {"scope": 8, "weigh": "fisher"},
)
DRAWN: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "normal": lambda g, n: torch.empty(n).normal_(0, 0.02, generator=g),
    "laplace": lambda g, n: (
        torch.empty(n).exponential_(50, generator=g).mul_(torch.randint(2, (n,), generator=g) * 2 - 1)
    ),
}


def times(count: int, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Yield the seconds of clustering ``count`` drawn weights into 32 values."""
    for name, draw in DRAWN.items():
        weight = draw(torch.Generator().manual_seed(0), count)
        for _ in range(repeats):
            started, spent = time.monotonic(), time.process_time()
            centers = shared_values([weight], 32, start="optimal", seed=0)
            found = time.monotonic()
            codes = nearest_center(weight, centers)
            ended = time.monotonic()
            spent = time.process_time() - spent
            del codes
            parts = {"find_seconds": found - started, "assign_seconds": ended - found, "seconds": ended - started}
            yield {"weights": count, "values": len(centers), "drawn": name, **parts, "cpu_seconds": spent}


def samples() -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the exact method can still cluster, by name."""
    for network in ("lenet300", "lenet5", "vgg-small", "resnet20"):
        state = zoo.build(network, pretrained=True).state_dict()
        name, largest = max(state.items(), key=lambda entry: entry[1].numel())
        yield f"{network} {name}", largest.flatten().numpy()
    rng = np.random.default_rng(0)
    size = 200_000
    yield "normal", rng.standard_normal(size).astype(np.float32)
    yield "laplace", rng.laplace(size=size).astype(np.float32)
    yield "student t, 2 degrees", rng.standard_t(2, size).astype(np.float32)
    yield "two peaks", (rng.choice([-1, 1], size) + 0.05 * rng.standard_normal(size)).astype(np.float32)


def distortions() -> Iterator[dict[str, Any]]:
    """Yield how far the histogram's centers are from the optimum."""
    for name, values in samples():
        for weighted in (False, True):
            heavy = np.random.default_rng(1).gamma(0.5, size=values.size) + 1e-6 if weighted else None
            at, place = np.unique(values[values != 0].astype(np.float64), return_inverse=True)
            inside = None if heavy is None else heavy[values != 0]
            every = Points(at, np.bincount(place, inside, at.size).astype(np.float64))
            cells = summed(values, heavy)
            for count in (8, 32):
                started = time.monotonic()
                best = exact(every, count)
                slow = time.monotonic() - started
                started = time.monotonic()
                ours = optimal(cells, count)
                quick = time.monotonic() - started
                linear = lloyd(every, np.linspace(at[0], at[-1], count))
                yield {
                    "numbers": name,
                    "weights": values.size,
                    "weighted": weighted,
                    "values": count,
                    "excess_percent": 100 * (_distortion(every, ours) / _distortion(every, best) - 1),
                    "excess_percent_kmeans_linear": 100 * (_distortion(every, linear) / _distortion(every, best) - 1),
                    "exact_seconds": slow,
                    "histogram_seconds": quick,
                }


def _distortion(points: Points, centers: np.ndarray) -> float:
    codes = nearest_center(torch.from_numpy(points.at), torch.from_numpy(centers)).numpy()
    return float(points.weight @ np.square(points.at - centers[codes]))


def files(network: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield file bytes and accuracy of a network with shared values of every kind."""
    task = datasets.load(zoo.network(network).data or "")
    args, kwargs = task.example
    subject = Subject.of(zoo.build(network, pretrained=True).eval(), *args, **kwargs)
    before = 100 * evaluate(subject.model, task, "test")["accuracy"]
    picked = torch.Generator().manual_seed(seed)
    batches = list(task.batches("train", samples=1000, generator=picked))
    evidence = calibrate(subject, batches, {"second_moment", "gradient"}, loss=task.loss)
    for bits in (2, 3, 4):
        for kind in KINDS:
            shared = apply(subject, KMeans(bits=bits, start="optimal", **kind).plan(subject, evidence))
            size = len(dumps(to_artifact(freeze(shared))))
            after = 100 * evaluate(shared.model, task, "test")["accuracy"]
            scope = kind["scope"] if isinstance(kind["scope"], str) else f"{kind['scope']} rows"
            row = {"network": network, "bits": bits, "scope": scope, "weigh": kind["weigh"], "seed": seed}
            yield {**row, "file_bytes": size, "test_before": before, "test_after": after, "lost": before - after}


def means(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row per network, bits and kind of codebook, means over the seeds."""
    keys = ("network", "bits", "scope", "weigh")
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        mine = [row for row in rows if tuple(row[key] for key in keys) == group]
        figures = {name: statistics.fmean(row[name] for row in mine) for name in ("file_bytes", "test_after", "lost")}
        yield {**dict(zip(keys, group, strict=True)), **figures}


def main() -> None:
    """Measure the parts asked for and write them; those not asked for stay as they are."""
    parser = argparse.ArgumentParser(description="Clustering of weights: time, distortion, files.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=100_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    origin = {"commit": commit(), "machine": machine()}
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured_at = {f"{part}_commit": held.get(f"{part}_commit", held.get("commit")) for part in PARTS if part in held}
    makers: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "times": lambda: times(given.count),
        "distortion": distortions,
        "files": lambda: means([row for name in NETWORKS for seed in range(given.seeds) for row in files(name, seed)]),
    }
    for part in given.parts:
        rows = []
        for row in makers[part]():
            rows.append(row)
            print(row, flush=True)
        held[part], measured_at[f"{part}_commit"] = rows, origin["commit"]
    result = {
        "title": "Shared values: time, distortion, files",
        "note": "Times: drawn float32 weights into 32 values, with the threads of the command, on a machine whose two "
        "cores ran other work beside; `cpu seconds` are the process's own, of all its threads. Distortion: how much "
        "more than the exact optimum, in percent, for the weighted histogram and for k-means from a linear start. "
        "Files: no training; bytes of the whole file, test accuracy in percent on Fashion-MNIST, `lost` in points, "
        "means over seeds that pick the calibration images.",
        "command": f"python benchmarks/clustering.py --threads {given.threads} --seeds {given.seeds}",
        **measured_at,
        **{part: held[part] for part in PARTS if part in held},
        **origin,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
