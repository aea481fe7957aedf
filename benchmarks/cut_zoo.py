"""Ask every network of the zoo for half of its multiply-accumulates, and check what comes back.

    python benchmarks/cut_zoo.py resnet152 vgg16

For each network, in a process of its own: the time and memory of finding the groups and cutting them, the share of
multiply-accumulates that is left (asked for 50 %), a training step, the largest difference between the ONNX model and
torch, whether a file fills a fresh instance bit for bit, and whether the file holds as many parameters as are counted.
Weights are those of the zoo, trained where it has them; units are ranked by the norm of their weights and nothing is
repaired, for this is about structure. Results go to benchmarks/results/cut_zoo.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cutters.shared import used
from provenance import commit, machine

from gossamer import artifact, zoo
from gossamer.methods.prune import Units
from gossamer.model import Subject, apply, freeze, load, to_artifact
from gossamer.targets import compare, to_onnx

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cut_zoo.json"
ASKED = 0.5


def peak() -> int:
    """Return the most memory this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def one(name: str) -> dict[str, Any]:
    """Cut one network and check it."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    before = used()
    model = zoo.build(name, pretrained=None).eval()
    args = zoo.example(name)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    subject = Subject.of(model, *args)
    del model
    started = time.perf_counter()
    groups, unseen = subject.coupling
    found = time.perf_counter() - started
    small = apply(subject, Units(amount=1 - ASKED, criterion="l2", repair=False).plan(subject))
    spent = time.perf_counter() - started
    memory = peak() - before  # the network itself, and what it takes to build it, count
    dense, left = subject.graph.macs, small.graph.macs
    del subject
    return {
        "network": name,
        "parameters": size // 4,
        "groups": sum(not group.stuck for group in groups),
        "stuck_groups": sum(bool(group.stuck) for group in groups),
        "unseen": "; ".join(f"{one.what} at {one.where}" for one in unseen),
        "analysis_seconds": found,
        "seconds": spent,
        "memory_ratio": memory / size,
        "macs": dense,
        "macs_left": None if not dense or left is None else left / dense,
        **_checked(name, small, args),
    }


def _checked(name: str, small: Subject, args: tuple[Any, ...]) -> dict[str, Any]:
    frozen = freeze(small)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.goss"
        artifact.save(path, to_artifact(frozen))
        stored = artifact.inspect(path)
        filled = load(path).into(zoo.build(name)).eval()
    counted = sum(parameter.numel() for parameter in frozen.model.parameters())
    names = {parameter for parameter, _ in frozen.model.named_parameters()}
    on_disk = sum(int(np.prod(tensor.shape)) for tensor in stored.tensors if tensor.name in names)
    with torch.no_grad():
        wanted, got = frozen.model.eval()(*args), filled(*args)
    proto = to_onnx(frozen.model, args)
    difference = compare(frozen.model, proto, args)
    trained = small.model.train()
    out = trained(*(torch.cat([arg, arg]) for arg in args))
    out.square().mean().backward()
    moved = sum(parameter.grad is not None for parameter in trained.parameters())
    return {
        "parameters_left": counted,
        "parameters_on_disk": on_disk,
        "bit_equal": bool(torch.equal(wanted, got)),
        "onnx_difference": difference if isinstance(difference, float) else max(difference),
        "trained_parameters": moved,
    }


def main() -> None:
    """Cut the networks named, or all."""
    parser = argparse.ArgumentParser(description="Cut every network of the zoo to half its operations.")
    parser.add_argument("networks", nargs="*", default=[])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one)))
        return
    rows = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
    known = {row["network"]: row for row in rows}
    for name in given.networks or [each for each in zoo.names() if each not in {"xor", "edges"}]:
        done = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=False)
        row = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"network": name, "failed": True}
        known[name] = {**row, "commit": commit()}
        shown = {key: row.get(key) for key in ("seconds", "memory_ratio", "macs_left", "onnx_difference", "bit_equal")}
        print(name, shown, flush=True)
        record = {
            "title": "Half the operations of every network in the zoo",
            "note": "Seconds are wall time on a machine that ran other work beside; memory is the peak of the process "
            "over that of the network.",
            "command": "python benchmarks/cut_zoo.py",
            "asked": ASKED,
            "seed": 0,
            "threads": 2,
            "machine": machine(),
            "networks": [known[name] for name in sorted(known)],
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
