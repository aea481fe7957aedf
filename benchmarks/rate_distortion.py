"""Bytes of whole weights files after quantization without training: quantize.rate_distortion, NNCodec, int8 + zstd-19.

    pip install zstandard==0.25.0 pybind11 && pip install --no-deps nncodec==2.1.3
    python benchmarks/rate_distortion.py --seeds 0 1 2

Each starts from the committed reference weights and takes the fewest bytes at which no more is lost on the validation
split than is allowed: a quarter of a point of accuracy, expected from what the reference network believes
(`task.belief`; far less noisy than counting), or 0.018 bits a character. So the test split, which is read once, for the
figures, may be expected to lose less than half a point, or 0.02 bits, though it is harder.

- gossamer: the whole ``.goss`` file of the recipe ``rate-distortion``, its drop replaced; evidence from unlabelled
  inputs of the train split, at most 4,000, which the seed picks. Means over the seeds; the others draw nothing.
- nncodec: NNCodec 2.1.3 (ISO/IEC 15938-17) with dependent quantization and its own parameter optimisation, the whole
  bitstream of the state dict, every quantization parameter from -30 to -14. Of its package the parts that belong to
  sample data sets and training are replaced by empty modules.
- int8: one scale per output channel, and one stream of zstd-19 over all integers, scales and other tensors, without
  names and shapes. It costs next to no accuracy.
"""

import argparse
import contextlib
import copy
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import ROOT, commit, machine
from torch import nn

from gossamer import datasets, zoo
from gossamer.model import Subject
from gossamer.recipe import Gauge, Seek, find, run
from gossamer.task import Task, evaluate
from gossamer.task.belief import Beliefs

try:
    import zstandard
except ImportError as missing:
    raise SystemExit(f"{missing}; this benchmark needs the packages named in its docstring") from None

RESULTS = ROOT / "benchmarks" / "results" / "rate_distortion.json"
BAR = {"geometric_mean": 0.5, "most": 0.7}
PARAMETERS = range(-30, -13)


@dataclass(frozen=True)
class Allowed:
    """What the main metric may lose, and how many inputs calibration sees."""

    drop: float
    samples: int


CASES = {
    "lenet5": Allowed(0.0025, 4000),
    "lenet300": Allowed(0.0025, 4000),
    "vgg-small": Allowed(0.0025, 4000),
    "resnet20": Allowed(0.0025, 4000),
    "char-lstm": Allowed(0.018, 1500),
}


class _Nothing(types.ModuleType):
    """A module in which every name is another one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(f"{self.__name__}.{name}")


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds empty modules in place of what NNCodec imports and coding does not use."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002 the protocol
        parts = ("nncodec.framework.applications", "nncodec.framework.use_case_init")
        if fullname.startswith(parts) or fullname.partition(".")[0] in {"torchvision", "tensorflow", "wandb", "h5py"}:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def ours(name: str, allowed: Allowed, seed: int, folder: Path) -> dict[str, Any]:
    """Run the built-in recipe with the drop that is allowed."""
    began = time.process_time()
    built_in = find("rate-distortion")
    *before_it, last = built_in.steps
    recipe = replace(built_in, steps=(*before_it, replace(last, seek=Seek(drop=allowed.drop, trials=last.seek.trials))))
    task = datasets.load(str(zoo.network(name).data))
    args, kwargs = task.example
    subject = Subject.of(zoo.build(name, pretrained=True).eval(), *args, **kwargs)
    end = run(recipe, subject, task, folder / str(seed), gauge=Gauge(graph=False), samples=allowed.samples, seed=seed)
    report = end.report
    before, after = (
        {name: found.value for name, found in state.metrics.items()} for state in (report.start, report.end)
    )
    tested = [
        {name: found.value for name, found in (read or {}).items()} for read in (report.test_before, report.test_after)
    ]
    return {
        "seed": seed,
        "bytes": end.file.stat().st_size,
        "setting": report.steps[-1].name,
        "validation_drop": task.worse(before, after),
        "test_drop": task.worse(*tested),
        "cpu_seconds": time.process_time() - began,
    }


def over(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over some runs, and the runs."""
    means = {key: float(np.mean([run[key] for run in runs])) for key in ("bytes", "validation_drop", "test_drop")}
    return means | {"runs": runs}


