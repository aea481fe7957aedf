"""``gossamer compress``: a trained model and a task go in, a small file and a report come out."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.options import Data, Json, Model, Threads, Weights
from gossamer.cli.output import progress, stderr, stdout
from gossamer.cli.places import writable


def compress(
    model: Model,
    *,
    data: Data = None,
    recipe: Annotated[
        str, typer.Option(metavar="R", help="A built-in recipe (see gossamer recipes) or a .toml file.")
    ] = "deep-compression",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.goss", help="Where the file goes.")],
    weights: Weights = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the run is kept, to be continued; by default OUT.goss.run."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Continue the run kept there, if there is one, or drop it.")
    ] = True,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random; by default the recipe's own.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Training samples that methods which calibrate see.")] = 512,
    report: Annotated[bool, typer.Option("--report", help="Also write the report to OUT.goss.report.json.")] = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave the graph out: smaller, but the model's class is needed.")
    ] = False,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure each step's file on ONNX Runtime at the end.")
    ] = True,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compress a trained model into one file.

    After each step of the recipe the state of the run is on disk: the same command continues a run that was stopped.
    """
    writable(output, suffixes=[".goss"], inputs=[model, data, recipe, weights])
    import torch

    import gossamer
    from gossamer.cli.models import model_of
    from gossamer.cli.tasks import task_for
    from gossamer.recipe import Gauge, find
    from gossamer.recipe.journal import forget
    from gossamer.report import show, to_json
    from gossamer.targets import OnnxRuntime

    if threads is not None:
        torch.set_num_threads(threads)
    steps = find(recipe)
    task = task_for(model, data)
    subject = model_of(model, weights)
    if weights is None and not model.startswith("zoo:"):
        stderr().print(
            f"note: {model} comes without --weights: its weights are what its code made", markup=False, soft_wrap=True
        )
    work = work or output.with_name(f"{output.name}.run")
    if not resume:
        forget(work)
    gauge = Gauge(target=OnnxRuntime() if measured else None, ship="weights-only" if weights_only else "self-contained")
    with progress() as bars:
        result = gossamer.compress(
            subject,
            task,
            steps,
            out=output,
            folder=work,
            seed=seed,
            gauge=gauge,
            samples=samples,
            report=report,
            progress=bars,
            on_resume=lambda step: bars.console.print(
                f"{work}: continues after step {step}", markup=False, soft_wrap=True
            ),
        )
    if as_json:
        typer.echo(to_json(result.report))
        return
    console = stdout()
    show(result.report, console)
    console.print(f"{result.path}: written", markup=False, soft_wrap=True)
