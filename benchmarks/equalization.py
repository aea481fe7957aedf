"""Per-tensor 8-bit quantization of a depthwise network, before and after equalization (Nagel et al., ICCV 2019).

    python benchmarks/equalization.py

The trained mobilenetv2-small, with batch norms folded, is put on 8 bits with one scale per weight tensor and min-max
ranges: as it was trained, and as a copy in which channels of layers in a row are scaled against each other by factors
of 1/16 to 16 (the same function in floating point, and what training is free to end in; published MobileNets do). Each
is measured without further ado and after quantize.equalize with quantize.bias_correction (the recipe int8-equalized
with min-max ranges). Seeds pick the factors and the 300 samples of calibration; figures are of the test split, in
points of accuracy. Results go to benchmarks/results/equalization.json.
"""

import argparse
import json
from statistics import fmean
from typing import Any

import torch
from provenance import ROOT, commit, machine
from torch import Tensor

from gossamer import datasets, zoo
from gossamer.calibrate import calibrate
from gossamer.methods.quantize import BiasCorrection, Equalize, PostTraining
from gossamer.methods.quantize.chains import find_pairs
from gossamer.model import Plan, Subject, apply
from gossamer.task import Task, evaluate

NETWORK = "mobilenetv2-small"
RESULTS = ROOT / "benchmarks" / "results" / "equalization.json"
BARS = {"loss without, at least": 5.0, "loss after, at most": 1.0}
GRIDS = PostTraining(weight_scales="tensor", weight_range="minmax", input_range="minmax")


def scaled(subject: Subject, seed: int) -> Subject:
    """Return the same function with channels of layers in a row scaled against each other."""
    drawn = torch.Generator().manual_seed(seed)
    modules = {
        site.owners[0].module: subject.model.get_submodule(site.owners[0].module) for site in subject.sites.values()
    }
    values: dict[str, Tensor] = {name: value.detach().clone() for name, value in subject.model.named_parameters()}
    for pair in find_pairs(subject, modules):
        weight = values[f"{pair.first}.weight"]
        factor = 2 ** (8 * torch.rand(len(weight), generator=drawn) - 4)
        weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)))
        values[f"{pair.first}.bias"].mul_(factor)
        after = values[f"{pair.second}.weight"]
        spread = factor.repeat_interleave(pair.spread)
        depthwise = getattr(modules[pair.second], "groups", 1) > 1
        shape = (-1, *[1] * (after.ndim - 1)) if depthwise else (1, -1, *[1] * (after.ndim - 2))
        after.div_(spread.reshape(shape))
    return apply(subject, Plan("scaled", tensors=values))


def quantized(subject: Subject, task: Task, seed: int, *, repaired: bool) -> Subject:
    """Return ``subject`` on 8 bits with one scale per tensor, equalized and bias-corrected if ``repaired``."""

    def step(now: Subject, method: Any) -> Subject:
        samples = task.batches("train", samples=300, generator=torch.Generator().manual_seed(seed))
        evidence = calibrate(now, samples, method.needs) if method.needs else None
        return apply(now, method.plan(now, evidence))

    methods = [Equalize(), GRIDS, BiasCorrection()] if repaired else [GRIDS]
    for method in methods:
        subject = step(subject, method)
    return subject


def one(seed: int, task: Task) -> list[dict[str, Any]]:
    """Return the rows of one seed."""
    trained = Subject.of(zoo.build(NETWORK, pretrained=True).eval(), *task.example[0], **task.example[1])
    folded = apply(trained, Equalize(scale=False, absorb=False).plan(trained))
    unclipped = apply(trained, Equalize().plan(trained))
    rows = []
    for name, subject in (("as trained", folded), ("channels scaled", scaled(unclipped, seed))):
        row: dict[str, Any] = {"network": name, "seed": seed}
        row["float"] = evaluate(subject, task, "test")["accuracy"]
        for key, repaired in (("minmax", False), ("equalized", True)):
            after = evaluate(quantized(subject, task, seed, repaired=repaired), task, "test")["accuracy"]
            row[key] = {"accuracy": after, "lost_points": 100 * (row["float"] - after)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Measure all seeds and write the result."""
    parser = argparse.ArgumentParser(description="Per-tensor quantization before and after equalization.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = datasets.load(str(zoo.network(NETWORK).data))
    rows = [row for seed in given.seeds for row in one(seed, task)]
    lost = {
        name: {
            key: fmean(row[key]["lost_points"] for row in rows if row["network"] == name)
            for key in ("minmax", "equalized")
        }
        for name in dict.fromkeys(row["network"] for row in rows)
    }
    kept = {"command": "python benchmarks/equalization.py", "commit": commit(), "machine": machine(), "bars": BARS}
    RESULTS.write_text(json.dumps({**kept, "lost_points": lost, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
