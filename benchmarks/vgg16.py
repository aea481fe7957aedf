"""VGG-16 (138 million parameters) through prune, share and code, and back: time and peak memory of each stage.

    python benchmarks/vgg16.py --threads 1

The weights are random ones of the zoo (a normal distribution per layer), pruned by magnitude to 7.5 % of each layer as
in Deep Compression (Han, Mao and Dally, ICLR 2016, table 4, which keeps 7.5 % of VGG-16), shared to 32 values a layer
by k-means, and written to a file; the search for the smallest form of each tensor and its proof by equality are part of
coding. Decoding reads the file and decodes every tensor. Each runs in a fresh process; memory is the peak of the whole
process, interpreter and libraries included, over the bytes of the parameters, and beside it what it was before.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provenance import commit, machine

RESULTS = Path(__file__).resolve().parent / "results" / "vgg16.json"
SPARSITY, BITS = 0.925, 5
BARS = {"encode_seconds": 60, "decode_seconds": 6, "memory_ratio": 2.5}


class Clock:
    """Seconds of each stage, and the peak of memory after it."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        self.stages.append({"stage": name, **seconds, "peak_bytes": peak()})


def peak() -> int:
    """Return the peak of this process's memory so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def encode(path: Path, threads: int) -> dict[str, Any]:
    """Prune, share and code in this process."""
    import torch

    from gossamer import zoo
    from gossamer.artifact import save
    from gossamer.methods.prune import Magnitude
    from gossamer.methods.share import KMeans
    from gossamer.model import Subject, apply, freeze, to_artifact

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clock = Clock()
    libraries = peak()
    model = zoo.build("vgg16").eval()
    dense = sum(4 * parameter.numel() for parameter in model.parameters())
    start = peak()
    with clock.stage("subject"):
        subject = Subject.of(model, *zoo.example("vgg16"))
        del model
    with clock.stage("prune"):
        method = Magnitude(sparsity=SPARSITY, scope="layer")
        subject = apply(subject, method.plan(subject))
    with clock.stage("share"):
        subject = apply(subject, KMeans(bits=BITS).plan(subject))
    with clock.stage("freeze"):
        frozen = freeze(subject)
        del subject
    with clock.stage("code"):
        artifact = to_artifact(frozen)
    with clock.stage("write"):
        size = save(path, artifact)
    return {"dense_bytes": dense, "file_bytes": size, "libraries": libraries, "start": start, "stages": clock.stages}


def decode(path: Path, _threads: int) -> dict[str, Any]:
    """Read the file and decode every tensor in this process."""
    from gossamer.artifact import load

    clock = Clock()
    libraries = peak()
    with clock.stage("read"):
        artifact = load(path)
    with clock.stage("decode"):
        arrays = {name: artifact.array(name) for name in artifact.tensors}
    return {"tensors": len(arrays), "libraries": libraries, "stages": clock.stages}


def fresh(action: str, path: Path, threads: int) -> dict[str, Any]:
    """Run one action in a new process."""
    command = [sys.executable, __file__, "--action", action, "--path", str(path), "--threads", str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def main() -> None:
    """Measure both ways and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--action", choices=["encode", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.action:
        print(json.dumps({"encode": encode, "decode": decode}[given.action](given.path, given.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg16.goss"
        encoded = fresh("encode", path, given.threads)
        decoded = fresh("decode", path, given.threads)
    dense = encoded["dense_bytes"]
    results: dict[str, Any] = {
        "note": "VGG-16 with random weights, 7.5 % of each layer kept, 32 values a layer.",
        "command": f"python benchmarks/vgg16.py --threads {given.threads}",
        "commit": commit(),
        "machine": machine(),
        "threads": given.threads,
        "load_average": os.getloadavg(),
        "dense_bytes": dense,
        "file_bytes": encoded["file_bytes"],
        "ratio": dense / encoded["file_bytes"],
        "bars": BARS,
    }
    for action, run in (("encode", encoded), ("decode", decoded)):
        results |= {f"{action}_{kind}": sum(one[kind] for one in run["stages"]) for kind in ("seconds", "cpu_seconds")}
        results[f"{action}_memory_ratio"] = run["stages"][-1]["peak_bytes"] / dense
        results[f"{action}_libraries_over_dense"] = run["libraries"] / dense
        results[f"{action}_stages"] = run["stages"]
    given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
