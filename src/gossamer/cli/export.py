"""``gossamer export``: the ONNX model of a self-contained file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gossamer.cli.options import Data, File, Json
from gossamer.cli.output import count_bytes, print_json, stdout, table
from gossamer.cli.places import writable
from gossamer.errors import about

if TYPE_CHECKING:
    from gossamer.artifact import Artifact
    from gossamer.targets import Agreement, Choice, Lowered


def export(
    file: File,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where the ONNX model goes.")],
    floats: Annotated[
        bool, typer.Option("--float", help="Plain floats: 8-bit weights are unfolded, for runtimes without integers.")
    ] = False,
    integers: Annotated[
        bool, typer.Option("--integers", help="Integers even where floats are faster here; nothing is measured.")
    ] = False,
    data: Data = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the measurement.")] = 1,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also run the model of that class, simulating the integers, on one input, and compare site by site.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a file's ONNX model.

    The file must be self-contained. Weights in 8 bits stay so, multiplied as integers where the graph allows it, unless
    that is slower here than plain floats: both are measured, one sample a run, of the data or made up. The graph that
    the runtime makes of it is read: a layer that it does not multiply in integers is listed. With --check the codes
    that integer products read are compared with those of the simulation: they differ by 0 steps, or by 1 where a value
    lies on a rounding border. Where inputs have no grid, outputs are compared, in steps of 8 bits. The last column is
    what the differences come to as they are carried from layer to layer.
    """
    if floats and (check is not None or integers):
        raise typer.BadParameter("--float leaves no integers: give it without --integers and --check")
    writable(output, suffixes=[".onnx"], inputs=[file])
    from gossamer.artifact import load
    from gossamer.artifact.files import write_file
    from gossamer.targets import lower_artifact, not_integer

    artifact = load(file)
    with about(file):
        lowered = lower_artifact(artifact, quantized=not floats)
        missed = not_integer(lowered.proto, lowered.integer) if lowered.integer else []
        agreed = [] if check is None else _agreements(file, check, data, lowered)
        measured = lowered.integer and not integers and check is None
        choice = _choice(artifact, lowered, data, threads) if measured else None
        if choice is not None and choice.for_floats:
            lowered, missed = lower_artifact(artifact, quantized=False), []
    reasons = [*lowered.reasons, *missed]
    integer = [site for site in lowered.integer if site not in {reason.what for reason in missed}]
    written = lowered.proto.SerializeToString()
    write_file(output, [written])
    if as_json:
        shown = {"onnx": output, "bytes": len(written), "integer": integer, "float": [str(each) for each in reasons]}
        shown |= {} if check is None else {"agrees": not _apart(agreed), "agreement": agreed}
        print_json(shown | ({} if choice is None else {"measured": choice}))
        return
    console = stdout()
    console.print(f"{output}: {count_bytes(len(written))}", markup=False, soft_wrap=True)
    if choice is not None:
        console.print(_sentence(choice), markup=False, soft_wrap=True)
    if integer:
        console.print(f"in integers: {', '.join(integer)}", markup=False, soft_wrap=True)
    for reason in reasons:
        console.print(f"in floats: {reason}", markup=False, soft_wrap=True)
    if agreed:
        columns = ("site", "compared", "most steps", "half a step or more", "carried on")
        rows = (
            (one.site, one.compared, f"{one.steps:.2g}", f"{one.differing:.2%}", f"{one.carried:.2g}") for one in agreed
        )
        console.print(table(columns, rows, left=("compared",)))
        apart = ", ".join(_apart(agreed))
        console.print(f"more than a step apart: {apart}" if apart else "agrees within a step everywhere", markup=False)


def _apart(agreed: "list[Agreement]") -> list[str]:
    """Return the sites whose own integers are more than a step away from their simulation."""
    return [one.site for one in agreed if one.steps > 1]


def _choice(artifact: "Artifact", lowered: "Lowered", data: str | None, threads: int) -> "Choice | None":
    """Return what integers and floats take here, or None if there are no data and inputs cannot be made up."""
    from gossamer.cli.session import inputs_of
    from gossamer.errors import TargetError
    from gossamer.targets import Timing, choose, lower_artifact

    try:
        inputs = inputs_of(lowered.proto, data, 1)
    except TargetError:
        if data is None:
            return None
        raise
    return choose(lowered.proto, lower_artifact(artifact, quantized=False).proto, inputs, Timing(threads=threads))


def _sentence(choice: "Choice") -> str:
    from gossamer.report import amount

    took = f"one run takes {amount(choice.integers)} in integers and {amount(choice.floats)} in floats on this machine"
    return f"{took}: written in floats; --integers keeps integers" if choice.for_floats else took


def _agreements(file: Path, spec: str, data: str | None, lowered: "Lowered") -> "list[Agreement]":
    """Return how far the graph is from the model that the file was made of, on the example of the data or of the zoo.

    Without either, inputs are made up.
    """
    from torch import from_numpy

    from gossamer.cli.models import model_of
    from gossamer.cli.session import made_up_inputs
    from gossamer.cli.tasks import inputs_for
    from gossamer.model import Plan, Subject, apply, load
    from gossamer.targets import agreements

    loaded = load(file)
    model = loaded.into(model_of(spec))
    if data is not None or spec.startswith("zoo:"):
        args, kwargs = inputs_for(spec, data)
    else:
        args, kwargs = tuple(from_numpy(array) for array in made_up_inputs(lowered.proto, 1).values()), {}
    plain = Subject.of(model, *args, **kwargs)
    simulated = apply(plain, Plan("export", activations=loaded.activations))
    return list(agreements(simulated, lowered, args, kwargs))
