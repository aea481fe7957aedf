"""Pack and unpack a large state dict: peak memory over the file and its largest tensor; trained weights and zstd.

    pip install zstandard==0.25.0
    python benchmarks/pack.py

Memory: safetensors files of layers like those of a transformer (three float32 matrices each, normally distributed) are
packed without loss and on a grid, and unpacked, each in a fresh process. What is counted is the peak of the process's
resident memory over what it was before the first byte was read; interpreter and libraries are told beside it. The two
smaller files show what it depends on: one has a quarter of the tensors of the large one, the other has tensors that are
four times as large. A size to meet needs the memory of a grid: each of its trials is a pass of its own.

Ratios: the trained networks of the zoo as safetensors, in float32 and rounded to bfloat16, whole files. zstd is one
stream at level 19 of the same safetensors file. Everything is unpacked and compared byte for byte.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from provenance import commit, machine

import gossamer
from gossamer.codec.safetensors import head
from gossamer.codec.source import Entry

try:
    import zstandard
except ImportError as missing:
    raise SystemExit(f"{missing}; this benchmark needs the package named in its docstring") from None

RESULTS = Path(__file__).resolve().parent / "results" / "pack.json"
FILES = ((1024, 64), (1024, 16), (2048, 4))
"""Width and layers of the generated files."""
STEPS = (None, 0.25)
DTYPES = ("float32", "bfloat16")


def generate(path: Path, width: int, layers: int, seed: int) -> dict[str, int]:
    """Write a file of ``layers`` times three matrices; return its bytes, tensors and largest tensor."""
    shapes = {"attention": (width, width), "output": (width, width), "feed_forward": (2 * width, width)}
    entries = [Entry(f"{k}.{name}.weight", "float32", shape) for k in range(layers) for name, shape in shapes.items()]
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(head(entries, {})[0])
        for entry in entries:
            file.write((rng.standard_normal(entry.shape, dtype=np.float32) / np.float32(math.sqrt(width))).data)
    return {
        "file_bytes": path.stat().st_size,
        "tensors": len(entries),
        "largest_tensor_bytes": max(entry.nbytes for entry in entries),
    }


def one_run(action: str, source: Path, target: Path, step: float | None) -> dict[str, Any]:
    """Pack or unpack in this process; return seconds and bytes of memory before and at the peak."""
    before = resident("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    if action == "pack":
        gossamer.pack(source, target, step=step)
    else:
        gossamer.unpack(source, target)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "before": before, "peak": resident("VmHWM")}


def resident(what: str) -> int:
    """Return this process's resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    The peak that ``getrusage`` tells begins with that of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def fresh(action: str, source: Path, target: Path, step: float | None) -> dict[str, Any]:
    """Run one action in a new process."""
    command = [sys.executable, __file__, "--action", action, str(source), str(target), str(step or "")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def memory(folder: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every file, step and direction."""
    source, packed, back = folder / "w.safetensors", folder / "w.goss", folder / "back.safetensors"
    for width, layers in FILES:
        sizes = generate(source, width, layers, seed)
        for step in STEPS:
            for action, start, end in (("pack", source, packed), ("unpack", packed, back)):
                run = fresh(action, start, end, step)
                grown = run["peak"] - run["before"]
                yield {
                    **sizes,
                    "kept": "all" if step is None else f"step {step}",
                    "action": action,
                    "goss_bytes": packed.stat().st_size,
                    "seconds": run["seconds"],
                    "cpu_seconds": run["cpu_seconds"],
                    "before_bytes": run["before"],
                    "grown_bytes": grown,
                    "grown_over_file": grown / sizes["file_bytes"],
                    "grown_over_largest_tensor": grown / sizes["largest_tensor_bytes"],
                }
            if step is None and back.read_bytes() != source.read_bytes():
                raise SystemExit(f"{sizes}: what was packed without loss did not come back")


def ratios(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for every trained network and dtype."""
    import torch
    from safetensors.torch import save_model

    from gossamer import zoo

    source, packed, back = folder / "z.safetensors", folder / "z.goss", folder / "z2.safetensors"
    squeeze = zstandard.ZstdCompressor(level=19)
    for name in (one.name for one in zoo.NETWORKS if zoo.trained(one.name)):
        for dtype in DTYPES:
            save_model(zoo.build(name, pretrained=True).to(getattr(torch, dtype)), str(source))
            made = gossamer.pack(source, packed)
            gossamer.unpack(packed, back)
            raw = source.read_bytes()
            if back.read_bytes() != raw:
                raise SystemExit(f"{name}: what was packed without loss did not come back")
            other = len(squeeze.compress(raw))
            yield {
                "network": name,
                "dtype": dtype,
                "safetensors_bytes": len(raw),
                "goss_bytes": made.bytes,
                "zstd_19_bytes": other,
                "goss_over_safetensors": made.bytes / len(raw),
                "goss_over_zstd": made.bytes / other,
            }


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--action", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.action:
        action, source, target, step = given.action
        print(json.dumps(one_run(action, Path(source), Path(target), float(step) if step else None)))
        return
    with tempfile.TemporaryDirectory() as folder:
        zoo_rows = list(ratios(Path(folder)))
        memory_rows = list(memory(Path(folder), given.seed))
    results = {
        "note": "Pack and unpack without a model. Memory is the growth of a fresh process's peak over what it had "
        "before it read the file; ratios are of whole files, without loss.",
        "command": " ".join(["python", "benchmarks/pack.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine() | {"zstandard": zstandard.__version__},
        "load_average": os.getloadavg(),
        "seed": given.seed,
        "goss_over_zstd_geometric_mean": {
            dtype: math.exp(np.mean([math.log(one["goss_over_zstd"]) for one in zoo_rows if one["dtype"] == dtype]))
            for dtype in DTYPES
        },
        "memory": memory_rows,
        "without_loss": zoo_rows,
    }
    given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
