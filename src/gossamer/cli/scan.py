"""``gossamer scan``: how sensitive each part of a model is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.options import Changes, Data, Json, Model, Threads, Weights, changes_of
from gossamer.cli.places import writable
from gossamer.errors import SettingError

if TYPE_CHECKING:
    from gossamer.model import Method


def scan(
    model: Model,
    *,
    data: Data = None,
    weights: Weights = None,
    method: Annotated[str, typer.Option(metavar="TAG", help="A method that has a strength.")] = "prune.magnitude",
    change: Changes = None,
    strengths: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="What to try. [default: 0.2,0.4,0.6,0.8,0.9; whole blocks: 1]"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Validation samples that are used.")] = 2000,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.json", help="Where the scan goes.")] = Path(
        "scan.json"
    ),
    picture: Annotated[Path | None, typer.Option("--plot", metavar="OUT.png", help="Also draw it.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also run each model on ONNX Runtime.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure what each layer, group of units or block loses and saves, one at a time.

    Each measurement is on disk when it is made: the same command continues a scan that was stopped.
    """
    writable(output, suffixes=[".json"], inputs=[model, data, weights])
    if picture is not None:
        writable(picture, suffixes=[".png", ".svg", ".pdf"], inputs=[model, data, weights])
    import torch

    from gossamer.cli.models import model_of
    from gossamer.cli.output import count_bytes, print_json, progress, stdout, table
    from gossamer.cli.tasks import task_for
    from gossamer.model import Subject
    from gossamer.search import STRENGTHS
    from gossamer.search import scan as run
    from gossamer.search.plot import plot
    from gossamer.targets import OnnxRuntime

    if threads is not None:
        torch.set_num_threads(threads)
    task = task_for(model, data)
    args, kwargs = task.example
    subject = Subject.of(model_of(model, weights), *args, **kwargs)
    levels = None if strengths is None else _numbers(strengths)
    chosen = _method(method, change or [], STRENGTHS[0] if levels is None else levels[0])
    target = OnnxRuntime() if latency else None
    with progress() as bars:
        found = run(subject, task, chosen, strengths=levels, samples=samples, path=output, target=target, progress=bars)
    if picture is not None:
        plot(found, picture)
    if as_json:
        print_json(found)
        return
    console = stdout()
    at = {(entry.name, entry.strength): entry for entry in found.entries}
    tried = dict.fromkeys(entry.strength for entry in found.entries)
    rows = ((name, *(f"{at[name, level].metric:.4f}" for level in tried)) for name in found.names)
    console.print(table((f"{found.metric} at", *map(str, tried)), rows))
    console.print(
        f"{found.metric} {found.start.metric:.4f} and {count_bytes(found.start.bytes)} as it is; {output}: written",
        markup=False,
        soft_wrap=True,
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--strengths: wanted numbers with commas between them, got {text!r}") from error


def _method(tag: str, changes: list[str], strength: float) -> "Method":
    """Return the method called ``tag`` at a strength.

    Raises:
        RecipeError: there is no such method or setting.
        SettingError: the method has no strength.
    """
    from gossamer.recipe import Recipe, methods

    kind = methods().get(tag)
    settings = {} if kind is None or kind.strength is None else {kind.strength: strength}
    step = {"method": tag, **settings, **changes_of(changes)}
    found = Recipe.from_plain({"name": "scan", "step": [step]}).steps[0].method
    if found is None or found.strength is None:
        raise SettingError(f"{tag}: has no strength that a scan could vary")
    return found
