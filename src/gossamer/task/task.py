"""A task: three splits, a loss, metrics and an example input, checked when it is made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gossamer.errors import TaskError
from gossamer.task.batch import Batch
from gossamer.task.losses import cross_entropy, squared_error
from gossamer.task.metrics import ACCURACY, BITS, MSE, PERPLEXITY, Metric
from gossamer.task.splits import Arrays, Samples, Split, hold_out

Loss = Callable[[Any, Any], Tensor]
Collate = Callable[[list[Any]], Batch]
SplitName = Literal["train", "validation", "test"]
Change = Literal["flip", "shift"]


@dataclass(frozen=True)
class Task:
    """What a model is for.

    Training reads ``train``; every choice (early stop, best checkpoint, a method's strength) reads ``validation``;
    ``test`` is read for reported figures only.

    Args:
        name: shown in reports and stored in files.
        train: training data.
        validation: data held out of the training set.
        test: data for reported figures, if there are any.
        loss: from outputs and targets to the mean loss of a batch.
        metrics: by name.
        main: the metric that decides.
        batch_size: of evaluation and calibration.
        labels: names of the classes or symbols, where there are any.
        augment: random changes of training images that leave their meaning as it is.

    Raises:
        TaskError: an unusable split, no metric, a main metric that is none of them, a bad first batch.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    loss: Loss
    metrics: Mapping[str, Metric]
    main: str
    batch_size: int = 256
    labels: tuple[str, ...] = ()
    augment: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            if split is None and name == "test":
                continue
            if not isinstance(split, Split):
                raise TaskError(
                    f"task {self.name!r}, {name}: a {type(split).__name__} is no split",
                    hint="use Arrays for tensors, Samples for a torch Dataset or a list",
                )
            if len(split) == 0:
                raise TaskError(f"task {self.name!r}, {name}: empty, wanted at least one sample")
        if self.main not in self.metrics:
            raise TaskError(f"task {self.name!r}: main metric {self.main!r} is not one of {sorted(self.metrics)}")
        if self.batch_size < 1:
            raise TaskError(f"task {self.name!r}: batch_size must be at least 1, got {self.batch_size}")

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments and keyword arguments of the first validation sample alone, as a batch of one."""
        batch = self.validation.batch(self.validation.order(None)[:1])
        return batch.args, batch.kwargs

    def worse(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """Return by how much the main metric got worse, in its units; less than zero if it got better."""
        lost = before[self.main] - after[self.main]
        return lost if self.metrics[self.main].higher_is_better else -lost

    def split(self, name: SplitName) -> Split:
        """Return the split called ``name``.

        Raises:
            TaskError: there is no such split.
        """
        found: Split | None = {"train": self.train, "validation": self.validation, "test": self.test}.get(name)
        if found is None:
            raise TaskError(f"task {self.name!r} has no {name} split")
        return found

    def batches(
        self,
        name: SplitName,
        *,
        batch_size: int | None = None,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of a split, for evaluation and calibration.

        Args:
            name: which split.
            batch_size: samples per batch; the task's own if not given. The last batch may be smaller.
            samples: stop after this many samples.
            generator: shuffles; without it the order is the split's own.

        Raises:
            TaskError: there is no such split.
        """
        split = self.split(name)
        order = split.order(generator)[:samples]
        for indices in torch.split(order, batch_size or self.batch_size):
            yield split.batch(indices)

    @classmethod
    def classification(
        cls,
        name: str,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        collate: Collate | None = None,
        batch_size: int = 256,
        labels: tuple[str, ...] = (),
        augment: tuple[Change, ...] = (),
        seed: int = 0,
    ) -> "Task":
        """Make a task whose targets are class indices: cross entropy of logits, accuracy.

        Args:
            name: shown in reports.
            train: a split, a pair of tensors (inputs, targets), or a data set of pairs (input, target).
            validation: likewise; if not given, a tenth of ``train`` is held out with the fixed ``seed``.
            test: likewise, or None.
            collate: for data sets of other samples: from a list of samples to a :class:`Batch`.
            batch_size: of evaluation and calibration.
            labels: names of the classes.
            augment: random changes of training images that leave their class as it is.
            seed: of the held-out tenth.

        Raises:
            TaskError: unusable data.
        """
        splits = _splits(name, train, validation, test, collate=collate, seed=seed)
        return cls(name, *splits, cross_entropy, {"accuracy": ACCURACY}, "accuracy", batch_size, labels, augment)

    @classmethod
    def regression(
        cls,
        name: str,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        collate: Collate | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> "Task":
        """Make a task whose targets are numbers of the outputs' shape: mean squared error; see :meth:`classification`.

        Raises:
            TaskError: unusable data.
        """
        splits = _splits(name, train, validation, test, collate=collate, seed=seed)
        return cls(name, *splits, squared_error, {"mse": MSE}, "mse", batch_size)

    @classmethod
    def sequence(
        cls,
        name: str,
        train: Any,
        validation: Any = None,
        test: Any = None,
        *,
        collate: Collate | None = None,
        batch_size: int = 64,
        labels: tuple[str, ...] = (),
        seed: int = 0,
    ) -> "Task":
        """Make a task that predicts a symbol at each step: cross entropy, bits per symbol; see :meth:`classification`.

        Raises:
            TaskError: unusable data.
        """
        splits = _splits(name, train, validation, test, collate=collate, seed=seed)
        metrics = {"bits": BITS, "perplexity": PERPLEXITY, "accuracy": ACCURACY}
        return cls(name, *splits, cross_entropy, metrics, "bits", batch_size, labels)


def _splits(
    name: str, train: Any, validation: Any, test: Any, *, collate: Collate | None, seed: int
) -> tuple[Split, Split, Split | None]:
    trained = _as_split(train, collate, f"task {name!r}, train")
    tested = None if test is None else _as_split(test, collate, f"task {name!r}, test")
    if validation is not None:
        return trained, _as_split(validation, collate, f"task {name!r}, validation"), tested
    if len(trained) < 2:
        raise TaskError(f"task {name!r}, train: {len(trained)} samples are too few to hold some out for validation")
    return *hold_out(trained, max(1, len(trained) // 10), seed=seed), tested


def _as_split(data: Any, collate: Collate | None, what: str) -> Split:
    if isinstance(data, Split):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        return Arrays(data[0], data[1], what=what)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return Samples(data, collate, what=what)
    raise TaskError(
        f"{what}: a {type(data).__name__} cannot be used as data",
        hint="give a pair of tensors (inputs, targets), a torch Dataset with len, or a list of pairs",
    )
