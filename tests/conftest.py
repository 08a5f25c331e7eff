"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Directory with real frames, which are not part of the project."""
    given = os.environ.get("OPTICAM_DASK_REAL_DATA")
    directory = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"no real frames at {directory} (OPTICAM_DASK_REAL_DATA names another place)")
    return directory
