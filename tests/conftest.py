"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real data (`data/`) and reference tensors (`parity/`), named by MMM4REC_SHARED."""
    folder = os.environ.get("MMM4REC_SHARED")
    if not folder:
        pytest.skip("MMM4REC_SHARED is not set: the real data and the reference tensors are not at hand")
    return Path(folder)
