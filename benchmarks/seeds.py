"""A recipe run on a reference network over several seeds: what is recorded of it, and how it goes on when stopped."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from provenance import ROOT, commit, machine

from gossamer import artifact, compress, datasets, zoo
from gossamer.artifact.activations import module_of
from gossamer.recipe import Recipe
from gossamer.report import Report, summary
from gossamer.targets import Runner, fill
from gossamer.targets.export import export
from gossamer.task import Task, evaluate

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        script: of benchmarks/, and the first part of the result's name.
        name: what the command line calls it.
        network: a trained network of the zoo that has a data set.
        recipe: what is done to it.
    """

    script: str
    name: str
    network: str
    recipe: Recipe

    @property
    def title(self) -> str:
        """The name of the result's file and of the folder of the journals."""
        return f"{self.script}_{self.name}"

    @property
    def fingerprint(self) -> str:
        """What identifies the run: its recipe and the bytes of the reference weights it starts from."""
        weights = (ROOT / "src" / "gossamer" / "zoo" / "weights" / f"{self.network}.safetensors").read_bytes()
        return hashlib.sha256(self.recipe.to_toml().encode() + weights).hexdigest()[:16]


def main(about: str, cases: Mapping[str, Case]) -> None:
    """Run the cases named on the command line, one after another."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("cases", nargs="+", choices=sorted(cases))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs", help="for journals")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.cases:
        run(cases[name], given.seeds, given.folder)


def run(case: Case, seeds: list[int], folder: Path) -> None:
    """Run every seed that is not recorded yet and write the result anew after each."""
    path = RESULTS / f"{case.title}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    same = known.get("run_sha256") == case.fingerprint
    done = {row["seed"]: row for row in known.get("seeds", [])} if same else {}
    place = folder / f"{case.title}-{case.fingerprint}"
    place.mkdir(parents=True, exist_ok=True)
    task = datasets.load(str(zoo.network(case.network).data))
    for seed in seeds:
        if seed not in done:
            done[seed] = _one_seed(case, task, seed, place)
        file = _file(case, seed, place)
        if file.exists() and "on_runtime" not in done[seed]:
            done[seed]["on_runtime"] = _on_runtime(file, case, task)
        RESULTS.mkdir(exist_ok=True)
        record = _record(case, task.main, seeds, [done[key] for key in sorted(done)])
        path.write_text(json.dumps(record, indent=2) + "\n")


def _one_seed(case: Case, task: Task, seed: int, folder: Path) -> dict[str, Any]:
    model = zoo.build(case.network, pretrained=True)
    out = _file(case, seed, folder)
    result = compress(model, task, case.recipe, out=out, seed=seed, report=True, progress=sys.stderr.isatty())
    print(f"{case.title}, seed {seed}: {summary(result.report)}", flush=True)
    origin = {"commit": commit(), "machine": machine(), "threads": torch.get_num_threads()}
    return {"seed": seed, "file_bytes": result.path.stat().st_size, **_figures(result.report), **origin}


def _file(case: Case, seed: int, folder: Path) -> Path:
    return folder / f"{case.network}-{seed}.goss"


def _on_runtime(file: Path, case: Case, task: Task) -> dict[str, float] | None:
    """Return what ONNX Runtime makes of the test split with a file that has grids of inputs and no edits, or None."""
    held = artifact.load(file)
    if not held.activations or held.edits:
        return None
    marks = [path for name in held.activations if (path := module_of(name)) is not None]
    graph = export(zoo.build(case.network), zoo.example(case.network), marks=marks)
    tensors = {**held.tensors, **{name: held.tensors[same] for name, same in held.aliases.items()}}
    lowered = fill(graph, tensors, held.activations, quantized=True)
    return {**evaluate(Runner(lowered.proto), task, "test"), "integer_sites": len(lowered.integer)}


def _figures(report: Report) -> dict[str, Any]:
    macs = (report.start.macs, report.end.macs)
    return {
        "ratio": report.ratio,
        "test_before": {name: figure.value for name, figure in report.test_before.items()},
        "test_after": {name: figure.value for name, figure in report.test_after.items()},
        "validation_before": report.start.metrics[report.metric].value,
        "validation_after": report.end.metrics[report.metric].value,
        "macs_left": macs[1].value / macs[0].value if macs[0] and macs[1] else None,
        "zeros": 1 - _kept(report) / _weights(report),
        "density": {site.site: site.density.value for site in report.end.sites},
        "bits_per_weight": {site.site: site.bits.value for site in report.end.sites},
        "seconds": sum(step.seconds.value for step in report.steps if step.seconds is not None),
    }


def _weights(report: Report) -> float:
    return sum(_count(site.shape) for site in report.end.sites)


def _kept(report: Report) -> float:
    return sum(float(site.density.value) * _count(site.shape) for site in report.end.sites)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _record(case: Case, main: str, seeds: list[int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    dense = 4 * zoo.network(case.network).parameters

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    before, after = ([row[f"test_{when}"][main] for row in rows] for when in ("before", "after"))
    macs = [row["macs_left"] for row in rows if row.get("macs_left") is not None]
    run = [row["on_runtime"][main] for row in rows if row.get("on_runtime")]
    return {
        "network": case.network,
        "recipe": case.recipe.name,
        "run_sha256": case.fingerprint,
        "command": f"python benchmarks/{case.script}.py {case.name} --seeds {' '.join(map(str, seeds))}",
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "dense_bytes": dense,
        "metric": main,
        "mean": {
            "file_bytes": mean([row["file_bytes"] for row in rows]),
            "ratio": mean([dense / row["file_bytes"] for row in rows]),
            "zeros": mean([row["zeros"] for row in rows if "zeros" in row]) if "zeros" in rows[-1] else None,
            "macs_left": mean(macs) if macs else None,
            "test_before": mean(before),
            "test_after": mean(after),
            "test_change": mean(after) - mean(before),
            "test_on_runtime": mean(run) if len(run) == len(rows) else None,
        },
        "seeds": rows,
    }
