"""ONNX Runtime, the embedded default target: what it takes, what it lowers, and how an artifact runs on it."""

from pathlib import Path
from typing import Protocol

import msgspec
import onnx

from gossamer import artifact as artifacts
from gossamer.artifact import Artifact
from gossamer.codings import Coding, Dense, describe
from gossamer.codings.nodes import Array
from gossamer.errors import TargetError, about
from gossamer.figure import Figure, computed, measured
from gossamer.targets.cpu import read_cpu
from gossamer.targets.exact import needs_exact
from gossamer.targets.graph import lower_artifact
from gossamer.targets.horowitz import Energy, energy
from gossamer.targets.levels import weight_levels
from gossamer.targets.processes import Run, Timing, measure
from gossamer.targets.reason import Reason
from gossamer.targets.session import Inputs, open_session, run_session
from gossamer.targets.work import count_work, total_macs


class Target(Protocol):
    """Something that runs artifacts."""

    name: str

    def refuses(self, artifact: Artifact) -> list[Reason]:
        """Return why the artifact cannot run here; empty if it can."""

    def lowers(self, artifact: Artifact) -> list[Reason]:
        """Return what runs otherwise than it is stored, and why."""

    def run(self, artifact: Artifact | str | Path, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact on the target: every figure says whether it was measured or computed.

    Attributes:
        latency: of one run; see :class:`~gossamer.targets.processes.Latency`.
        memory: of the process.
        file: bytes of the artifact's file on disk; None if it was not given as a file.
        onnx: bytes of the ONNX model it becomes.
        macs: multiply-accumulates of one run.
        energy: modelled energy of one run.
        unruled: operators that multiply and were not counted.
        processor: what the processor does with 8-bit products, and what was chosen for it.
    """

    run: Run
    file: Figure | None
    onnx: Figure
    macs: Figure
    energy: Energy
    unruled: tuple[str, ...]
    processor: str


class OnnxRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """The target.

    Attributes:
        threads: threads of one operator.
        quantized: whether 8-bit weights stay in 8 bits and integer operators are used.
    """

    name = "onnxruntime"

    threads: int = 1
    quantized: bool = True

    def refuses(self, artifact: Artifact) -> list[Reason]:
        """Return why ``artifact`` cannot run here; empty if it can."""
        try:
            open_session(lower_artifact(artifact, quantized=self.quantized).proto, threads=self.threads)
        except TargetError as error:
            return [Reason("graph", str(error))]
        return []

    def lowers(self, artifact: Artifact) -> list[Reason]:
        """Return what runs otherwise than it is stored: codings that are unfolded, products that stay in float."""
        lowered = lower_artifact(artifact, quantized=self.quantized)
        listed = {*lowered.integer, *(reason.what for reason in lowered.reasons)}
        unfolded = [
            Reason(name, f"stored as {describe(coding)}, runs as dense floats")
            for name, coding in artifact.tensors.items()
            if not isinstance(coding, Dense) and name not in listed and not self._kept(coding)
        ]
        return [*lowered.reasons, *unfolded]

    def run(self, artifact: Artifact | str | Path, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs of one run by name.

        Args:
            artifact: a self-contained artifact or its file.
            inputs: arrays by name, in order, or the only one.

        Raises:
            TargetError: the artifact or the inputs cannot be run.
            ArtifactError: the file is not a valid artifact.
        """
        proto = self.model(artifact)
        with about(_source(artifact)):
            session = open_session(proto, threads=self.threads)
        return run_session(session, inputs)

    def model(self, artifact: Artifact | str | Path) -> onnx.ModelProto:
        """Return the ONNX model that ``artifact`` becomes here.

        Raises:
            TargetError: the artifact holds no graph, or one that does not fit.
            ArtifactError: the file is not a valid artifact.
        """
        found = artifact if isinstance(artifact, Artifact) else artifacts.load(artifact)
        with about(_source(artifact)):
            return lower_artifact(found, quantized=self.quantized).proto

    def processor(self, proto: onnx.ModelProto) -> str:
        """Return what the processor does with 8-bit products, and what was chosen for ``proto``."""
        cpu = read_cpu()
        if not cpu.saturates:
            return f"{cpu.name}: {cpu.why}; 8-bit products are exact"
        chosen = "the exact kernels were chosen" if needs_exact(proto) else "7-bit weights are exact"
        return f"{cpu.name}: {cpu.why}; 8-bit products may saturate, {chosen}"

    def measure(
        self, models: dict[str, Artifact | str | Path], inputs: Inputs, timing: Timing | None = None
    ) -> dict[str, Measurement]:
        """Return what each artifact takes here: time and memory in fresh processes taking turns, sizes, work, energy.

        Args:
            models: artifacts or their files, by name.
            inputs: arrays by name, in order, or the only one; the same for all.
            timing: how often; its threads stand in place of the target's.

        Raises:
            TargetError: an artifact or the inputs cannot be run.
            ArtifactError: a file is not a valid artifact.
        """
        protos = {name: self.model(given) for name, given in models.items()}
        runs = measure(protos, inputs, timing or Timing(threads=self.threads))
        return {name: self._measurement(models[name], proto, runs[name], inputs) for name, proto in protos.items()}

    def _measurement(
        self, given: Artifact | str | Path, proto: onnx.ModelProto, run: Run, inputs: Inputs
    ) -> Measurement:
        works = count_work(proto, inputs)
        return Measurement(
            run=run,
            file=None if isinstance(given, Artifact) else measured(Path(given).stat().st_size, "B"),
            onnx=measured(len(proto.SerializeToString()), "B"),
            macs=computed(total_macs(works), "MAC"),
            energy=energy(works),
            unruled=tuple(sorted({work.op for work in works if work.macs is None})),
            processor=self.processor(proto),
        )

    def _kept(self, coding: Coding) -> bool:
        return self.quantized and not isinstance(weight_levels(coding), str)


def _source(artifact: Artifact | str | Path) -> str | Path | None:
    return None if isinstance(artifact, Artifact) else artifact
