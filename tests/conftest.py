"""Settings shared by all tests."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models built in a test start from the same weights in every run and order."""
    torch.manual_seed(0)
