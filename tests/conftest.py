"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import subprocess
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


@pytest.fixture(scope="session")
def slurm() -> None:
    """A SLURM that tests may submit to: the one of ``SLURM_CONF``."""
    start = Path(__file__).parents[1] / ".ci" / "slurm"
    if "SLURM_CONF" not in os.environ:
        if not os.environ.get("OPTICAM_DASK_CI"):
            pytest.skip(f'no SLURM to test with: eval "$({start} start)" as root starts one')
        said = subprocess.run([start, "start"], check=True, capture_output=True, text=True).stdout
        os.environ["SLURM_CONF"] = said.strip().rpartition("=")[2]
    subprocess.run(["sinfo"], check=True, capture_output=True, timeout=30)
