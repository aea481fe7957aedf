"""All commands, under one name."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from gossamer.cli.allocate import allocate
from gossamer.cli.boundary import guarded
from gossamer.cli.compress import compress
from gossamer.cli.demo import demo
from gossamer.cli.diff import diff
from gossamer.cli.export import export
from gossamer.cli.groups import groups
from gossamer.cli.inspect import inspect
from gossamer.cli.measure import measure
from gossamer.cli.pack import pack
from gossamer.cli.recipes import recipes
from gossamer.cli.run import run
from gossamer.cli.scan import scan
from gossamer.cli.train import train
from gossamer.cli.unpack import unpack
from gossamer.cli.verify import verify

app = typer.Typer(
    name="gossamer",
    help="Makes a trained deep-learning model light: small on disk, fast to run, and proven so.",
    epilog="First steps: gossamer demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXAMPLES: dict[Callable[..., Any], str] = {
    compress: "gossamer compress zoo:lenet300 --data fashion-mnist --recipe deep-compression -o lenet.goss",
    run: "gossamer run lenet.goss --data fashion-mnist",
    inspect: "gossamer inspect lenet.goss",
    verify: "gossamer verify lenet.goss",
    export: "gossamer export lenet.goss -o lenet.onnx\n  gossamer export zoo:lenet300 -o dense.onnx",
    measure: "gossamer measure lenet.goss",
    diff: "gossamer diff before.goss after.goss",
    pack: "gossamer pack w.safetensors -o w.goss\n  gossamer pack w.safetensors --step 0.5 -o w.goss\n"
    "  gossamer pack w.safetensors --size 100000 -o w.goss",
    unpack: "gossamer unpack w.goss -o w.safetensors",
    groups: "gossamer groups zoo:resnet20",
    scan: "gossamer scan zoo:lenet5 --method prune.magnitude -o scan.json --plot scan.png",
    allocate: "gossamer allocate scan.json --keep 0.2 --of bytes -o allocated.toml",
    train: "gossamer train zoo:lenet5 --epochs 8 -o lenet5.safetensors",
    recipes: "gossamer recipes deep-compression",
    demo: "gossamer demo",
}
"""Every command in the order of the help, each with an example that its help shows."""

RESUMES = frozenset({compress, train, demo, scan})
"""Commands that go on where they were interrupted."""

for _command, _example in EXAMPLES.items():
    app.command(_command.__name__, epilog=f"\b\nExample:\n  {_example}")(guarded(_command, resumes=_command in RESUMES))


def _version(asked: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if asked:
        import gossamer

        typer.echo(f"gossamer {gossamer.__version__}")
        raise typer.Exit


@app.callback()
def _gossamer(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...
