"""Quantize the reference networks to 8 bits and compare them with their fp32 form on ONNX Runtime.

    python benchmarks/int8.py lenet5 lenet300

For each network: starts from the committed reference weights, calibrates on samples of the training set, and records in
benchmarks/results/int8.json the commit, machine, seed, command, the bytes of both ONNX files and of the artifacts, the
figures on test data as ONNX Runtime computes them, which operator multiplies each site, latency in fresh processes
taking turns, peak memory, and modelled energy.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from provenance import commit, machine

from gossamer import artifact, datasets, zoo
from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.targets import (
    OnnxRuntime,
    Runner,
    Timing,
    arrays_of,
    compare,
    frozen_graph,
    lower_artifact,
    not_integer,
    operators_of,
    read_cpu,
    to_onnx,
)
from gossamer.task import evaluate

RESULTS = Path(__file__).resolve().parent / "results" / "int8.json"


def one(network: str, method: PostTraining, seed: int, samples: int, timing: Timing) -> dict[str, Any]:
    """Return what is recorded of one network."""
    entry = zoo.network(network)
    if entry.data is None:
        raise SystemExit(f"{network} has no data set")
    task = datasets.load(entry.data)
    model = zoo.build(network, pretrained=True).eval()
    args, kwargs = task.example
    subject = Subject.of(model, *args, **kwargs)
    picked = torch.Generator().manual_seed(seed)
    evidence = calibrate(subject, task.batches("train", samples=samples, generator=picked), method.needs)
    frozen = freeze(apply(subject, method.plan(subject, evidence)))
    stored = to_artifact(frozen, graph=frozen_graph(frozen, args, kwargs))
    float_graph = to_onnx(model, args, kwargs)
    lowered = lower_artifact(stored)
    inputs = arrays_of(float_graph, args, kwargs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = freeze(subject)
        artifact.save(folder / "fp32.goss", to_artifact(plain, graph=frozen_graph(plain, args, kwargs)))
        self_contained = artifact.save(folder / "int8.goss", stored)
        weights_only = artifact.save(folder / "weights.goss", to_artifact(frozen))
        measured = OnnxRuntime().measure({"fp32": folder / "fp32.goss", "int8": folder / "int8.goss"}, inputs, timing)
    figures = {
        "torch_fp32": evaluate(model, task, "test"),
        "onnx_fp32": evaluate(Runner(float_graph), task, "test"),
        "onnx_int8": evaluate(Runner(lowered.proto), task, "test"),
    }
    sizes = {"fp32": len(float_graph.SerializeToString()), "int8": len(lowered.proto.SerializeToString())}
    drop = figures["onnx_fp32"][task.main] - figures["onnx_int8"][task.main]
    return {
        "network": network,
        "metric": task.main,
        "test": figures,
        "drop_points": 100 * drop,
        "onnx_bytes": sizes,
        "onnx_ratio": sizes["int8"] / sizes["fp32"],
        "artifact_bytes": {"weights_only": weights_only, "self_contained": self_contained},
        "fp32_difference_from_torch": compare(model, float_graph, args, kwargs),
        "operators": dict(operators_of(lowered.proto, frozen.grids)),
        "not_integer": [str(reason) for reason in (*lowered.reasons, *not_integer(lowered.proto, lowered.integer))],
        "weight_bits": {site: grid.bits for site, grid in frozen.grids.items()},
        "target": msgspec.to_builtins(measured),
        "latency_ratio": measured["fp32"].run.latency.median.value / measured["int8"].run.latency.median.value,
        "energy_ratio_computed": measured["fp32"].energy.total.value / measured["int8"].energy.total.value,
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "calibration_samples": samples,
        "method": msgspec.to_builtins(method),
    }


def main() -> None:
    """Quantize and measure the networks named on the command line."""
    parser = argparse.ArgumentParser(description="Post-training 8-bit quantization of the reference networks.")
    parser.add_argument("networks", nargs="+", choices=zoo.names())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cpu = read_cpu()
    print(f"{cpu.name}: {cpu.why}; weights of {cpu.weight_bits} bits")
    for network in given.networks:
        row = one(network, PostTraining(), given.seed, given.samples, Timing())
        options = f"--seed {given.seed} --samples {given.samples}"
        rows[network] = {**row, "command": f"python benchmarks/int8.py {network} {options}"}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        before, after = (row["test"][kind][row["metric"]] for kind in ("onnx_fp32", "onnx_int8"))
        print(f"{network}: {row['metric']} {before:.4f} -> {after:.4f}, ONNX file {row['onnx_ratio']:.3f} of fp32")


if __name__ == "__main__":
    main()
