"""Fixtures shared by the tests."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from astropy.utils import iers
from hypothesis import HealthCheck, settings

# the same examples in every run, however slow the machine is
settings.register_profile(
    "suite", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# where tests ask astropy for times or altitudes to compare with, it takes the tables that it brings
iers.conf.auto_download = False


def pytest_configure() -> None:
    """Heed Ctrl-C, which a shell lets the programs that it runs in the background, and their children, ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Close what a failed test left open before the next one begins, which would be told of it."""
    n_failed = item.session.testsfailed
    found = yield
    if item.session.testsfailed > n_failed:
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    return found


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
    """A SLURM that tests may submit to: one that ``OPTICAM_DASK_SLURM`` says is for tests, as no other is."""
    start = Path(__file__).parents[1] / ".ci" / "slurm"
    if os.environ.get("OPTICAM_DASK_SLURM") != "1":
        if not os.environ.get("OPTICAM_DASK_CI"):
            pytest.skip(f'no SLURM to test with: eval "$({start} start)" as root starts one')
        said = subprocess.run([start, "start"], check=True, capture_output=True, text=True).stdout
        exported = (
            line.removeprefix("export ").partition("=") for line in said.splitlines() if line.startswith("export ")
        )
        os.environ.update({name: value for name, _, value in exported})
    subprocess.run(["sinfo"], check=True, capture_output=True, timeout=30)


#: Tests that answer at once: folders and files, by the processor time that they were measured to take. All others are
#: slow: they reduce nights, start workers or open browsers.
_QUICK = (
    "kernels",
    "steps",
    "project/test_rooms.py",
    "project/test_habits.py",
    "store/test_stored_identities.py",
    "store/test_chunk_files.py",
    "frames/test_instruments.py",
    "frames/test_synthetic.py",
    "cluster/test_blocks.py",
    "methods/test_photometers.py",
    "methods/test_local_backgrounds.py",
    "store/test_ownership.py",
    "store/test_store.py",
    "frames/test_header_habits.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``-m "not slow"`` leaves out."""
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here)
        if place.parts[0] not in _QUICK and place.as_posix() not in _QUICK:
            item.add_marker(pytest.mark.slow)
