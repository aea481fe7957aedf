import torch

from gossamer.model.learned import positive


def test_a_step_that_went_astray_is_still_one():
    steps = positive(torch.tensor([1e4, -1e4, 0.0]))
    assert torch.isfinite(steps).all()
    assert (steps > 0).all()
    assert steps[2] == 1.0
