"""Forms of recurrent layers in integers on ONNX Runtime: a loop of integer products, or the same written step by step.

    python benchmarks/recurrent_forms.py
    python benchmarks/recurrent_forms.py gru --units 650

Two layers over 32 steps, batch 1, with initial weights. Each form lives in a fresh process and they take turns
(gossamer.targets.measure), beside the operator in floating point:

- dynamic: what ``states="dynamic"`` is lowered to, inputs and states quantized as they come; of an LSTM the operator
  ``DynamicQuantizeLSTM``, of the others a ``Scan``.
- static: what ``states="static"`` is lowered to, a ``Scan`` whose states are on grids from calibration.
- unrolled: the loop of either without ``Scan``, its body repeated for every step.

The target takes a loop and no unrolled cell where that is not slower, since a loop takes any number of steps; and it
leaves layers too small to earn back the fixed cost of an integer operator in floating point (`gossamer.targets.dynamic`
holds the sizes), which is set aside here. Results go to benchmarks/results/recurrent_forms.json.
"""

import argparse
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from provenance import ROOT, commit, machine
from torch import nn

from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze
from gossamer.targets import Timing, arrays_of, dynamic, graph_of, lower_frozen, measure, to_onnx

RESULT = ROOT / "benchmarks" / "results" / "recurrent_forms.json"
STEPS = 32
KINDS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
UNITS = (128, 256, 650)


class Layers(nn.Module):
    """Two recurrent layers; (1, time, units) in, all outputs out."""

    def __init__(self, kind: str, units: int) -> None:
        super().__init__()
        self.layers = KINDS[kind](units, units, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        """Return the outputs of all steps."""
        return self.layers(x)[0]


def unrolled(looped: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return ``looped`` with the body of each ``Scan`` once for every step, None if there is no ``Scan``."""
    proto = onnx.ModelProto()
    proto.CopyFrom(looped)
    nodes = list(proto.graph.node)
    if all(node.op_type != "Scan" for node in nodes):
        return None
    del proto.graph.node[:]
    for node in nodes:
        proto.graph.node.extend(_steps(proto.graph, node) if node.op_type == "Scan" else [node])
    return proto


def _steps(graph: onnx.GraphProto, scan: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    given = {each.name: helper.get_attribute_value(each) for each in scan.attribute}
    body, scanned = given["body"], given["num_scan_inputs"]
    held = len(scan.input) - scanned
    order = range(STEPS)[::-1] if any(given.get("scan_input_directions", [])) else range(STEPS)
    states, rows = list(scan.input[:held]), dict.fromkeys(range(STEPS), "")
    for step in order:
        at = f"{scan.output[0]}:at{step}"
        graph.initializer.append(numpy_helper.from_array(np.array(step, np.int64), at))
        known = dict(zip((each.name for each in body.input), states, strict=False))
        for name, whole in zip([each.name for each in body.input[held:]], scan.input[held:], strict=True):
            known[name] = f"{name}:{step}"
            yield helper.make_node("Gather", [whole, at], [known[name]], axis=0)
        for inner in body.node:
            known |= {name: f"{name}:{step}" for name in inner.output}
            copied = onnx.NodeProto()
            copied.CopyFrom(inner)
            copied.input[:] = [known.get(name, name) for name in inner.input]
            copied.output[:] = [known[name] for name in inner.output]
            yield copied
        made = [known[each.name] for each in body.output]
        states, rows[step] = made[:held], made[held]
    axis = f"{scan.output[0]}:axis"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axis))
    for row in rows.values():
        yield helper.make_node("Unsqueeze", [row, axis], [f"{row}:tall"])
    yield helper.make_node("Concat", [f"{row}:tall" for row in rows.values()], [scan.output[held]], axis=0)
    for state, name in zip(states, scan.output[:held], strict=True):
        yield helper.make_node("Identity", [state], [name])


def one(kind: str, units: int, timing: Timing) -> dict[str, Any]:
    """Return the milliseconds of each form."""
    torch.manual_seed(0)
    model, x = Layers(kind, units).eval(), torch.randn(1, STEPS, units)
    graphs = {"float": to_onnx(model, (x,))}
    subject = Subject.of(model, x)
    for states in ("dynamic", "static"):
        method = PostTraining(states=states)
        evidence = calibrate(subject, [((x,), {}, None)], method.needs)
        frozen = freeze(apply(subject, method.plan(subject, evidence)))
        looped = lower_frozen(frozen, graph_of(frozen, (x,))).proto
        flat = unrolled(looped)
        graphs |= {states: looped} | ({f"{states}, unrolled": flat} if flat else {})
    found = measure(graphs, arrays_of(graphs["float"], (x,), {}), timing)
    times = {form: 1e3 * float(run.latency.median.value) for form, run in found.items()}
    return {"kind": kind, "units": units, "ms": times, "load": os.getloadavg()[1], "commit": commit()}


def main() -> None:
    """Measure the kinds named, or all; rows that are there for others stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[])
    parser.add_argument("--units", nargs="+", type=int, default=list(UNITS))
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    dynamic.LEAST = dict.fromkeys(dynamic.LEAST, 1)
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    for kind in given.kinds or KINDS:
        for units in given.units:
            row = one(kind, units, Timing(threads=given.threads, warmup=3, rounds=6, runs=20))
            rows = [old for old in rows if (old["kind"], old["units"]) != (kind, units)] + [row]
            print(json.dumps(row), flush=True)
            record = {
                "title": "Forms of recurrent layers in integers",
                "command": f"python benchmarks/recurrent_forms.py --threads {given.threads}",
                "seed": 0,
                "threads": given.threads,
                "machine": machine(),
                "rows": rows,
            }
            RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
