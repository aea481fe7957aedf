"""Splits: data that hands out batches by index, without Python code per sample where the data are tensors."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gossamer.errors import TaskError
from gossamer.task import check
from gossamer.task.batch import IGNORE, Batch


@runtime_checkable
class Split(Protocol):
    """Data of one split: how many samples, in which order an epoch visits them, and the batch of some of them."""

    def __len__(self) -> int:
        """Return the number of samples an epoch visits."""

    def order(self, generator: torch.Generator | None) -> Tensor:
        """Return the indices of one epoch, shuffled if a generator is given, else in their own order."""

    def batch(self, indices: Tensor) -> Batch:
        """Return the batch of the samples at ``indices``."""


class Counted:
    """Base of splits whose samples are numbered 0 to n - 1."""

    count: int

    def __len__(self) -> int:
        return self.count

    def order(self, generator: torch.Generator | None) -> Tensor:
        """Return a permutation of 0 to n - 1, or these in order."""
        return torch.arange(self.count) if generator is None else torch.randperm(self.count, generator=generator)


class Arrays(Counted):
    """Samples along dimension 0 of tensors.

    Args:
        inputs: one tensor, or several that are passed as positional arguments.
        targets: tensor with as many rows.
        what: named in errors.

    Raises:
        TaskError: empty, different numbers of rows, NaN or infinity.
    """

    def __init__(self, inputs: Tensor | tuple[Tensor, ...], targets: Tensor, *, what: str = "data") -> None:
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.targets = targets
        for number, tensor in enumerate((*self.inputs, targets)):
            if tensor.ndim == 0:
                raise TaskError(f"{what}: input {number} is a single number, wanted one row per sample")
            check.same_length(len(tensor), len(targets), what)
            check.finite(tensor, what)
        self.count = len(targets)

    def batch(self, indices: Tensor) -> Batch:
        """Return the rows at ``indices``."""
        return Batch(tuple(tensor[indices] for tensor in self.inputs), {}, self.targets[indices])


class Images(Counted):
    """Images kept as bytes and turned into numbers of mean 0 and deviation 1 a batch at a time.

    Args:
        pixels: uint8, (N, channels, height, width).
        targets: int64, (N,).
        mean: of pixels / 255 over the training set.
        deviation: standard deviation of the same.
        what: named in errors.

    Raises:
        TaskError: empty, wrong shape or type, different numbers of images and targets.
    """

    def __init__(self, pixels: Tensor, targets: Tensor, *, mean: float, deviation: float, what: str = "images") -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise TaskError(
                f"{what}: wanted uint8 pixels (N, channels, height, width), got {pixels.dtype} {tuple(pixels.shape)}"
            )
        check.same_length(len(pixels), len(targets), what)
        self.pixels, self.targets, self.mean, self.deviation = pixels, targets, mean, deviation
        self.count = len(pixels)

    def batch(self, indices: Tensor) -> Batch:
        """Return float32 images (n, channels, height, width) and their targets."""
        images = self.pixels[indices].float().sub_(255 * self.mean).div_(255 * self.deviation)
        return Batch((images,), {}, self.targets[indices])


class Sequences(Counted):
    """Sequences of varying length, padded with zeros at the end; the model also gets their lengths.

    Args:
        frames: one float tensor (steps, features) or int tensor (steps,) per sequence.
        targets: class of each sequence, int64 (N,); or one tensor (steps,) per sequence, padded with ``IGNORE``.
        what: named in errors.

    Raises:
        TaskError: no sequence, an empty one, NaN, targets that do not fit.
    """

    def __init__(
        self, frames: Sequence[Tensor], targets: Tensor | Sequence[Tensor], *, what: str = "sequences"
    ) -> None:
        check.same_length(len(frames), len(targets), what)
        for number, sequence in enumerate(frames):
            if sequence.ndim == 0 or len(sequence) == 0:
                raise TaskError(f"{what}: sequence {number} is empty")
            if sequence.shape[1:] != frames[0].shape[1:]:
                raise TaskError(
                    f"{what}: sequence {number} has steps of shape {tuple(sequence.shape[1:])}, "
                    f"sequence 0 of {tuple(frames[0].shape[1:])}"
                )
            if not isinstance(targets, Tensor) and len(targets[number]) != len(sequence):
                raise TaskError(
                    f"{what}: sequence {number} has {len(sequence)} steps but {len(targets[number])} targets"
                )
            check.finite(sequence, f"{what}, sequence {number}")
        self.frames, self.targets, self.count = frames, targets, len(frames)

    def batch(self, indices: Tensor) -> Batch:
        """Return args (frames (n, longest, ...), lengths int64 (n,)) and the targets."""
        chosen = indices.tolist()
        frames = [self.frames[i] for i in chosen]
        lengths = torch.tensor([len(sequence) for sequence in frames])
        if isinstance(self.targets, Tensor):
            targets = self.targets[indices]
        else:
            targets = pad_sequence([self.targets[i] for i in chosen], batch_first=True, padding_value=IGNORE)
        return Batch((pad_sequence(frames, batch_first=True), lengths), {}, targets)


class Windows:
    """Windows of a long sequence of symbols; the target of each symbol is the next one.

    Every window is read from an empty state. A shuffled epoch starts its windows at a random offset, so that in time
    each symbol is seen with contexts of every length.

    Args:
        symbols: int64, (n,).
        steps: symbols per window.
        what: named in errors.

    Raises:
        TaskError: too short for one window.
    """

    def __init__(self, symbols: Tensor, steps: int, *, what: str = "text") -> None:
        if symbols.ndim != 1 or len(symbols) <= steps:
            raise TaskError(f"{what}: wanted more than {steps} symbols in a row, got shape {tuple(symbols.shape)}")
        self.symbols, self.steps = symbols, steps

    def __len__(self) -> int:
        return (len(self.symbols) - 1) // self.steps

    def order(self, generator: torch.Generator | None) -> Tensor:
        """Return where the windows of one epoch start, as positions in the text."""
        starts = torch.arange(len(self)) * self.steps
        if generator is None:
            return starts
        offset = torch.randint(self.steps, (), generator=generator)
        starts = (starts + offset) % (len(self.symbols) - self.steps)
        return starts[torch.randperm(len(starts), generator=generator)]

    def batch(self, indices: Tensor) -> Batch:
        """Return symbols (n, steps) and the symbols after each, (n, steps)."""
        window = self.symbols[indices[:, None] + torch.arange(self.steps + 1)]
        return Batch((window[:, :-1].contiguous(),), {}, window[:, 1:].contiguous())


def pairs(samples: list[Any]) -> Batch:
    """Collate samples ``(input, target)`` as torch does by default: tensors, numbers and arrays are stacked.

    Raises:
        TaskError: a sample is not such a pair, or they cannot be stacked.
    """
    if any(not isinstance(sample, (tuple, list)) or len(sample) != 2 for sample in samples):
        raise TaskError(
            "a sample is not a pair (input, target)", hint="give `collate`, from a list of samples to a Batch"
        )
    try:
        inputs, targets = torch.utils.data.default_collate(samples)
    except (RuntimeError, TypeError) as error:
        raise TaskError(
            f"samples cannot be stacked: {error}", hint="give `collate`, from a list of samples to a Batch"
        ) from error
    return Batch((inputs,), {}, targets)


class Samples(Counted):
    """Any data set with ``len`` and integer indexing, such as ``torch.utils.data.Dataset`` or a list.

    Args:
        data: the data set.
        collate: from a list of samples to a :class:`Batch`; the default takes pairs (input, target).
        what: named in errors.

    Raises:
        TaskError: empty, or its first sample cannot be made a batch.
    """

    def __init__(self, data: Any, collate: Callable[[list[Any]], Batch] | None = None, *, what: str = "data") -> None:
        self.data, self.collate, self.what = data, collate or pairs, what
        self.count = len(data)
        check.same_length(self.count, self.count, what)
        self.batch(torch.tensor([0]))

    def batch(self, indices: Tensor) -> Batch:
        """Return the collated samples at ``indices``.

        Raises:
            TaskError: the collated value is no batch, or has a NaN.
        """
        batch = self.collate([self.data[i] for i in indices.tolist()])
        if not isinstance(batch, Batch):
            if not isinstance(batch, tuple) or len(batch) != 3:
                raise TaskError(
                    f"{self.what}: collate returned a {type(batch).__name__}, wanted (args, kwargs, targets)"
                )
            batch = Batch(*batch)
        for value in (*batch.args, *batch.kwargs.values(), batch.targets):
            if isinstance(value, Tensor):
                check.finite(value, f"{self.what}, samples {indices.tolist()[:3]}...")
        return batch


class Subset(Counted):
    """Some samples of another split.

    Args:
        split: where the samples are.
        indices: int64, which of them.
    """

    def __init__(self, split: Split, indices: Tensor) -> None:
        self.split, self.indices, self.count = split, indices, len(indices)

    def batch(self, indices: Tensor) -> Batch:
        """Return the batch of these members."""
        return self.split.batch(self.indices[indices])


def hold_out(split: Split, count: int, *, seed: int = 0) -> tuple[Split, Split]:
    """Return ``split`` without ``count`` samples chosen at random, and these samples.

    Raises:
        TaskError: there are not more than ``count`` samples.
    """
    if not 0 < count < len(split):
        raise TaskError(f"cannot hold {count} samples out of {len(split)}")
    order = split.order(torch.Generator().manual_seed(seed))
    return Subset(split, order[count:].sort().values), Subset(split, order[:count].sort().values)
