"""Every error a caller can meet, each naming the thing, the place, what was wanted, what was got, and a hint."""

from collections.abc import Iterator
from contextlib import contextmanager


class GossamerError(Exception):
    """Base of all errors raised on purpose; the command line prints these without a traceback.

    Args:
        message: what went wrong, naming the thing and the place.
        hint: what the caller can do about it, where there is something.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} (hint: {hint})")
        self.message = message
        self.hint = hint


class SettingError(GossamerError):
    """A setting has a value outside its declared type or range."""


class PatternError(GossamerError):
    """A pattern given to include or exclude matches no site."""


class ModelError(GossamerError):
    """A model, its example inputs or one of its sites cannot be used as asked."""


class PlanError(GossamerError):
    """A plan does not fit the subject it is applied to."""


class TaskError(GossamerError):
    """A task, its data or its metrics are unusable: empty, misshapen, or not finite."""


class DataError(TaskError):
    """A data set is missing, damaged or in an unknown form."""


class TrainingError(GossamerError):
    """Training cannot go on: a loss that is not finite, or a checkpoint that does not fit."""


class EvidenceError(GossamerError):
    """A method asked for evidence that calibration did not collect, or calibration saw bad data."""


class StateError(GossamerError):
    """A state dict, or a file of one, is missing, damaged or in a form that cannot be read or stored."""


class CodingError(GossamerError):
    """An array cannot be coded, or coded parts do not fit together."""


class ArtifactError(GossamerError):
    """A file is not a valid artifact; names what is wrong and where in the file.

    Args:
        what: the rule that is broken.
        where: the part of the file (``header``, ``blob 3``, ``byte 120``, a tensor's name).
    """

    def __init__(self, what: str, where: str, *, hint: str | None = None) -> None:
        super().__init__(f"{where}: {what}", hint=hint)
        self.what = what
        self.where = where


class TargetError(GossamerError):
    """A target cannot export, load or run what it was given."""


class BusyError(GossamerError):
    """The folder of a run is in use by another run."""


class RecipeError(GossamerError):
    """A recipe's text or its journal is wrong or does not belong to this run."""


@contextmanager
def about(source: object) -> Iterator[None]:
    """Let every error raised in the block begin with ``source``, the file it is about; None changes nothing."""
    try:
        yield
    except GossamerError as error:
        if source is None:
            raise
        if isinstance(error, ArtifactError):
            raise ArtifactError(error.what, f"{source}, {error.where}", hint=error.hint) from error
        raise type(error)(f"{source}: {error.message}", hint=error.hint) from error
