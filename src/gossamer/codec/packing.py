"""Pack: any state dict to a ``.goss`` file, without a model; memory holds one tensor at a time.

Without loss by default; with a step or a size, see `loss`. A size is met by writing the file once for every step
that is tried, so what is counted is what is there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import Progress

from gossamer.artifact import Artifact
from gossamer.artifact.stream import Spool
from gossamer.codec.loss import EVEN, Loss
from gossamer.codec.safetensors import SafetensorsFile
from gossamer.codec.source import Arrays, Entry, Source
from gossamer.codec.target import search
from gossamer.codings import describe, encode
from gossamer.errors import CodingError, SettingError, StateError

_COPY = 64
"""Bytes from which a tensor that equals an earlier one is stored as its further name."""


class PackedTensor(msgspec.Struct, frozen=True):
    """One tensor: its coding in one line, its bytes stored and dense, and what it lost.

    ``step`` is the distance of two grid points, None where the tensor is on no grid; ``significant_bits`` what a small
    tensor keeps of each element, None where it keeps all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    coding: str
    bytes: int
    dense_bytes: int
    step: float | None
    significant_bits: int | None


class Packed(msgspec.Struct, frozen=True):
    """A file that was packed.

    ``dense_bytes`` are those of all tensors as arrays in their own dtypes, ``ratio`` is over the file with its header.
    ``step`` is the one given, or sought, in standard deviations of a tensor (of 65,536 weights where it was sought);
    None if nothing is lost. ``aliases`` are further names of stored tensors.
    """

    path: str
    bytes: int
    dense_bytes: int
    ratio: float
    header_bytes: int
    step: float | None
    trials: int
    tensors: tuple[PackedTensor, ...]
    aliases: Mapping[str, str]


def pack(
    source: str | Path | Mapping[str, Any],
    path: str | Path,
    *,
    step: float | None = None,
    size: int | None = None,
    exact: Sequence[str] = (),
    progress: Progress | None = None,
) -> Packed:
    """Write a state dict as a ``.goss`` file.

    Args:
        source: a ``.safetensors`` file (read a tensor at a time), a ``.pt`` or ``.pth`` file of a state dict, or a
            state dict: torch tensors or numpy arrays by name.
        path: the file to write; it appears complete or not at all.
        step: grid of every matrix, in its own standard deviations; vectors and tensors of fewer than 1,024 elements
            keep as many significant bits as float16 has, more where half a step is less.
        size: bytes that the file may have; the coarsest grids that are needed are used, none if it fits without loss.
        exact: patterns of names of tensors that lose nothing.
        progress: bars to add one of tensors to.

    Raises:
        StateError: the source cannot be read, not without running code, or holds what cannot be stored.
        SettingError: a setting is out of its range, or the size cannot be met.
        PatternError: a pattern matches no tensor.
        ArtifactError: the file cannot be written.
    """
    loss = Loss(step=step, size=size, exact=tuple(exact))
    path = Path(path)
    with ExitStack() as stack:
        read = stack.enter_context(_opened(source))
        _check_names(read)
        loss.check([entry.name for entry in read.entries])
        path.parent.mkdir(parents=True, exist_ok=True)
        job = _Job(read, path, loss, stack, progress)
        if size is None:
            job.trial(step)
        else:
            _meet(job, size)
        return job.place()


def _meet(job: "_Job", size: int) -> None:
    """Find the file that fits ``size``.

    Raises:
        SettingError: even the coarsest does not.
    """
    weights = job.weights()
    least = job.trial(None)
    if least <= size:
        return
    if not weights:
        raise SettingError(
            f"size is {size} bytes, but nothing here may lose precision and the file has {least}",
            hint=f"give at least {least}",
        )
    if search(size, weights, job.trial) is None:
        raise SettingError(
            f"size is {size} bytes, but even on the coarsest grids the file has {job.least}",
            hint=f"give at least {job.least}; gossamer compress prunes and shares weights with regard to a task",
        )


