"""Settings shared by all tests."""

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # workers inherit a narrow one; tables are tested at the width of a pipe


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models built in a test start from the same weights in every run and order."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """On CI, where `.ci/run` installs all data, a test that is skipped for want of data has failed."""
    report = yield
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple) and "data" in report.longrepr[2]:
        report.outcome = "failed"
    return report
