"""Random changes of training images, for a whole batch at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.errors import TaskError
from gossamer.task import Batch, Change

REACH = 2
"""How many pixels an image is shifted at most, each way."""


def augmented(batch: Batch, changes: tuple[Change, ...], generator: torch.Generator) -> Batch:
    """Return the batch with each change made to its first argument, images (n, channels, height, width).

    Raises:
        TaskError: the first argument holds no images.
    """
    if not changes:
        return batch
    images = batch.args[0] if batch.args else None
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise TaskError(f"augment {list(changes)}: wanted images (n, channels, height, width), got {shape}")
    for change in changes:
        images = flip(images, generator) if change == "flip" else shift(images, generator)
    return batch._replace(args=(images, *batch.args[1:]))


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to :data:`REACH` pixels each way; what comes in is its own edge."""
    n, _, height, width = images.shape
    padded = F.pad(images, (REACH, REACH, REACH, REACH), mode="replicate")
    down, right = torch.randint(2 * REACH + 1, (2, n), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    picked = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