class _Job:
    """Writes trial after trial and keeps the best that fits: the largest of at most the size wanted.

    Attributes:
        dense: bytes of all tensors as arrays.
        least: bytes of the smallest trial.
    """

    def __init__(self, source: Source, path: Path, loss: Loss, stack: ExitStack, progress: Progress | None) -> None:
        self._source, self._path, self._loss, self._progress = source, path, loss, progress
        self._kept = stack.enter_context(ExitStack())
        self._best: tuple[Spool, Packed] | None = None
        self._trials = 0
        self._tied = set(source.aliases.values())  # to store one as a copy would tie its further names to another
        self.dense = sum(entry.nbytes for entry in source.entries)
        self.least = 0

    def weights(self) -> int:
        """Return how many elements a step is for."""
        return sum(prod(entry.shape) for entry in self._source.entries if self._loss.grids(entry))

    def trial(self, step: float | None) -> int:
        """Write the file with a step, or without loss, keep it if it is the best so far, and return its bytes.

        A file without loss that is seen to become too large is left there, and what it has so far returned.
        """
        self._trials += 1
        most = self._loss.size if step is None and self.weights() else None
        with ExitStack() as stack:
            spool = stack.enter_context(Spool(self._path))
            packed = self._write(spool, step, most)
            if isinstance(packed, int):
                return packed
            self.least = min(self.least or packed.bytes, packed.bytes)
            fits = self._loss.size is None or packed.bytes <= self._loss.size
            if fits and (self._best is None or packed.bytes > self._best[1].bytes):
                self._kept.close()
                self._kept.push(stack.pop_all())
                self._best = spool, packed
        return packed.bytes

    def place(self) -> Packed:
        """Move the best trial to its place."""
        if self._best is None:
            raise SettingError(f"no file of at most {self._loss.size} bytes was found")
        spool, packed = self._best
        spool.place()
        return msgspec.structs.replace(packed, trials=self._trials)

    def _write(self, spool: Spool, step: float | None, most: int | None) -> Packed | int:
        """Write every tensor; return the bytes so far as soon as they are more than ``most``."""
        so_far = 0
        seen: dict[object, str] = {}
        aliases, copies, rows = dict(self._source.aliases), {}, []
        for place, entry in self._tracked():
            row = self._one(spool, entry, step, seen)
            if isinstance(row, str):
                aliases[entry.name], copies[entry.name] = row, place
                continue
            rows.append(row)
            so_far += row.bytes
            if most is not None and so_far > most:
                return so_far
        meta: dict[str, Any] = {}
        if copies:
            meta |= {"copies": copies, "dense_bytes": self.dense}
        if self._source.metadata:
            meta["safetensors"] = dict(self._source.metadata)
        if step is not None:
            meta["step"] = step
        total = spool.seal(Artifact({}, aliases=aliases, meta=meta))
        head = total - sum(row.bytes for row in rows)
        return Packed(
            str(self._path), total, self.dense, self.dense / total, head, step, self._trials, tuple(rows), aliases
        )

    def _one(self, spool: Spool, entry: Entry, step: float | None, seen: dict[object, str]) -> PackedTensor | str:
        """Write one tensor and return its row, or the name of an earlier one that is the same."""
        dense = self._source.read(entry)
        if entry.nbytes >= _COPY and entry.name not in self._tied:
            digest = blake2b(dense.array.data, digest_size=16).digest()
            first = seen.setdefault((digest, entry.dtype, entry.shape, self._loss.spares(entry.name)), entry.name)
            if first != entry.name:
                return first
        hint, used, bits = self._loss.of(entry.name, dense, step)
        del dense
        try:
            # A long tensor on a grid has levels, and looking for another structure takes three times as long.
            coding = encode(hint, structured=used is not None and prod(entry.shape) > EVEN)
        except CodingError as error:
            raise StateError(f"tensor {entry.name}: {error.message}") from error
        stored = spool.add(entry.name, coding)
        return PackedTensor(entry.name, entry.shape, entry.dtype, describe(coding), stored, entry.nbytes, used, bits)

    def _tracked(self) -> Iterator[tuple[int, Entry]]:
        told = "packing" if self._loss.size is None else f"packing, trial {self._trials}"
        bar = None if self._progress is None else self._progress.add_task(told, total=len(self._source.entries))
        for place, entry in enumerate(self._source.entries):
            yield place, entry
            if self._progress is not None and bar is not None:
                self._progress.advance(bar)
        if self._progress is not None and bar is not None:
            self._progress.remove_task(bar)


def _check_names(source: Source) -> None:
    """Refuse names and metadata that no file can hold.

    Raises:
        StateError: one is no text, or cannot be written as UTF-8.
    """
    for text in (*(entry.name for entry in source.entries), *source.aliases, *chain(*source.metadata.items())):
        if not isinstance(text, str):
            raise StateError(f"the name of a tensor is a text, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StateError(f"{text!r} cannot be stored: {error}") from None


@contextmanager
def _opened(source: str | Path | Mapping[str, Any]) -> Iterator[Source]:
    """Open what is to be packed; torch is imported only for what torch has made."""
    if isinstance(source, Mapping):
        plain = not any(type(value).__module__.startswith("torch") for value in source.values())
        yield Arrays(source) if plain else _of_torch(source)
        return
    path = Path(source)
    if path.suffix == ".safetensors":
        with SafetensorsFile(path) as file:
            yield file
    elif path.suffix in {".pt", ".pth"}:
        yield _of_torch(path)
    else:
        raise StateError(
            f"{path}: wanted a file ending in .safetensors, .pt or .pth",
            hint="safetensors.torch.save_file(model.state_dict(), ...) makes one",
        )


def _of_torch(source: Path | Mapping[str, Any]) -> Source:
    from gossamer.codec.torch_state import Tensors, read_state  # noqa: PLC0415 torch is heavy, and often not needed

    return Tensors(read_state(source) if isinstance(source, Path) else source)
