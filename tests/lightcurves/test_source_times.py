"""The barycentric time of a source is that of its own place on the sky, and of its row of the detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.table import Table
from astropy.time import Time
from small_nights import FIELD, INSTRUMENT, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask.frames import sky_coordinates

#: A field of one degree on the ecliptic, a quarter of the sky from the Sun, where times differ most.
CENTRE, SCALE = (11.0, 4.7), 18.0
N_FRAMES, ROW_TIME = 3, 0.011
MICROSECOND = 1e-6 / 86400


def write_night(directory: Path) -> None:
    wcs = sky_coordinates.tangent_wcs(*CENTRE)
    wcs.wcs.crpix, wcs.wcs.cd = [100.5, 100.5], SCALE / 3600 * np.diag([-1.0, 1.0])
    cards = {name: value for name, value in sky_coordinates.wcs_header(wcs).items() if name != "WCSAXES"}
    rng = np.random.default_rng(7)
    for index in range(N_FRAMES):
        electrons = np.full((200, 200), 400.0)
        for star in FIELD:
            add_star(electrons, *star, 3.5)
        file = directory / "frames" / f"frame_{index}.fits"
        write_frame(file, read_out(electrons, rng), 3600.0 * index, RA=CENTRE[0], DEC=CENTRE[1], **cards)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    directory = tmp_path_factory.mktemp("times")
    write_night(directory)
    return reduce_frames(directory, instrument={"ra_unit": "deg"})


def by_astropy(night: SmallNight, late: np.ndarray | float = 0.0) -> np.ndarray:
    """Barycentric times of the sources, shape (frame, source), by astropy alone."""
    site = EarthLocation(INSTRUMENT["longitude"], INSTRUMENT["latitude"], INSTRUMENT["height"])
    when = night.frames["mjd_utc"].to_numpy()[:, None] + late
    shape = np.broadcast_shapes(when.shape, (1, night.catalog.sizes["source"]))
    times = Time(np.broadcast_to(when, shape), format="mjd", scale="utc", location=site)
    places = SkyCoord(night.catalog["ra"].to_numpy(), night.catalog["dec"].to_numpy(), unit=u.deg)
    return (times.tdb + times.light_travel_time(places, ephemeris="builtin")).mjd


def test_every_star_of_a_field_of_a_degree_has_its_own_time(night: SmallNight) -> None:
    """To 1 microsecond of astropy (1.3, with the last digit of a day); the time of the pointing is seconds away."""
    curves = opticam.light_curves(night.out, KEY)
    assert curves["bmjd_tdb"].dims == ("frame", "source")
    assert curves["bmjd_tdb"].chunks is not None
    assert curves["bmjd_tdb"].attrs["position"] == "source"
    expected = by_astropy(night)
    assert np.abs(curves["bmjd_tdb"].to_numpy() - expected).max() < 1.3 * MICROSECOND
    off = (expected - night.frames["bmjd_tdb"].to_numpy()[:, None]) * 86400
    assert np.ptp(off) > 2.0
    assert np.abs(off).max() > 1.0


def test_files_and_relative_curves_have_the_time_of_their_source(night: SmallNight) -> None:
    expected = by_astropy(night)
    for row in (0, 7):
        number = int(night.catalog["source_id"][row])
        table = pd.read_csv(night.out / f"lcs/aperture/1-V_source_{number}.csv")
        assert np.abs(table["BMJD"] - expected[:, row]).max() < 1.3 * MICROSECOND
    curve = opticam.relative_light_curve(night.out, KEY, 8, [1, 2])
    assert np.abs(curve["bmjd_tdb"].to_numpy() - expected[:, 7]).max() < 1.3 * MICROSECOND
    (file,) = opticam.export_light_curves(night.out, "ecsv", sources=[8])
    table = Table.read(file)
    assert np.abs(table["bmjd_tdb"] - expected[:, 7]).max() < 1.3 * MICROSECOND
    assert table.meta["TIMEPOS"] == "source"


def test_sources_of_a_rolling_shutter_have_the_time_of_their_row(tmp_path: Path) -> None:
    write_night(tmp_path)
    night = reduce_frames(tmp_path, instrument={"ra_unit": "deg", "row_time": ROW_TIME})
    curves = opticam.light_curves(night.out, KEY).load()
    late = ROW_TIME * curves["y"].to_numpy() / 86400
    assert np.abs(curves["bmjd_tdb"].to_numpy() - by_astropy(night, late)).max() < 1.3 * MICROSECOND
    table = pd.read_csv(night.out / "lcs/aperture/1-V_source_1.csv")
    np.testing.assert_allclose(table["BMJD"], curves["bmjd_tdb"][:, 0], rtol=0, atol=MICROSECOND)


def test_without_a_place_the_time_is_that_of_the_pointing(tmp_path: Path) -> None:
    for index in range(2):
        electrons = np.full((200, 200), 400.0)
        for star in FIELD:
            add_star(electrons, *star, 3.5)
        file = tmp_path / "frames" / f"frame_{index}.fits"
        write_frame(file, read_out(electrons, np.random.default_rng(index)), 60.0 * index)
    night = reduce_frames(tmp_path)
    curves = opticam.light_curves(night.out, KEY)
    assert curves["bmjd_tdb"].attrs["position"] == "pointing"
    np.testing.assert_array_equal(curves["bmjd_tdb"], night.frames["bmjd_tdb"])
