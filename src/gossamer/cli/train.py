"""``gossamer train``: train a reference network, or one's own, and write its weights."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer.errors import SettingError

MODEL = typer.Argument(help="zoo:NAME, path/to/file.py:factory or package.module:factory.", metavar="MODEL")


def train(
    model: Annotated[str, MODEL],
    *,
    data: Annotated[
        str | None,
        typer.Option(help="fashion-mnist, digits, spoken-digits, bible, text:PATH, images:PATH or file.py:factory."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with `data` and [training]; zoo networks bring their own.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one training setting, as in --set lr=0.01.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initial weights, order, augmentation, dropout.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the weights go (.safetensors).")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where the checkpoint goes; by default beside the output.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights (.safetensors).")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    test: Annotated[bool, typer.Option("--test", help="At the end also report the figures on test data.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    r"""Train a network and write its weights.

    \b
    gossamer train zoo:lenet5 -o lenet5.safetensors
    gossamer train zoo:lenet5 --epochs 3 --set lr=0.01 --seed 1 -o lenet5.safetensors
    gossamer train zoo:char-lstm --data text:book.txt -o book.safetensors --resume
    gossamer train my_model.py:build --data my_data.py:task -o mine.safetensors --test --json
    """
    import torch

    from gossamer.cli.output import print_json, progress, stderr, stdout, table
    from gossamer.task import evaluate
    from gossamer.train import checkpoint
    from gossamer.train import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    settings = _settings(model, config, set_ or [], epochs=epochs, seed=seed)
    name = data or settings.data
    if name is None:
        raise SettingError(f"{model} has no data set of its own", hint="give --data")
    torch.manual_seed(settings.training.seed)
    network = _model(model, weights)
    output = output or Path(f"{model.rpartition(':')[2]}.safetensors")
    folder = folder or output.with_suffix(".training")
    if not resume and (folder / checkpoint.NAME).exists():
        raise SettingError(f"{folder} holds a checkpoint", hint="--resume continues from it; else delete it")
    task = _task(name)
    log = stderr()

    def say(record: Any) -> None:
        figures = " ".join(f"{key} {value:.4f}" for key, value in record.validation.items())
        log.print(
            f"epoch {record.epoch}/{settings.training.epochs}: train loss {record.train_loss:.4f}, "
            f"validation {figures}{' (best)' if record.best else ''}, {record.seconds:.0f} s"
        )

    with progress(hidden=as_json) as bars:
        result = run(network, task, settings.training, folder=folder, progress=bars, on_epoch=say)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(output, network)
    figures = {"validation": result.validation}
    if test:
        figures["test"] = evaluate(network, task, "test")
    if as_json:
        print_json({
            "model": model, "data": name, "seed": settings.training.seed, "weights": str(output),
            "epochs": len(result.history), "kept": result.kept, "seconds": round(result.seconds, 1), **figures,
        })  # fmt: skip
        return
    rows = [[split, *(f"{value:.4f}" for value in values.values())] for split, values in figures.items()]
    stdout().print(table(f"{model}, epoch {result.kept}", ["", *result.validation], rows))
    stdout().print(f"weights: {output}")


def _settings(model: str, path: Path | None, changes: list[str], **given: int | None) -> Any:
    """Merge the zoo's settings, a file's and the command line's, in this order.

    Raises:
        SettingError: an unknown or unfit setting, or a file that cannot be read.
    """
    import msgspec

    from gossamer import zoo
    from gossamer.train.config import Config

    text = path.read_bytes() if path is not None else None
    if text is None and model.startswith("zoo:"):
        text = zoo.config(model.removeprefix("zoo:"))
    found: Config = Config.parse(text or b"", str(path or model))
    changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise SettingError(f"--set {change}: wanted NAME=VALUE")
        try:
            changed[key] = json.loads(value)
        except json.JSONDecodeError:
            changed[key] = value
    return msgspec.structs.replace(found, training=found.changed(changed))


def _model(spec: str, weights: Path | None) -> Any:
    """Return an untrained network, or one with the given weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    from gossamer import zoo
    from gossamer.cli.resolve import made
    from gossamer.errors import ModelError

    if spec.startswith("zoo:"):
        network: nn.Module = zoo.build(spec.removeprefix("zoo:"))
    else:
        network = made(spec, wanted=nn.Module, kind=ModelError)
    if weights is not None:
        try:
            network.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"{weights} does not fit {spec}: {error}") from error
    return network


def _task(spec: str) -> Any:
    from gossamer import datasets
    from gossamer.cli.resolve import made
    from gossamer.errors import TaskError
    from gossamer.task import Task

    kind = spec.partition(":")[0]
    if ":" in spec and kind not in datasets.BY_PATH:
        return made(spec, wanted=Task, kind=TaskError)
    return datasets.load(spec)


if __name__ == "__main__":
    from gossamer.cli.boundary import guarded

    typer.run(guarded(train, resumes=True))
