"""The embedded set: 1,797 handwritten digits of 8×8 pixels with values 0 to 16, shipped inside the package.

E. Alpaydin, C. Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, licence CC BY 4.0; see ``data/ATTRIBUTION.md``.
"""

import gzip
from importlib.resources import files

import numpy as np
import torch

from gossamer.task import Arrays, Task

LABELS = tuple("0123456789")
TRAIN, VALIDATION = 1_257, 180
"""The rest, 360, is test data; the split is by a permutation with seed 0."""
MEAN, DEVIATION = 4.884, 6.017
"""Of all pixels; fixed numbers, so that networks trained here read other digits alike."""


def task() -> Task:
    """Return the task: images float32 (N, 1, 8, 8), targets int64 (N,)."""
    packed = (files("gossamer.datasets") / "data" / "digits.csv.gz").read_bytes()
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    rows = torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.float32))
    images = ((rows[:, :-1] - MEAN) / DEVIATION).view(-1, 1, 8, 8)
    labels = rows[:, -1].long()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    parts = torch.split(order, [TRAIN, VALIDATION, len(rows) - TRAIN - VALIDATION])
    train, validation, test = (Arrays(images[part], labels[part], what="digits") for part in parts)
    return Task.classification("digits", train, validation, test, labels=LABELS)
