"""Speed of 8-bit networks on ONNX Runtime beside fp32 and beside the runtime's own quantizer: batch 1, two threads.

    python benchmarks/speed_int8.py
    python benchmarks/speed_int8.py lstm gru --repeats 5
    python benchmarks/speed_int8.py zoo

Three graphs of each network live in fresh processes that take turns (gossamer.targets.measure): fp32, ours after
quantize.post_training with default settings, and what onnxruntime.quantization makes of the fp32 graph (quantize_static
per channel for the convolutional networks, quantize_dynamic for the recurrent ones). This is repeated with new
processes; each repeat gives a ratio of medians, and the ratio that counts is the median of those. Weights are initial
and inputs random: this is about time, not accuracy. Some networks have bars, and so has the first fully connected layer
of the VGG-16 by itself, in 8 bits (``fc``) and with weights of 8 and 4 in groups of 128, as the runtime's own tool has
(``fc-8bit``, ``fc-4bit``).
With ``zoo``, or by name, those of the zoo are measured too, where ours should not be slower than fp32; where it is,
``gossamer export`` measures so and writes floats (``writes``). Results go to benchmarks/results/speed_int8.json.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from agreement import another
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from provenance import commit, machine
from torch import nn

from gossamer import zoo
from gossamer.calibrate import calibrate
from gossamer.figure import measured
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze
from gossamer.targets import (
    Timing,
    arrays_of,
    graph_of,
    lower_frozen,
    measure,
    not_integer,
    operators_of,
    read_cpu,
    to_onnx,
)
from gossamer.targets.choice import Choice

RESULT = Path(__file__).resolve().parent / "results" / "speed_int8.json"
BARS = {"resnet50": 1.9, "vgg16": 1.8, "lstm": 2.4, "gru": 1.2, "fc": 3.8, "fc-8bit": 3.8, "fc-4bit": 5.0}
"""How many times as fast as fp32 ours should be."""
RUNS = {"resnet50": 8, "vgg16": 4, "vgg16-bn": 4, "vgg19": 4, "vgg19-bn": 4, "resnet152": 4, "unet": 4}
"""Runs in one turn; of the recurrent networks more."""


class Sequences(nn.Module):
    """Two recurrent layers of 650 units over 32 steps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind.upper())(650, 650, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        """Return the outputs of all steps for (batch, time, 650)."""
        return self.rnn(x)[0]


class _Reader(CalibrationDataReader):
    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches: Iterator[dict[str, Any]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


ZOO = tuple(name for name in zoo.names() if name not in BARS)
METHODS = {f"fc-{bits}bit": PostTraining(weight_bits=bits, weight_scales=128, inputs=False) for bits in (4, 8)}
"""What is measured with other than default settings."""


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return a network with initial weights and one input."""
    torch.manual_seed(0)
    if name in {"lstm", "gru"}:
        return Sequences(name).eval(), (torch.randn(1, 32, 650),)
    if name.startswith("fc"):
        one = (1,) if name == "fc" else (1, 1)  # the runtime's own tool for 4 bits takes MatMul and no Gemm
        return nn.Linear(25088, 4096).eval(), (torch.randn(*one, 25088),)
    return zoo.build(name, pretrained=None).eval(), tuple(zoo.example(name))


def peer(name: str, plain: onnx.ModelProto, batches: list[dict[str, Any]]) -> onnx.ModelProto:
    """Return what the runtime's own quantizer makes of ``plain``."""
    with tempfile.TemporaryDirectory() as folder:
        source, ready, made = (Path(folder) / f"{stem}.onnx" for stem in ("source", "ready", "made"))
        onnx.save(plain, source)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        if name in METHODS:
            bits = METHODS[name].weight_bits
            blocks = MatMulNBitsQuantizer(onnx.load(ready), bits, 128, is_symmetric=True, accuracy_level=4)
            blocks.process()
            return blocks.model.model
        if any(node.op_type in {"LSTM", "GRU", "RNN"} for node in plain.graph.node):
            quantize_dynamic(ready, made, per_channel=True, weight_type=QuantType.QInt8)
        else:
            quantize_static(
                *(ready, made, _Reader(batches)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=read_cpu().saturates,
            )
        return onnx.load(made)


def one(name: str, repeats: int, threads: int, samples: int) -> dict[str, Any]:
    """Return what is recorded of one network."""
    model, args = network(name)
    subject = Subject.of(model, *args)
    given = [tuple(another(part) for part in args) for _ in range(samples)]
    plain = to_onnx(model, args)
    method = METHODS.get(name, PostTraining())
    evidence = calibrate(subject, [(each, {}, None) for each in given], method.needs)
    frozen = freeze(apply(subject, method.plan(subject, evidence)))
    lowered = lower_frozen(frozen, graph_of(frozen, args))
    graphs = {"fp32": plain, "ours": lowered.proto}
    why = None
    try:
        graphs["peer"] = peer(name, plain, [arrays_of(plain, each, {}) for each in given])
    except Exception as error:  # noqa: BLE001  # whatever the peer raises is its answer
        why = str(error).splitlines()[0][:200]
    timing = Timing(threads=threads, warmup=3, rounds=6, runs=RUNS.get(name, 15))
    inputs = arrays_of(plain, args, {})
    found = [
        {label: run.latency.median.value for label, run in measure(graphs, inputs, timing).items()}
        for _ in range(repeats)
    ]
    medians = {label: statistics.median(run[label] for run in found) for label in graphs}
    choice = Choice(measured(medians["ours"], "s"), measured(medians["fp32"], "s"))
    sizes = {label: len(graph.SerializeToString()) for label, graph in graphs.items()}
    ratios = {label: [run["fp32"] / run[label] for run in found] for label in graphs}
    return {
        "network": name,
        "bar": BARS.get(name, 1.0),
        "ratio": statistics.median(ratios["ours"]),
        "ratio_least": min(ratios["ours"]),
        "ratio_most": max(ratios["ours"]),
        "peer_ratio": statistics.median(ratios["peer"]) if "peer" in ratios else None,
        "peer_failed": why,
        **{f"{label}_ms": 1e3 * taken for label, taken in medians.items()},
        "writes": "floats" if choice.for_floats else "integers",
        "weight_bits": read_cpu().weight_bits,
        "onnx_bytes": sizes,
        "onnx_ratio": sizes["ours"] / sizes["fp32"],
        "operators": sorted(set(operators_of(lowered.proto, lowered.integer).values())),
        "float": [str(reason) for reason in (*lowered.reasons, *not_integer(lowered.proto, lowered.integer))],
        "load": os.getloadavg()[1],
        "commit": commit(),
        "runs": found,
    }


def main() -> None:
    """Quantize and measure the networks named, or all."""
    parser = argparse.ArgumentParser(description="Speed of 8-bit networks on ONNX Runtime.")
    parser.add_argument("networks", nargs="*", choices=[*BARS, *ZOO, "zoo", []], default=[])
    parser.add_argument("--repeats", type=int, default=3, help="times that fresh processes are measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=8, help="random inputs to calibrate on")
    given = parser.parse_args()
    np.random.seed(0)  # noqa: NPY002  # what the runtime's quantizer may draw from
    known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
    rows = {row["network"]: row for row in known}
    chosen = given.networks or list(BARS)
    for name in ZOO if "zoo" in chosen else chosen:
        row = one(name, given.repeats, given.threads, given.samples)
        rows[name] = row
        record = {
            "title": "Speed of 8-bit networks",
            "command": f"python benchmarks/speed_int8.py --repeats {given.repeats} --threads {given.threads}",
            "seed": 0,
            "threads": given.threads,
            "machine": machine(),
            "networks": [rows[each] for each in (*BARS, *ZOO) if each in rows],
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
        beside = "none" if row["peer_ratio"] is None else f"{row['peer_ratio']:.2f}"
        print(
            f"{name}: {row['ratio']:.2f} times as fast ({row['ratio_least']:.2f} to {row['ratio_most']:.2f}), "
            f"the runtime's own {beside}, file {row['onnx_ratio']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
