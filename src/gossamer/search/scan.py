"""Sensitivity scan: one part of the model at a time, at several strengths, everything else as it is.

The layer-wise scan of Han, Pool, Tran and Dally, NIPS 2015 (arXiv 1506.02626), section 3.1, for any method that has a
strength: what each part loses on validation data, and what it saves in bytes, multiply-accumulates and milliseconds.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.progress import Progress

from gossamer.artifact import Artifact, load, save, stored_bytes
from gossamer.errors import RecipeError, SettingError
from gossamer.figure import decode, encode
from gossamer.model import Method, Plan, Subject, freeze, to_artifact
from gossamer.recipe import methods
from gossamer.recipe.evidence import Collector
from gossamer.recipe.journal import fingerprint, write
from gossamer.recipe.step import at, carried_out
from gossamer.targets import OnnxRuntime, arrays_of, assemble, frozen_graph
from gossamer.task import Task, evaluate

FORMAT = 1
STRENGTHS = (0.2, 0.4, 0.6, 0.8, 0.9)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one part at one strength does.

    Attributes:
        name: the site or group.
        strength: of the method.
        loss: on validation data.
        metric: the task's main metric there.
        bytes: of all coded tensors.
        macs: of one pass; None if the graph was not seen.
        milliseconds: median of a pass on the target, and of the model as it is in the same turns; None if not measured.
        skipped: why nothing changed; empty if something did.
    """

    name: str
    strength: float
    loss: float
    metric: float
    bytes: int
    macs: int | None
    milliseconds: tuple[float, float] | None = None
    skipped: str = ""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole scan.

    Attributes:
        format: of the file.
        identity: fingerprint of the weights, the task, the method and the settings.
        method: tag of the method.
        settings: the method's other settings.
        by: whether names are sites or groups.
        metric: name of the task's main metric.
        higher_is_better: of that metric.
        start: the model as it is; its name is empty.
        entries: in the order in which they were made.
    """

    format: int
    identity: str
    method: str
    settings: dict[str, object]
    by: str
    metric: str
    higher_is_better: bool
    start: Entry
    entries: tuple[Entry, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, each once."""
        return tuple(dict.fromkeys(entry.name for entry in self.entries))


def scan(
    subject: Subject,
    task: Task,
    method: Method,
    *,
    strengths: Sequence[float] | None = None,
    samples: int | None = 2000,
    path: Path | None = None,
    target: OnnxRuntime | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scan:
    """Apply ``method`` to one part at a time and measure what comes of it.

    Args:
        subject: untouched.
        task: evaluated on its validation split; calibration reads its train split.
        method: its strength is set to each of ``strengths``, and counts each part by itself: sites, or groups or blocks
            where the method treats those.
        strengths: what to try; if None, :data:`STRENGTHS`, or 1 where a part goes whole or stays.
        samples: validation samples that are used; None for all.
        path: JSON file that is written after each measurement; if it holds part of the same scan, that is continued.
        target: also run each model on it, in turns with the model as it is.
        seed: of calibration samples.
        progress: bars to add to.

    Raises:
        SettingError: the method has no strength, cannot have one of ``strengths``, or finds no part to treat.
        RecipeError: ``path`` holds another scan.
    """
    if method.strength is None:
        raise SettingError(f"{method.tag}: has no strength that a scan could vary")
    strengths = _tried(method, strengths)
    work = _Work(subject, task, method.by_itself(), samples, target, Collector(task, seed))
    if not work.names:
        raise SettingError(f"{method.tag}: the model has no {method.part} that could be scanned")
    identity = work.identity(strengths, seed)
    found = _begun(path, identity) or work.begin(identity)
    done = {(entry.name, entry.strength) for entry in found.entries}
    todo = [(name, strength) for name in work.names for strength in strengths if (name, strength) not in done]
    bar = None if progress is None else progress.add_task(f"scanning {method.tag}", total=len(todo))
    for name, strength in todo:
        found = msgspec.structs.replace(found, entries=(*found.entries, work.entry(name, strength)))
        if path is not None:
            write(path, msgspec.json.format(encode(found), indent=1))
        if progress is not None and bar is not None:
            progress.advance(bar)
    return found


def load_scan(path: Path) -> Scan:
    """Read a scan.

    Raises:
        RecipeError: the file is missing, or holds no scan, one of another version, or one without a measurement.
    """
    hint = "gossamer scan writes one"
    try:
        found = decode(path.read_bytes(), Scan)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}", hint=hint) from error
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise RecipeError(f"{path}: no scan: {error}", hint=hint) from error
    if found.format != FORMAT:
        raise RecipeError(f"{path}: a scan of format {found.format}, wanted {FORMAT}", hint="scan again")
    if not found.entries:
        raise RecipeError(f"{path}: a scan without a measurement", hint="run gossamer scan again: it continues")
    try:
        method_of(found)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error.message}", hint=error.hint) from error
    return found


