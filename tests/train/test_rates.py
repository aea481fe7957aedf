"""Learning rates against torch's own schedulers, and changes of images against a slow reference."""

import pytest
import torch

from gossamer.task import Batch
from gossamer.train.augment import REACH, augmented, flip, shift
from gossamer.train.rates import rate


def test_one_cycle_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=50, cycle_momentum=False)
    for step in range(50):
        assert rate("one_cycle", step, 50, 0.5) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < 49:
            scheduler.step()


def test_cosine_and_constant():
    assert rate("cosine", 0, 10, 2.0) == 2.0
    assert rate("cosine", 5, 10, 2.0) == pytest.approx(1.0)
    assert rate("constant", 7, 10, 2.0) == 2.0
    assert 0 < rate("one_cycle", 0, 1, 2.0) <= 2.0


def test_flip_mirrors_about_half_of_the_images_and_changes_nothing_else():
    images = torch.arange(100 * 2 * 3 * 4, dtype=torch.float32).view(100, 2, 3, 4)
    done = flip(images, torch.Generator().manual_seed(0))
    mirrored = [bool(torch.equal(one, other.flip(-1))) for one, other in zip(done, images, strict=True)]
    kept = [bool(torch.equal(one, other)) for one, other in zip(done, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 30 < sum(mirrored) < 70


def test_shift_moves_each_image_by_its_own_amount():
    images = torch.randn(40, 2, 6, 5)
    done = shift(images, torch.Generator().manual_seed(0))
    assert done.shape == images.shape
    padded = torch.nn.functional.pad(images, (REACH,) * 4, mode="replicate")
    moves = set()
    for one, other in zip(done, padded, strict=True):
        found = [
            (i, j)
            for i in range(2 * REACH + 1)
            for j in range(2 * REACH + 1)
            if torch.equal(one, other[:, i : i + 6, j : j + 5])
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 10


def test_no_change_returns_the_batch_itself():
    batch = Batch((torch.zeros(1),), {}, None)
    assert augmented(batch, (), torch.Generator()) is batch
