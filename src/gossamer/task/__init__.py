"""What a model is for: data in three splits, a loss, metrics with a direction, and an example input."""

from gossamer.task.batch import IGNORE, Batch
from gossamer.task.evaluation import evaluate
from gossamer.task.losses import cross_entropy, nll, squared_error
from gossamer.task.metrics import ACCURACY, BITS, MSE, PERPLEXITY, Metric
from gossamer.task.splits import Arrays, Images, Samples, Sequences, Split, Subset, Windows, hold_out
from gossamer.task.task import Change, Task

__all__ = [
    "ACCURACY",
    "BITS",
    "IGNORE",
    "MSE",
    "PERPLEXITY",
    "Arrays",
    "Batch",
    "Change",
    "Images",
    "Metric",
    "Samples",
    "Sequences",
    "Split",
    "Subset",
    "Task",
    "Windows",
    "cross_entropy",
    "evaluate",
    "hold_out",
    "nll",
    "squared_error",
]