def method_of(scanned: Scan) -> type[Method]:
    """Return the method of a scan.

    Raises:
        RecipeError: it is unknown, or has no strength.
    """
    kind = methods().get(scanned.method)
    if kind is None or kind.strength is None:
        known = ", ".join(tag for tag, one in methods().items() if one.strength is not None)
        raise RecipeError(f"a scan of {scanned.method!r}, no method with a strength", hint=f"such methods are: {known}")
    return kind


def _tried(method: Method, strengths: Sequence[float] | None) -> Sequence[float]:
    """Return the strengths to try, checked before hours of work, not after."""
    if strengths is None:
        return (1.0,) if method.whole else STRENGTHS
    for strength in strengths:
        at(method, strength)
        if method.whole and strength != 1:
            raise SettingError(
                f"{method.tag}: a {method.part} goes whole or stays, so a scan cannot try {strength}",
                hint="leave the strengths out: each is measured without",
            )
    return strengths


def _begun(path: Path | None, identity: str) -> Scan | None:
    if path is None or not path.exists():
        return None
    found = load_scan(path)
    if found.identity != identity:
        raise RecipeError(
            f"{path} is the scan of another model, task, method or setting", hint="name another file, or delete it"
        )
    return found


@dataclass(frozen=True)
class _Work:
    """What does not change during a scan."""

    subject: Subject
    task: Task
    method: Method
    samples: int | None
    target: OnnxRuntime | None
    collector: Collector

    @property
    def names(self) -> list[str]:
        return list(self.method.parts(self.subject))

    @property
    def settings(self) -> dict[str, object]:
        """The method's settings but its strength and what it treats, as JSON has them."""
        plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(self.method))
        hidden = {"method", str(self.method.strength), self.method.picks}
        return {name: value for name, value in plain.items() if name not in hidden}

    def identity(self, strengths: Sequence[float], seed: int) -> str:
        tried = [self.method.tag, self.settings, strengths, self.samples, seed, self.target is not None]
        sizes = f"{self.task.name} {len(self.task.train)} {len(self.task.validation)}"
        return hashlib.sha256(
            msgspec.json.encode(tried) + sizes.encode() + fingerprint(self.subject).encode()
        ).hexdigest()

    def begin(self, identity: str) -> Scan:
        main = self.task.metrics[self.task.main]
        return Scan(
            format=FORMAT,
            identity=identity,
            method=self.method.tag,
            settings=self.settings,
            by=self.method.part,
            metric=self.task.main,
            higher_is_better=main.higher_is_better,
            start=self._measured("", 0.0, self.subject),
        )

    def entry(self, name: str, strength: float) -> Entry:
        alone = {self.method.picks: (literal(name),)}
        method = msgspec.structs.replace(at(self.method, strength), **alone)
        plan = method.plan(self.subject, self.collector.of(method, self.subject))
        changed = carried_out(self.subject, self.collector, plan)
        return self._measured(name, strength, changed, _reason(plan, name))

    def _measured(self, name: str, strength: float, subject: Subject, skipped: str = "") -> Entry:
        figures = evaluate(subject, self.task, "validation", samples=self.samples)
        return Entry(
            name=name,
            strength=strength,
            loss=figures["loss"],
            metric=figures[self.task.main],
            bytes=coded_bytes(subject),
            macs=subject.graph.macs,
            milliseconds=timed(subject, self.subject, self.target) if self.target is not None and name else None,
            skipped=skipped,
        )


def coded_bytes(subject: Subject) -> int:
    """Return the bytes of all coded tensors."""
    return sum(stored_bytes(to_artifact(freeze(subject)).tensors).values())


def timed(subject: Subject, whole: Subject, target: OnnxRuntime) -> tuple[float, float]:
    """Return the median milliseconds of a pass of ``subject``, and of ``whole`` in the same turns."""
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Artifact | str | Path] = dict(_files(Path(folder), {"cut": subject, "whole": whole}))
        inputs = arrays_of(assemble(load(Path(folder) / "whole.goss")), whole.args, whole.kwargs)
        found = target.measure(files, inputs)
    cut, before = (1e3 * float(found[name].run.latency.median.value) for name in ("cut", "whole"))
    return cut, before


def _files(folder: Path, subjects: dict[str, Subject]) -> Iterator[tuple[str, Path]]:
    for name, subject in subjects.items():
        frozen = freeze(subject)
        path = folder / f"{name}.goss"
        save(path, to_artifact(frozen, graph=frozen_graph(frozen, subject.args, subject.kwargs)))
        yield name, path


def literal(name: str) -> str:
    """Return a pattern that matches ``name`` alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _reason(plan: Plan, name: str) -> str:
    if plan.edits or plan.constraints or plan.tensors or plan.activations:
        return ""
    return next((skip.reason for skip in plan.skipped if skip.site == name), "the plan changes nothing")
