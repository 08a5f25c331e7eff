"""Airmass from time, position and site, against astropy's horizontal coordinates."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from opticam_dask.kernels.series.airmass import airmass, altitude, apparent_altitude

SITE = (-115.463611, 31.044167, 2790.0)
ARCSEC = 1.0 / 3600.0


def astropy_altitude(mjd, ra, dec, **atmosphere):
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of times without Earth rotation tables
        frame = AltAz(
            obstime=Time(mjd, format="mjd", scale="utc"), location=EarthLocation.from_geodetic(*SITE), **atmosphere
        )
        return SkyCoord(ra * u.deg, dec * u.deg).transform_to(frame).alt.deg


@pytest.fixture(scope="module")
def sky():
    rng = np.random.default_rng(3)
    dec = np.degrees(np.arcsin(rng.uniform(-0.8, 1.0, 2000)))
    return 51544.0 + 9000.0 * rng.random(2000), 360.0 * rng.random(2000), dec


def test_altitude__equals_astropy_within_three_arcseconds(sky):
    difference = altitude(*sky, *SITE[:2]) - astropy_altitude(*sky)
    assert np.abs(difference).max() < 3.0 * ARCSEC
    assert np.std(difference) < 0.5 * ARCSEC


def test_altitude__beyond_the_tables_within_fifteen_arcseconds():
    mjd = 64500.0 + np.arange(50) * 0.31
    difference = altitude(mjd, 80.0, 20.0, *SITE[:2]) - astropy_altitude(mjd, np.full(50, 80.0), np.full(50, 20.0))
    assert np.abs(difference).max() < 15.0 * ARCSEC


def test_airmass__equals_pickering_at_the_apparent_altitude_of_astropy(sky):
    # pressure and temperature of the standard atmosphere at 2790 m
    seen = astropy_altitude(*sky, pressure=721.0 * u.hPa, temperature=-3.1 * u.deg_C, obswl=0.55 * u.micron)
    expected = 1.0 / np.sin(np.radians(seen + 244.0 / (165.0 + 47.0 * np.abs(seen) ** 1.1)))
    found = airmass(*sky, *SITE)
    low, high = (seen > 19.0) & (expected < 3.0), seen > 5.0
    assert np.count_nonzero(low) > 500
    assert np.abs(found - expected)[low].max() < 1e-3
    assert np.abs(found / expected - 1.0)[high].max() < 2e-3


def test_airmass__reads_no_table_by_the_slow_way(monkeypatch):
    monkeypatch.setattr(iers.IERS_B, "read", lambda *_, **__: pytest.fail("astropy read its table"))
    monkeypatch.setattr(iers.IERS_B, "iers_table", None)
    assert airmass([60310.2], 60.0, 30.0, *SITE)[0] > 1.0


def test_airmass__zenith_secant_and_horizon():
    # RA and DEC of the zenith: the altitude is 90 degrees there
    mjd = np.full(360, 60310.25)
    ra = np.arange(360.0)
    above = altitude(mjd, ra, SITE[1], *SITE[:2])
    found = airmass(mjd, ra, SITE[1], *SITE)
    assert above.max() > 89.3
    assert found[np.argmax(above)] == pytest.approx(1.0, abs=1e-4)
    assert np.nanmin(found) >= 1.0
    assert np.nanmax(found) < 38.75  # 1 / sin(244 / 165 degrees), at the horizon
    np.testing.assert_array_equal(np.isfinite(found), apparent_altitude(above, SITE[2]) > 0.0)


def test_airmass__unknown_without_position_time_or_site():
    mjd = [60310.2, np.nan, 60310.2, 60310.2]
    found = airmass(mjd, [60.0, 60.0, np.nan, 60.0], [30.0, 30.0, 30.0, np.nan], *SITE)
    np.testing.assert_array_equal(np.isfinite(found), [True, False, False, False])
    assert np.isnan(airmass([60310.2], 60.0, 30.0, np.nan, 31.0)).all()
    assert airmass([], 60.0, 30.0, *SITE).shape == (0,)


def test_airmass__depends_on_the_frame_alone():
    mjd = 60310.1 + np.arange(3000) / 7000.0
    together = airmass(mjd, 60.0, 30.0, *SITE)
    np.testing.assert_array_equal(
        together[[0, 17, 2999]], [airmass(mjd[i : i + 1], 60.0, 30.0, *SITE)[0] for i in (0, 17, 2999)]
    )


def test_apparent_altitude__refraction_of_the_almanac():
    # Astronomical Almanac: 34 arcmin at the horizon, 5.3 at 10 degrees, 1.0 at 45 degrees (1010 hPa, 10 C)
    true = np.array([-34.0 / 60.0, 10.0, 45.0, 90.0])
    lifted = 60.0 * (apparent_altitude(true) - true)
    assert np.all(np.abs(lifted - [34.0, 5.3, 1.0, 0.0]) < [1.0, 0.15, 0.05, 0.01])
