"""``gossamer train``: train a reference network, or one's own, and write its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.options import Changes, Data, Json, Model, Weights, changes_of
from gossamer.cli.places import writable

if TYPE_CHECKING:
    from torch import nn

    from gossamer.train import Epoch
    from gossamer.train.config import Config


def train(
    model: Model,
    *,
    data: Data = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Settings: data and [training]. Zoo networks bring their own."),
    ] = None,
    change: Changes = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of initial weights, order, augmentation, dropout.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.safetensors", help="Where the weights go.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the checkpoint is kept; by default OUT.safetensors.run."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Continue from the checkpoint, if there is one, or drop it.")
    ] = True,
    weights: Weights = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.")] = None,
    test: Annotated[bool, typer.Option("--test", help="At the end also report the figures on test data.")] = False,
    as_json: Json = False,
) -> None:
    """Train a network and write its weights.

    After each epoch a checkpoint is on disk: the same command continues a run that was stopped. Zoo networks bring the
    settings that their reference weights were trained with.
    """
    import torch

    from gossamer.cli.output import print_json, progress, stderr, stdout, table
    from gossamer.cli.tasks import task_for
    from gossamer.lock import locked
    from gossamer.task import evaluate
    from gossamer.train import checkpoint
    from gossamer.train import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    found = _settings(model, config, change or [], {"epochs": epochs, "seed": seed})
    settings = found.training
    output = output or Path(f"{model.rpartition(':')[2]}.safetensors")
    writable(output, suffixes=[".safetensors"], inputs=[model, data, config, weights])
    work = work or output.with_name(f"{output.name}.run")
    task = task_for(model, data or found.data)
    torch.manual_seed(settings.seed)
    network = _network(model, weights, settings.seed)
    if not resume and work.exists():
        with locked(work):
            (work / checkpoint.NAME).unlink(missing_ok=True)
    log = stderr()

    def say(record: "Epoch") -> None:
        figures = " ".join(f"{key} {value:.4f}" for key, value in record.validation.items())
        best = " (best)" if record.best else ""
        told = f"train loss {record.train_loss:.4f}, validation {figures}{best}, {record.seconds:.0f} s"
        log.print(f"epoch {record.epoch}/{settings.epochs}: {told}", soft_wrap=True)

    with progress() as bars:
        result = run(network, task, settings, folder=work, progress=bars, on_epoch=say)
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(output, network)
    figures = {"validation": result.validation}
    if test:
        figures["test"] = evaluate(network, task, "test")
    if as_json:
        told = {"model": model, "data": task.name, "seed": settings.seed, "weights": output}
        told |= {"epochs": len(result.history), "kept": result.kept, "seconds": round(result.seconds, 1)}
        print_json(told | figures)
        return
    rows = [[split, *(f"{value:.4f}" for value in values.values())] for split, values in figures.items()]
    stdout().print(f"{model}, epoch {result.kept} of {len(result.history)}", markup=False, soft_wrap=True)
    stdout().print(table(["", *result.validation], rows))
    stdout().print(f"{output}: written", markup=False, soft_wrap=True)


def _settings(model: str, path: Path | None, changes: list[str], options: dict[str, int | None]) -> "Config":
    """Merge the settings of a file, or else of the zoo network, with those of the command line.

    Raises:
        SettingError: an unknown or unfit setting, or a file that cannot be read.
    """
    import msgspec

    from gossamer import zoo
    from gossamer.train.config import Config

    text = path.read_bytes() if path is not None else None
    if text is None and model.startswith("zoo:"):
        text = zoo.config(model.removeprefix("zoo:"))
    found = Config.parse(text or b"", str(path or model))
    changed: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    changed |= changes_of(changes)
    return msgspec.structs.replace(found, training=found.changed(changed))


def _network(spec: str, weights: Path | None, seed: int) -> "nn.Module":
    """Return a network that starts from the given weights, or else from new ones even if it comes trained."""
    from gossamer import zoo
    from gossamer.cli.models import model_of

    if spec.startswith("zoo:") and weights is None:
        return zoo.build(spec.removeprefix("zoo:"))
    return model_of(spec, weights, seed=seed)


if __name__ == "__main__":
    from gossamer.cli.boundary import guarded

    typer.run(guarded(train, resumes=True))
