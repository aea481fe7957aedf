"""Measuring on the target: latency in fresh processes that take turns, and the peak memory of each."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import onnx

from gossamer.errors import TargetError
from gossamer.figure import Figure, measured
from gossamer.settings import Settings
from gossamer.targets.rapl import measure_energy
from gossamer.targets.session import Inputs, feed, open_session, prepare


class Timing(Settings, frozen=True, kw_only=True):
    """How latency is measured."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=256, description="threads of one operator")] = 1
    warmup: Annotated[int, msgspec.Meta(ge=0, le=10_000, description="runs that are not counted, per model")] = 10
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000, description="turns that each model gets")] = 10
    runs: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="runs in one turn")] = 20


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one run, over all counted runs of a model.

    Attributes:
        median: seconds.
        low_quartile: seconds; a quarter of the runs were faster.
        high_quartile: seconds; a quarter of the runs were slower.
        fastest: seconds.
        slowest: seconds.
        runs: number of counted runs.
        threads: threads of one operator.
    """

    median: Figure
    low_quartile: Figure
    high_quartile: Figure
    fastest: Figure
    slowest: Figure
    runs: int
    threads: int

    @property
    def spread(self) -> Figure:
        """The range between the quartiles, in seconds."""
        return measured(self.high_quartile.value - self.low_quartile.value, "s")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the process that ran the model.

    Attributes:
        peak: largest resident size, in bytes, interpreter and libraries included.
        before: the same before the model was read.
    """

    peak: Figure
    before: Figure

    @property
    def added(self) -> Figure:
        """What reading the model and running it once added to the peak, in bytes."""
        return measured(self.peak.value - self.before.value, "B")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one model.

    Attributes:
        latency: of one run.
        memory: of the process.
        energy: joules of one run, taken by the whole sockets while it ran: idle power and all other processes are in
            it. None where the machine exposes no counter, or where the turns were too short for it to move.
    """

    latency: Latency
    memory: Memory
    energy: Figure | None = None


def measure(models: Mapping[str, onnx.ModelProto], inputs: Inputs, timing: Timing | None = None) -> dict[str, Run]:
    """Return latency and peak memory of each model, all on the same inputs.

    Each model lives in a process of its own, started for this. They take turns, so that what else the machine does
    falls on all of them alike.

    Args:
        models: graphs by name.
        inputs: arrays by name, or in order.
        timing: how often, and on how many threads.

    Raises:
        TargetError: a graph or the inputs do not fit, or a process fails.
    """
    how = timing or Timing()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        workers = {
            label: stack.enter_context(_worker(folder / str(number), label, model, inputs, how.threads))
            for number, (label, model) in enumerate(models.items())
        }
        memories = {label: _memory(_answer(label, worker)) for label, worker in workers.items()}
        for label, worker in workers.items():
            _ask(label, worker, how.warmup)
        taken: dict[str, list[int]] = {label: [] for label in workers}
        joules = dict.fromkeys(workers, 0.0)
        for _ in range(how.rounds):
            for label, worker in workers.items():
                times, spent = _turn(label, worker, how.runs)
                taken[label] += times
                joules[label] += spent
    return {
        label: Run(
            latency=_latency(times, how.threads),
            memory=memories[label],
            energy=measured(joules[label] / len(times), "J") if joules[label] else None,
        )
        for label, times in taken.items()
    }


@contextmanager
def _worker(
    folder: Path, label: str, model: onnx.ModelProto, inputs: Inputs, threads: int
) -> Iterator["subprocess.Popen[str]"]:
    folder.mkdir()
    fed = feed(open_session(model, threads=threads), inputs)
    onnx.save(prepare(model), folder / "model.onnx")
    np.savez(folder / "inputs.npz", **fed)  # type: ignore[arg-type]  # numpy's stub takes the names for its own option
    command = [sys.executable, "-m", "gossamer.targets.worker", "model.onnx", "inputs.npz", str(threads)]
    log = (folder / "errors.txt").open("w+", encoding="utf-8")
    process = subprocess.Popen(  # noqa: S603  # our own module
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )
    with log, process:
        try:
            yield process
        except _SilentError as error:
            if str(error) != label:
                raise
            process.kill()
            process.wait()
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no message"])[-1]
            raise TargetError(f"the process that measures {label} ended: {last}") from None
        finally:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()


class _SilentError(Exception):
    """A worker gave no answer."""


def _ask(label: str, worker: "subprocess.Popen[str]", runs: int) -> list[int]:
    if worker.stdin is None:
        raise _SilentError(label)
    try:
        worker.stdin.write(f"{runs}\n")
        worker.stdin.flush()
    except BrokenPipeError:
        raise _SilentError(label) from None
    return [int(value) for value in _answer(label, worker)]


def _turn(label: str, worker: "subprocess.Popen[str]", runs: int) -> tuple[list[int], float]:
    """Return the nanoseconds of each run, and the joules of all of them: 0 where there is no counter."""
    times: list[int] = []
    spent = measure_energy(lambda: times.extend(_ask(label, worker, runs)))
    if spent is None:
        return _ask(label, worker, runs), 0.0
    return times, float(spent.value)


def _answer(label: str, worker: "subprocess.Popen[str]") -> Any:
    line = worker.stdout.readline() if worker.stdout is not None else ""
    if not line:
        raise _SilentError(label)
    return json.loads(line)


def _memory(answer: Mapping[str, int]) -> Memory:
    return Memory(peak=measured(answer["peak"], "B"), before=measured(answer["before"], "B"))


def _latency(nanoseconds: list[int], threads: int) -> Latency:
    values = np.asarray(nanoseconds) * 1e-9
    cuts = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
    fastest, low, median, high, slowest = (measured(float(cut), "s") for cut in cuts)
    return Latency(
        median=median,
        low_quartile=low,
        high_quartile=high,
        fastest=fastest,
        slowest=slowest,
        runs=len(nanoseconds),
        threads=threads,
    )
