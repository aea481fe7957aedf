"""Accuracy of 8-bit quantization without training on ONNX Runtime: Gossamer beside three peers, same calibration data.

    pip install nncf==3.4.0 torchao==0.18.0
    python benchmarks/quantization.py

Each starts from the committed reference weights and sees the same samples of the train split, without their labels,
with its default settings; the figures on the test split are read once, for the table. Seeds pick the samples.

- gossamer: quantize.post_training, lowered, as ONNX Runtime computes it.
- onnxruntime: quantize_static of the float graph after quant_pre_process; where there is a recurrent operator,
  quantize_dynamic, which is what its authors give for those.
- nncf: nncf.quantize of the same graph.
- torchao: PT2E with the quantizer of x86, computed by torch.

What a peer refuses is recorded with its error.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from provenance import ROOT, commit, machine
from torch import nn

from gossamer import datasets, zoo
from gossamer.calibrate import calibrate
from gossamer.methods.quantize import PostTraining
from gossamer.model import Subject, apply, freeze, to_artifact
from gossamer.targets import Runner, arrays_of, frozen_graph, lower_artifact, to_onnx
from gossamer.task import Batch, Task, evaluate

RESULTS = ROOT / "benchmarks" / "results" / "quantization.json"
NETWORKS = ("lenet300", "lenet5", "vgg-small", "resnet20", "mobilenetv2-small", "char-lstm", "char-gru")
SAMPLES = 300


class Case:
    """A network, its data and the samples that everybody sees."""

    def __init__(self, name: str, seed: int) -> None:
        self.task: Task = datasets.load(str(zoo.network(name).data))
        self.model = zoo.build(name, pretrained=True).eval()
        self.args, self.kwargs = self.task.example
        self.graph = to_onnx(self.model, self.args, self.kwargs)
        self.seed = seed

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Return the batches of calibration."""
        picked = torch.Generator().manual_seed(self.seed)
        return self.task.batches("train", batch_size=size, samples=SAMPLES, generator=picked)

    def arrays(self) -> list[dict[str, Any]]:
        """Return the inputs of the float graph, sample by sample."""
        return [arrays_of(self.graph, args, kwargs) for args, kwargs, _ in self.batches(1)]


def gossamer(case: Case) -> onnx.ModelProto:
    """Quantize with default settings."""
    subject, method = Subject.of(case.model, *case.args, **case.kwargs), PostTraining()
    evidence = calibrate(subject, case.batches(), method.needs)
    frozen = freeze(apply(subject, method.plan(subject, evidence)))
    stored = to_artifact(frozen, graph=frozen_graph(frozen, case.args, case.kwargs))
    return lower_artifact(stored).proto


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    def __init__(self, arrays: list[dict[str, Any]]) -> None:
        self.left = iter(arrays)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def onnxruntime(case: Case, *, best: bool = False) -> onnx.ModelProto:
    """Quantize with ONNX Runtime's own tools; ``best``: with a scale per channel and unsigned inputs."""
    recurrent = any(node.op_type in {"LSTM", "GRU", "RNN"} for node in case.graph.graph.node)
    with tempfile.TemporaryDirectory() as name:
        before, ready, after = (str(Path(name) / f"{stem}.onnx") for stem in ("before", "ready", "after"))
        onnx.save(case.graph, before)
        quantization.quant_pre_process(before, ready, skip_symbolic_shape=True)
        if recurrent:
            quantization.quantize_dynamic(ready, after, per_channel=best)
        else:
            kind = {"activation_type": quantization.QuantType.QUInt8} if best else {}
            quantization.quantize_static(ready, after, _Reader(case.arrays()), per_channel=best, **kind)
        return onnx.load(after)


def nncf(case: Case) -> onnx.ModelProto:
    """Quantize with NNCF."""
    import nncf as peer  # noqa: PLC0415 needed here only

    return peer.quantize(case.graph, peer.Dataset(case.arrays()), subset_size=SAMPLES)


class _Exported(nn.Module):
    """An exported module that bears to be asked for its evaluation mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.call: list[nn.Module] = [inner]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call[0](*args, **kwargs)


def torchao(case: Case) -> nn.Module:
    """Quantize with PT2E."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415 needed here only
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # noqa: PLC0415 needed here only

    args = next(case.batches(4))[0]
    dynamic = tuple({0: torch.export.Dim("batch", min=1)} for _ in args)
    exported = torch.export.export(case.model, args, dynamic_shapes=dynamic).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for args, kwargs, _ in case.batches(50):
            prepared(*args, **kwargs)
    return _Exported(convert_pt2e(prepared))


PEERS: dict[str, Callable[[Case], onnx.ModelProto | nn.Module]] = {
    "gossamer": gossamer,
    "onnxruntime": onnxruntime,
    "nncf": nncf,
    "torchao": torchao,
}


def one(name: str, seed: int, chosen: list[str]) -> dict[str, Any]:
    """Return the figures on the test split of each, and by how much they are worse."""
    case = Case(name, seed)
    before = evaluate(case.model, case.task, "test")
    row: dict[str, Any] = {"network": name, "seed": seed, "metric": case.task.main, "before": before[case.task.main]}
    for peer in chosen:
        try:
            made = PEERS[peer](case)
            after = evaluate(made if isinstance(made, nn.Module) else Runner(made), case.task, "test")
        except Exception as refused:
            if peer == "gossamer":  # whatever another raises is its answer
                raise
            row[peer] = {"refused": f"{type(refused).__name__}: {str(refused).splitlines()[0][:200]}"}
            continue
        row[peer] = {"after": after[case.task.main], "worse": case.task.worse(before, after)}
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return the mean loss of each on each network, None where it refused."""
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        found[name] = {
            peer: fmean(row[peer]["worse"] for row in mine) if all("worse" in row[peer] for row in mine) else None
            for peer in PEERS
            if all(peer in row for row in mine)
        }
    return found


def main() -> None:
    """Measure the networks named on the command line, or all; rows that are there for others stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 the peers draw from the old global generator
    rows = json.loads(given.output.read_text())["rows"] if given.output.exists() else []
    for name in given.networks:
        rows = [row for row in rows if row["network"] != name]
        for seed in given.seeds:
            row = one(name, seed, given.peers)
            rows.append({**row, "commit": commit(), "machine": machine()})
            print(json.dumps(row), flush=True)
            kept = {"command": "python benchmarks/quantization.py", "samples": SAMPLES, "worse": summary(rows)}
            given.output.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
