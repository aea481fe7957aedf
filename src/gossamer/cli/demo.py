"""``gossamer demo``: the whole way on real data that come with the package, checked at the end."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.boundary import FAILED_CHECK
from gossamer.cli.options import Json
from gossamer.cli.output import count_bytes, print_json, progress, stderr, stdout
from gossamer.cli.places import writable

if TYPE_CHECKING:
    from torch import nn

    from gossamer.pipeline import Result
    from gossamer.task import Task

NETWORK = "mlp-digits"
RECIPE = "deep-compression-small"
TOLERANCE = 1e-4
"""Largest difference allowed between an output of torch and of ONNX Runtime."""


def demo(
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.goss", help="Keep the file, and the run beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go the whole way on real data.

    A small network for handwritten digits is trained (or comes trained), compressed, checked and run: about a minute.
    """
    if output is not None:
        writable(output, suffixes=[".goss"])
        checks = _whole_way(output, as_json=as_json)
    else:
        with tempfile.TemporaryDirectory() as folder:
            checks = _whole_way(Path(folder) / "digits.goss", as_json=as_json)
    if not all(checks.values()):
        raise typer.Exit(FAILED_CHECK)


def _whole_way(path: Path, *, as_json: bool) -> dict[str, bool]:
    import torch

    import gossamer
    from gossamer.datasets import load
    from gossamer.recipe import Gauge, find
    from gossamer.report import show, to_json
    from gossamer.targets import OnnxRuntime

    torch.set_num_threads(1)  # the network is so small that threads would only wait for each other
    task = load("digits")
    gauge = Gauge(target=OnnxRuntime(), ship="self-contained")
    console = stdout()
    with progress() as bars:
        model = _trained(task, bars)
        stderr().print(f"compressing by the recipe {RECIPE}")
        result = gossamer.compress(model, task, find(RECIPE), out=path, gauge=gauge, progress=bars)
    checks, facts = _checked(result, task)
    if as_json:
        print_json({"checks": checks, "facts": facts, "report": json.loads(to_json(result.report))})
        return checks
    show(result.report, console)
    for name, passed in checks.items():
        console.print(f"{'ok    ' if passed else 'FAILED'} {name}")
    accuracy = facts["accuracy on ONNX Runtime, test split"]
    console.print(
        f"the file, graph included, has {count_bytes(facts['bytes'])} and reads {accuracy:.2%} of new digits right"
    )
    return checks


def _trained(task: "Task", bars: Any) -> "nn.Module":
    """Return the network with the weights that ship with the package, or trained here and now."""
    import torch

    from gossamer import zoo
    from gossamer.train import train
    from gossamer.train.config import Config

    if zoo.trained(NETWORK):
        stderr().print(f"network {NETWORK}, trained")
        return zoo.build(NETWORK, pretrained=True)
    stderr().print(f"training the network {NETWORK} on {len(task.train)} digits")
    settings = Config.parse(zoo.config(NETWORK) or b"", NETWORK).training
    torch.manual_seed(settings.seed)
    model = zoo.build(NETWORK)
    train(model, task, settings, progress=bars)
    return model


def _checked(result: "Result", task: "Task") -> tuple[dict[str, bool], dict[str, Any]]:
    """Check the file against the model it was made from, on ONNX Runtime and loaded into a fresh network."""
    import torch

    import gossamer
    from gossamer import zoo
    from gossamer.cli.session import callable_model

    runtime = callable_model(result.path)
    batch = next(task.batches("validation"))
    fresh = gossamer.load(result.path).into(zoo.build(NETWORK)).eval()
    with torch.no_grad():
        expected = result.model.eval()(*batch.args)
        same = torch.equal(fresh(*batch.args), expected)
        gap = float((runtime(*batch.args) - expected).abs().max())
    facts = {
        "bytes": result.path.stat().st_size,
        "largest difference of an output, torch and ONNX Runtime": gap,
        "accuracy on ONNX Runtime, test split": gossamer.evaluate(runtime, task, "test")["accuracy"],
    }
    checks = {
        "every checksum and tensor of the file is sound": not gossamer.verify(result.path),
        "loaded into a fresh network, its outputs are the same bit for bit": same,
        f"on ONNX Runtime its outputs are the same within {TOLERANCE}": gap <= TOLERANCE,
    }
    return checks, facts
