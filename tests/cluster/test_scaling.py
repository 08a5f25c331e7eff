"""What is done once a night, a block or a frame stays so, however many there are: counted, not timed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import Scan, scan
from opticam_dask.frames.simulation.synthetic import generate_observations
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import groups
from opticam_dask.store.camera import group_name
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

PER_NIGHT = 12


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    """One row of a table of frames, of a frame that is there."""
    directory = tmp_path_factory.mktemp("one")
    generate_observations(directory, n_images=1, circular_aperture=False, binning_scale=8)
    return scan(sorted(directory.rglob("*_g_*.fits"))[:1] or sorted(directory.rglob("*.fits"))[:1], OPTICAM_MX()).table


def _planned(out, row, n_nights):
    """Store with many nights of frames that are not there, and a reference frame."""
    rows = row.loc[row.index.repeat(PER_NIGHT * n_nights)].reset_index(drop=True)
    night = np.arange(len(rows)) // PER_NIGHT
    rows["file"] = [f"/data/{n:03d}/{i:05d}.fits" for i, n in enumerate(night)]
    rows["mjd_utc"] += night + np.arange(len(rows)) % PER_NIGHT / 86400.0
    days = pd.Timestamp(str(row["night"].iloc[0])) + pd.to_timedelta(night, unit="D")
    rows["night"] = days.strftime("%Y-%m-%d").to_numpy(dtype=object)
    out.mkdir()
    setup = driver.Setup(out, OPTICAM_MX(), ReductionParameters(barycenter=False))
    driver.prepare(setup, Scan(rows, [], []))
    (key,) = Store(setup.path).keys
    part = Store(setup.path).camera(key).parts[0]
    arrays = {f"alignment_{name}": np.arange(3.0) for name in ("x", "y", "flux")}
    group = f"{group_name(key)}/reference"
    Group(setup.path, group, "reference").write(arrays, {"reference_night": part.night, "reference_fwhm": 4.0})
    return setup


class _Stop(Exception):
    pass


class _Nothing:
    """An executor that looks at what it is given and stops there."""

    def run(self, work):
        self.blocks = sum(len(group.blocks) for group in work)
        raise _Stop


def test_reduce_frames__what_is_read_before_the_first_block_grows_with_the_nights_alone(tmp_path, row, monkeypatch):
    read = groups.read_metadata
    counts = {}
    for n_nights in (4, 16):
        setup, executor, seen = _planned(tmp_path / f"{n_nights}", row, n_nights), _Nothing(), []
        monkeypatch.setattr(groups, "read_metadata", lambda file, seen=seen: seen.append(file) or read(file))
        with pytest.raises(_Stop):
            driver.drive(driver.Run(setup, executor), driver.PASSES[1:2])
        monkeypatch.setattr(groups, "read_metadata", read)
        assert executor.blocks == n_nights
        counts[n_nights] = len(seen)
    assert counts[16] <= 4 * counts[4]
