"""How far networks lowered to ONNX Runtime are from their simulation, in quantization steps, site by site.

    python benchmarks/agreement.py
    python benchmarks/agreement.py lenet5 resnet20
    python benchmarks/agreement.py --states static char-lstm char-gru seq2seq-lstm seq2seq-gru

Each network of the zoo, with initial weights from seed 0 in evaluation mode, is put on 8 bits by quantize.post_training
with default settings, calibrated on a few random inputs, and compared on its example (gossamer.targets.agreements). A
value on a grid counts the steps of that grid between the codes which integer products read and those of the
simulation, a recurrent layer and the outputs of the network steps of 8 bits over their range: once where the layers
before read what they read in the simulation, and once, as "carried", where the lowered network runs by itself. Results
go to benchmarks/results/agreement.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from provenance import commit, machine
from torch import Tensor

from gossamer import zoo
from gossamer.calibrate import calibrate
from gossamer.errors import TargetError
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze
from gossamer.targets import agreements, lower_frozen
from gossamer.targets.convert import graph_of

RESULT = Path(__file__).resolve().parent / "results" / "agreement.json"
NOTE = (
    "8 bits by `quantize.post_training`, initial weights, one input, in quantization steps. `steps` and `differing`: "
    "the worst input or output on a grid, where all before read what they read in the simulation; `carried`: the "
    "same where the lowered network runs by itself and differences add up; `recurrent steps`: outputs of recurrent "
    "layers, which quantize their inputs as they come and are not simulated, in steps of 8 bits over their range; "
    "`output steps`: outputs of the network in such steps. Beyond one step are only such layers and what reads them. "
    "With static states (`--states static`), inputs and hidden states of recurrent layers are on grids too and "
    "compared code by code."
)
LARGEST = 30_000_000
"""Networks with more parameters are left out unless they are named."""


def another(value: Tensor) -> Tensor:
    """Return a random input of the same kind: normal numbers, or the tokens in another order."""
    if value.is_floating_point():
        return torch.randn_like(value)
    return value.flatten()[torch.randperm(value.numel())].view(value.shape)


def label(name: str, states: str) -> str:
    """Return what the row of a network is called."""
    return name if states == "dynamic" else f"{name}, static states"


def one(name: str, samples: int, states: str) -> dict[str, Any]:
    """Return what is recorded of one network."""
    started = time.monotonic()
    torch.manual_seed(0)
    model, args = zoo.build(name).eval(), zoo.example(name)
    subject, method = Subject.of(model, *args), PostTraining(states=states)
    given = [(tuple(another(part) for part in args), {}, None) for _ in range(samples)]
    live = apply(subject, method.plan(subject, calibrate(subject, given, method.needs)))
    frozen = freeze(live)
    lowered = lower_frozen(frozen, graph_of(frozen, args))
    row: dict[str, Any] = {"network": label(name, states), "commit": commit()}
    try:
        found = agreements(live, lowered, args)
    except TargetError as error:
        return row | {"failed": error.message}
    inputs = [one for one in found if one.compared != "output"]
    layers = [one for one in found if one.compared == "output" and one.site != "outputs"]
    return row | {
        "sites": len(subject.sites),
        "integer": len(lowered.integer),
        "compared": len(inputs),
        "steps": max((one.steps for one in inputs), default=0.0),
        "differing": max((one.differing for one in inputs), default=0.0),
        "carried": max((one.carried for one in inputs), default=0.0),
        "recurrent_steps": max((one.steps for one in layers), default=None),
        "output_steps": found[-1].steps,
        "output_carried": found[-1].carried,
        "beyond_1_step": ", ".join(f"{one.site} {one.steps:.2g}" for one in found if one.steps > 1),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Compare the networks named, or all that are not too large."""
    parser = argparse.ArgumentParser(description="Lowered networks beside their simulation, in quantization steps.")
    parser.add_argument("networks", nargs="*", choices=[*zoo.names(), []], default=[])
    parser.add_argument("--samples", type=int, default=8, help="random inputs to calibrate on")
    parser.add_argument("--states", choices=("dynamic", "static"), default="dynamic", help="of recurrent layers")
    given = parser.parse_args()
    small = [name for name in zoo.names() if zoo.network(name).parameters <= LARGEST]
    known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
    rows = {row["network"]: row for row in known}
    for name in given.networks or small:
        row = rows[label(name, given.states)] = one(name, given.samples, given.states)
        record = {
            "title": "Lowered networks beside their simulation",
            "note": NOTE,
            "command": f"python benchmarks/agreement.py --samples {given.samples}",
            "seed": 0,
            "machine": machine(),
            "networks": [
                rows[each]
                for every in zoo.names()
                for each in (label(every, states) for states in ("dynamic", "static"))
                if each in rows
            ],
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
