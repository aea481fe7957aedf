"""The journal of a run: a folder in which every finished step appears complete or not at all.

::

    folder/
      recipe.toml      the recipe as it runs
      journal.json     what the run is of: fingerprints of recipe, weights and task
      step-00/         the start; step-01/ ... each finished step: state.safetensors, step.json, model.goss
      training-02/     the checkpoint of the training under way
      report.json      the report so far
      .lock            held while the run goes on
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from gossamer.artifact.files import write_file
from gossamer.errors import RecipeError
from gossamer.figure import decode
from gossamer.lock import locked
from gossamer.model import Subject
from gossamer.recipe.evidence import SAMPLES
from gossamer.recipe.recipe import Recipe
from gossamer.task import Task
from gossamer.task.digest import digest
from gossamer.train.identity import weights_digest

FORMAT = 2

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is of. Two runs with the same identity do the same."""

    format: int
    recipe: str
    weights: str
    task: str
    data: str = ""
    samples: int = SAMPLES

    @classmethod
    def of(cls, recipe: Recipe, subject: Subject, task: Task, samples: int) -> "Identity":
        """Return the identity of a run."""
        sizes = [len(split) for split in (task.train, task.validation, task.test) if split is not None]
        return cls(
            format=FORMAT,
            recipe=hashlib.sha256(recipe.to_toml().encode()).hexdigest(),
            weights=fingerprint(subject),
            task=f"{task.name} ({', '.join(map(str, sizes))} samples)",
            data=digest(task),
            samples=samples,
        )

    def differences(self, other: "Identity") -> list[str]:
        """Return what differs, in words."""
        words = {"format": "the journal's format", "recipe": "the recipe", "weights": "the model's weights"}
        found = [text for name, text in words.items() if getattr(self, name) != getattr(other, name)]
        if self.task != other.task:
            found.append(f"the task ({self.task} there, {other.task} here)")
        elif self.data != other.data:
            found.append(f"the data of {self.task}")
        if self.samples != other.samples:
            found.append(f"how many samples calibration sees ({self.samples} there, {other.samples} here)")
        return found


class Journal:
    """The folder of one run; see the module's docstring.

    Args:
        folder: made if missing.
        recipe: the recipe as it runs.
        subject: the subject before the first step.
        task: the task.
        samples: samples that calibration sees.

    Raises:
        RecipeError: the folder holds another run that has got somewhere, or something that is no journal.
    """

    def __init__(self, folder: Path, recipe: Recipe, subject: Subject, task: Task, samples: int) -> None:
        self.folder = folder
        mine = Identity.of(recipe, subject, task, samples)
        kept = folder / "journal.json"
        if kept.exists():
            differ = _differences(kept, mine)
            if not differ:
                return
            self._make_way(differ)
        elif folder.exists() and any(folder.glob("step-*")):
            raise RecipeError(f"{folder} holds steps but no journal.json", hint="name another folder, or delete it")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "recipe.toml", recipe.to_toml().encode())
        write(kept, msgspec.json.format(msgspec.json.encode(mine), indent=1))

    def _make_way(self, differ: list[str]) -> None:
        """Drop what another run left that ended before its first step was done; one that got further is refused."""
        if any(path != self.step(0) for kind in ("step-*", "training-*") for path in self.folder.glob(kind)):
            raise RecipeError(
                f"{self.folder} is the journal of another run; what differs: {' and '.join(differ)}",
                hint="name another folder (--work), or start anew (--restart; from Python, delete this one)",
            )
        shutil.rmtree(self.step(0), ignore_errors=True)

    def step(self, number: int) -> Path:
        """Return the folder of a step, 0 for the start."""
        return self.folder / f"step-{number:02d}"

    def training(self, number: int) -> Path:
        """Return the folder for the checkpoint of a step's training."""
        return self.folder / f"training-{number:02d}"

    @property
    def finished(self) -> int:
        """Number of the last finished step; -1 before the start is kept."""
        number = -1
        while self.step(number + 1).is_dir():
            number += 1
        return number

    def commit(self, number: int, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write a step's files into a folder of its own, then make that the step's folder in one move."""
        part = self.folder / f".step-{number:02d}.partial"
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        fill(part)
        for path in part.iterdir():
            _sync(path)
        _sync(part)
        part.rename(self.step(number))
        _sync(self.folder)
        if self.training(number).exists():
            shutil.rmtree(self.training(number))


def forget(folder: Path) -> None:
    """Delete what a journal keeps in ``folder``, and nothing else there.

    Raises:
        BusyError: the run is going on.
    """
    if not folder.exists():
        return
    with locked(folder):
        for name in ("step-[0-9]*", "training-[0-9]*", ".step-[0-9]*.partial"):
            for path in folder.glob(name):
                shutil.rmtree(path)
        for name in ("journal.json", "recipe.toml", "report.json", "costs.json", "test.json"):
            (folder / name).unlink(missing_ok=True)


def fingerprint(subject: Subject) -> str:
    """Return a hash of the names, shapes, dtypes and bits of a subject's state dict."""
    return weights_digest(subject.model.state_dict())


def write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one move: after a crash the old file or the new is there, never a piece."""
    write_file(path, [data])


def read(path: Path, kind: type[T]) -> T:
    """Return the value that a file of the journal holds.

    Raises:
        RecipeError: the file is missing, damaged or of another kind.
    """
    try:
        return decode(path.read_bytes(), kind)
    except (msgspec.MsgspecError, OSError) as error:
        raise RecipeError(
            f"{path}: cannot be read back: {error}", hint="delete the folder of the run to start anew"
        ) from error


def _differences(path: Path, mine: Identity) -> list[str]:
    """Return what differs between the run that a journal is of and this one, in words."""
    try:
        theirs = msgspec.json.decode(path.read_bytes(), type=Identity)
    except msgspec.MsgspecError as error:
        raise RecipeError(f"{path}: no journal: {error}", hint="name another folder, or delete it") from error
    return theirs.differences(mine)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
