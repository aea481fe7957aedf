"""``gossamer export``: the ONNX model of a self-contained file, or of a model as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gossamer.cli.options import Data, Json, Weights
from gossamer.cli.output import count_bytes, print_json, stdout, table
from gossamer.cli.places import writable
from gossamer.errors import about

if TYPE_CHECKING:
    from gossamer.artifact import Artifact
    from gossamer.targets import Agreement, Choice, Lowered, Reason


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE.goss|MODEL",
            help="A file written by compress, or a model as it is: zoo:NAME, path/to/file.py:factory or "
            "package.module:factory.",
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where the ONNX model goes.")],
    floats: Annotated[
        bool, typer.Option("--float", help="Plain floats: 8-bit weights are unfolded, for runtimes without integers.")
    ] = False,
    integers: Annotated[
        bool, typer.Option("--integers", help="Integers even where floats are faster here; nothing is measured.")
    ] = False,
    data: Data = None,
    weights: Weights = None,
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
    """Write the ONNX model of a file, or of a model as it is.

    A model becomes plain floats, for comparison; one of your own needs --data for its example input. A file must be
    self-contained. Weights in 8 bits stay so, multiplied as integers where the graph allows it, unless that is slower
    here than plain floats: both are measured, one sample a run, of the data or made up. The graph that the runtime
    makes of it is read: a layer that it does not multiply in integers is listed. With --check the codes that integer
    products read are compared with those of the simulation: they differ by 0 steps, or by 1 where a value lies on a
    rounding border. Where inputs have no grid, outputs are compared, in steps of 8 bits. The last column is what the
    differences come to as they are carried from layer to layer.
    """
    _refuse(source, floats=floats, integers=integers or check is not None, weights=weights)
    writable(output, suffixes=[".onnx"], inputs=[source])
    from gossamer.artifact.files import write_file

    if source.endswith(".goss"):
        made = _of_file(Path(source), data, check, threads, floats=floats, measured=not integers)
    else:
        made = _of_model(source, weights, data)
    written = made.proto.SerializeToString()
    write_file(output, [written])
    if as_json:
        print_json({"onnx": output, "bytes": len(written), **made.plain()})
    else:
        stdout().print(f"{output}: {count_bytes(len(written))}", markup=False, soft_wrap=True)
        made.show()


def _refuse(source: str, *, floats: bool, integers: bool, weights: Path | None) -> None:
    """Refuse options that do not go with each other."""
    if floats and integers:
        raise typer.BadParameter("--float leaves no integers: give it without --integers and --check")
    if source.endswith(".goss") and weights is not None:
        raise typer.BadParameter("--weights are those of a model, and a file has its own")
    if not source.endswith(".goss") and integers:
        raise typer.BadParameter("--integers and --check are for a file, and a model as it is has floats")


@dataclass(frozen=True)
class _Made:
    """The ONNX model, and what there is to tell of it: sites in integers, reasons for floats, what was measured."""

    proto: Any
    integer: "Sequence[str]" = ()
    reasons: "Sequence[Reason]" = ()
    choice: "Choice | None" = None
    agreed: "Sequence[Agreement] | None" = None

    def plain(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        shown: dict[str, Any] = {"integer": self.integer, "float": [str(each) for each in self.reasons]}
        if self.agreed is not None:
            shown |= {"agrees": not _apart(self.agreed), "agreement": self.agreed}
        return shown | ({} if self.choice is None else {"measured": self.choice})

    def show(self) -> None:
        """Print it for people."""
        console = stdout()
        lines = [] if self.choice is None else [_sentence(self.choice)]
        lines += [f"in integers: {', '.join(self.integer)}"] if self.integer else []
        for line in (*lines, *(f"in floats: {reason}" for reason in self.reasons)):
            console.print(line, markup=False, soft_wrap=True)
        if self.agreed is None:
            return
        columns = ("site", "compared", "most steps", "half a step or more", "carried on")
        rows = (
            (one.site, one.compared, f"{one.steps:.2g}", f"{one.differing:.2%}", f"{one.carried:.2g}")
            for one in self.agreed
        )
        console.print(table(columns, rows, left=("compared",)))
        apart = ", ".join(_apart(self.agreed))
        console.print(f"more than a step apart: {apart}" if apart else "agrees within a step everywhere", markup=False)


def _of_model(spec: str, weights: Path | None, data: str | None) -> _Made:
    from gossamer.cli.models import model_of
    from gossamer.cli.tasks import inputs_for
    from gossamer.targets import to_onnx

    args, kwargs = inputs_for(spec, data)
    return _Made(to_onnx(model_of(spec, weights), args, kwargs))


def _of_file(file: Path, data: str | None, check: str | None, threads: int, *, floats: bool, measured: bool) -> _Made:
    from gossamer.artifact import load
    from gossamer.targets import lower_artifact, not_integer

    artifact = load(file)
    with about(file):
        lowered = lower_artifact(artifact, quantized=not floats)
        missed = not_integer(lowered.proto, lowered.integer) if lowered.integer else []
    agreed = None if check is None else _agreements(file, check, data, lowered)
    with about(file):
        compared = measured and lowered.integer and check is None
        choice = _choice(artifact, lowered, data, threads) if compared else None
        if choice is not None and choice.for_floats:
            lowered, missed = lower_artifact(artifact, quantized=False), []
    integer = [site for site in lowered.integer if site not in {reason.what for reason in missed}]
    return _Made(lowered.proto, integer, [*lowered.reasons, *missed], choice, agreed)


def _apart(agreed: "Sequence[Agreement]") -> list[str]:
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