def nncodec(model: nn.Module, task: Task, allowed: Allowed, folder: Path) -> dict[str, Any]:
    """Encode at every quantization parameter and take the smallest that is good enough."""
    from nncodec import nn as codec

    began = time.process_time()
    before, beliefs = evaluate(model, task), Beliefs.of(model, task)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    best: dict[str, Any] = {}
    chosen = model
    for qp in PARAMETERS:
        settings = {"qp": qp, "use_dq": True, "results": str(folder), "verbose": False}
        with contextlib.redirect_stdout(io.StringIO()):
            data = codec.encode(dict(state), settings)
            decoded = codec.decode(data)
        trial = copy.deepcopy(model)
        values = {name: torch.tensor(np.asarray(found)).reshape(state[name].shape) for name, found in decoded.items()}
        trial.load_state_dict(values, strict=False)
        drop = task.worse(before, evaluate(trial, task))
        lost = drop if beliefs is None else beliefs.own - beliefs.accuracy(trial)
        if lost <= allowed.drop and len(data) < best.get("bytes", sys.maxsize):
            best, chosen = {"bytes": len(data), "setting": f"qp {qp}", "validation_drop": drop}, trial
    if not best:
        raise SystemExit(f"no quantization parameter of {PARAMETERS} loses as little as {allowed.drop}")
    best["test_drop"] = task.worse(evaluate(model, task, "test"), evaluate(chosen, task, "test"))
    return best | {"cpu_seconds": time.process_time() - began}


def int8(model: nn.Module, task: Task) -> dict[str, Any]:
    """Round every tensor of two or more dimensions to 8 bits a channel."""
    small, parts = copy.deepcopy(model), []
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim < 2:
            parts.append(tensor.numpy().tobytes())
            continue
        scale = tensor.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        shaped = scale.view(-1, *[1] * (tensor.ndim - 1))
        codes = (tensor / shaped).round()
        parts += [codes.to(torch.int8).numpy().tobytes(), scale.numpy().tobytes()]
        small.state_dict()[name].copy_(codes * shaped)
    drops = {
        f"{split}_drop": task.worse(evaluate(model, task, split), evaluate(small, task, split))
        for split in ("validation", "test")
    }
    return {"bytes": len(zstandard.ZstdCompressor(19).compress(b"".join(parts))), **drops}


def rows(names: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the figures of each network."""
    for name in names:
        task = datasets.load(str(zoo.network(name).data))
        model = zoo.build(name, pretrained=True).eval()
        with tempfile.TemporaryDirectory() as folder:
            found = {
                "gossamer": over([ours(name, CASES[name], seed, Path(folder)) for seed in seeds]),
                "nncodec": nncodec(model, task, CASES[name], Path(folder)),
                "int8_zstd19": int8(model, task),
            }
        size = found["gossamer"]["bytes"]
        yield {
            "network": name,
            "commit": commit(),
            "dense_bytes": 4 * sum(parameter.numel() for parameter in model.parameters()),
            "allowed_drop": CASES[name].drop,
            **found,
            "of_nncodec": size / found["nncodec"]["bytes"],
            "of_int8": size / found["int8_zstd19"]["bytes"],
        }


def main() -> None:
    """Measure the networks named on the command line, or all, and write the results anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    sys.meta_path.insert(0, _Absent())
    torch.set_num_threads(1)
    old = json.loads(given.output.read_text()) if given.output.exists() and given.networks else {}
    done = [row for row in old.get("networks", []) if row["network"] not in given.networks]
    for row in rows(given.networks or list(CASES), given.seeds):
        done.append(row)
        print(json.dumps(row), flush=True)
        ratios = np.array([one["of_nncodec"] for one in done])
        results = {
            "note": "Bytes of whole weights files; `of_nncodec` is Gossamer's over NNCodec's.",
            "command": " ".join(["python", "benchmarks/rate_distortion.py", "--seeds", *map(str, given.seeds)]),
            "machine": machine(),
            "load_average": os.getloadavg(),
            "peers": {name: version(name) for name in ("zstandard", "nncodec")},
            "bar": BAR,
            "geometric_mean": float(np.exp(np.log(ratios).mean())),
            "most": float(ratios.max()),
            "networks": sorted(done, key=lambda one: list(CASES).index(one["network"])),
        }
        given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"geometric mean {results['geometric_mean']:.3f}, most {results['most']:.3f}")


if __name__ == "__main__":
    main()
