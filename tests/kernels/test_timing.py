"""Times: ISO strings, leap seconds, time scales, barycentric dates, nights, good time intervals."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers
from hypothesis import given
from hypothesis import strategies as st

from opticam_dask.kernels.series.airmass import airmass
from opticam_dask.kernels.series.timing import barycentric_mjd, good_time_intervals, night_of, parse_iso, utc_mjd

SITE = (-115.463611, 31.044167, 2790.0)
MICROSECOND = 1e-6 / 86400.0


#: A float64 MJD of this century resolves 0.63 microseconds.
def mjd_from_iso(strings):
    return np.array([utc_mjd(*parse_iso(text)) for text in strings])


RESOLUTION = np.spacing(60000.0)


def astropy_bmjd(mjd_utc, ra, dec):
    """Frame by frame, as astropy documents it."""
    with iers.conf.set_temp("auto_download", False):
        location = EarthLocation.from_geodetic(*SITE)
        values = []
        for mjd, one_ra, one_dec in np.broadcast(mjd_utc, ra, dec):
            time = Time(mjd, format="mjd", scale="utc", location=location)
            delay = time.light_travel_time(SkyCoord(one_ra * u.deg, one_dec * u.deg), ephemeris="builtin")
            values.append((time.tdb + delay).mjd)
    return np.array(values)


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-22 03:02:49.000 ",
        "2024-01-01T00:00:00",
        "1999-12-31T23:59:59.9999",
        "2016-12-31T23:59:60.5",
        "2016-12-31T12:00:00",
        "2017-01-01T00:00:00",
        "2024-02-29 5:07:09.25",
    ],
)
def test_mjd_from_iso__equals_astropy(text):
    expected = Time(text.strip().replace(" 5:", "T05:").replace(" ", "T"), scale="utc").mjd
    assert mjd_from_iso([text])[0] == pytest.approx(expected, abs=1.5 * RESOLUTION, rel=0)


def test_mjd_from_iso__offsets_are_applied():
    stamps = [
        "2017-12-20T01:33:43.317-0000",
        "2017-12-20T01:33:43.317Z",
        "2017-12-20 01:33:43.317 UTC",
        "2017-12-20T01:33:43.317+00:00",
        "2017-12-19T18:33:43.317-0700",
        "2017-12-20T07:03:43.317+05:30",
    ]
    assert np.ptp(mjd_from_iso(stamps)) == 0.0
    assert mjd_from_iso(stamps)[0] == pytest.approx(Time("2017-12-20T01:33:43.317").mjd, abs=RESOLUTION, rel=0)


def test_mjd_from_iso__seconds_rounded_up_to_sixty():
    assert mjd_from_iso(["2024-01-01T10:59:60.000"]) == mjd_from_iso(["2024-01-01T11:00:00"])


def test_mjd_from_iso__words_after_the_time():
    plain = mjd_from_iso(["2022-03-01 05:12:12.5"])
    assert mjd_from_iso(["2022-03-01 05:12:12.5 0.0002"]) == plain
    assert mjd_from_iso([]).shape == (0,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "03:02:49",
        "2023-13-01T00:00:00",
        "2023-02-29T00:00:00",
        "2023-02-28T24:00:00",
        "2023-02-28T10:61:00",
        "2023-02-28T10:10:75",
        "2023-02-28T10:10:10 MST",
        "2023-02-28T10:10:10 PM",
        "2023-02-28T10:10:10 (MST)",
        "2023-02-28T10:10:10 0.5 MST",
        "2023-02-28T10:10:10+15:00",
        "2023-02-28T10:10:10-0760",
    ],
)
def test_mjd_from_iso__refuses_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"expected a date and time|there is no such"):
        mjd_from_iso(["2023-02-28T00:00:00", text])


@given(
    st.datetimes(min_value=Time("1973-01-01").datetime, max_value=Time("2027-01-01").datetime),
    st.floats(min_value=-90000.0, max_value=90000.0),
)
def test_utc_mjd__adding_seconds_equals_astropy(start, seconds):
    day, second = parse_iso(start.isoformat())
    expected = (Time(start, scale="utc") + seconds * u.s).utc.mjd
    assert utc_mjd(day, second + seconds) == pytest.approx(expected, abs=2 * RESOLUTION, rel=0)


def test_utc_mjd__across_a_leap_second():
    day, seconds = parse_iso("2016-12-31T23:59:50")
    middle = utc_mjd(day, seconds + 30.0)  # one of the thirty seconds is the leap second
    assert (middle - 57754) * 86400.0 == pytest.approx(19.0, abs=2e-6)


@pytest.mark.parametrize("stamp", ["2016-12-31T23:59:59.5", "2017-01-01T00:00:18", "2024-06-01T04:00:00", "1999-01-01"])
@pytest.mark.parametrize(("scale", "offset"), [("tai", 0.0), ("tt", 0.0), ("gps", 19.0)])
def test_utc_mjd__time_scales(stamp, scale, offset):
    time = Time(stamp, scale="tai" if scale == "gps" else scale) + offset * u.s
    assert utc_mjd(*parse_iso(stamp), scale) == pytest.approx(time.utc.mjd, abs=2 * RESOLUTION, rel=0)


def test_utc_mjd__gps_is_eighteen_seconds_ahead():
    day, seconds = parse_iso("2024-06-01T04:00:18")
    assert utc_mjd(day, seconds, "gps") == mjd_from_iso(["2024-06-01T04:00:00"])[0]


def test_utc_mjd__refuses_unknown_scales_and_absurd_seconds():
    with pytest.raises(ValueError, match="time scale must be one of utc, tai, gps, tt"):
        utc_mjd(60000, 0.0, "ut1")
    with pytest.raises(ValueError, match="at most ten years"):
        utc_mjd(60000, float("nan"))
    with pytest.raises(ValueError, match="at most ten years"):
        utc_mjd(60000, 1e300)


def test_barycentric_mjd__equals_astropy_frame_by_frame():
    rng = np.random.default_rng(1)
    mjd = np.concatenate([60000.0 + rng.random(20) * 900.0, 57753.95 + rng.random(20) * 0.1])
    ra, dec = rng.random(40) * 360.0, np.degrees(np.arcsin(rng.uniform(-1, 1, 40)))
    difference = barycentric_mjd(mjd, ra, dec, *SITE) - astropy_bmjd(mjd, ra, dec)
    assert np.abs(difference).max() < MICROSECOND


def test_barycentric_mjd__value_of_the_original():
    # 2024-01-01 00:00:00 at RA 0, DEC 0 and San Pedro Martir, from a run of opticam 0.5.0.
    assert barycentric_mjd([60310.0], 0.0, 0.0, *SITE)[0] == pytest.approx(60309.999796971475, abs=MICROSECOND)


def test_barycentric_mjd__depends_on_the_frame_alone():
    mjd = 60310.0 + np.arange(300) / 1440.0
    together = barycentric_mjd(mjd, 80.0, 10.0, *SITE)
    one_by_one = [barycentric_mjd(mjd[i : i + 1], 80.0, 10.0, *SITE)[0] for i in (0, 7, 150, 299)]
    np.testing.assert_array_equal(together[[0, 7, 150, 299]], one_by_one)


def test_barycentric_mjd__nan_in_nan_out():
    result = barycentric_mjd(
        [60310.0, np.nan, 60310.0, 60310.0], [1.0, 1.0, np.nan, 1.0], [2.0, 2.0, 2.0, np.nan], *SITE
    )
    np.testing.assert_array_equal(np.isfinite(result), [True, False, False, False])
    assert np.isnan(barycentric_mjd([60310.0], np.nan, np.nan, *SITE)).all()
    assert barycentric_mjd([], 0.0, 0.0, *SITE).shape == (0,)


def test_barycentric_mjd__far_from_the_tables_without_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("astropy.utils.data.download_file", refuse)
    monkeypatch.setattr("astropy.utils.iers.iers.download_file", refuse)
    before = iers.conf.auto_download, iers.conf.iers_degraded_accuracy
    with iers.conf.set_temp("iers_degraded_accuracy", "error"):
        result = barycentric_mjd([40600.0, 69999.0], 31.3, 46.8, *SITE)
    assert (iers.conf.auto_download, iers.conf.iers_degraded_accuracy) == before
    # 69 s (TDB - UTC, without leap seconds to come) and at most 8.4 minutes of light travel time.
    assert np.abs((result - [40600.0, 69999.0]) * 86400.0).max() < 69.2 + 505.0


def test_times__same_numbers_in_a_process_that_would_download_and_cannot(tmp_path):
    """Download switched on, nothing cached, and every socket refused: no warning, the same bits."""
    program = """
import json, socket, sys, warnings
warnings.simplefilter("error")
def refuse(*arguments, **options):
    raise AssertionError("a connection was tried")
from astropy.utils import iers
iers.conf.auto_download, iers.conf.auto_max_age = True, 0.01
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from opticam_dask.kernels.series.airmass import airmass
from opticam_dask.kernels.series.timing import barycentric_mjd
times, site = json.loads(sys.argv[1]), json.loads(sys.argv[2])
print(json.dumps([barycentric_mjd(times, 31.3, 46.8, *site).tolist(), airmass(times, 31.3, 46.8, *site).tolist()]))
"""
    times = [51544.3, 57753.99999, 57754.00001, 60310.2, 61000.7, 64328.4]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", program, json.dumps(times), json.dumps(SITE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    barycentric, thickness = json.loads(done.stdout)
    assert barycentric == barycentric_mjd(times, 31.3, 46.8, *SITE).tolist()
    np.testing.assert_array_equal(thickness, airmass(times, 31.3, 46.8, *SITE))


def test_barycentric_mjd__needs_a_site():
    with pytest.raises(ValueError, match="longitude, latitude and height of the observatory"):
        barycentric_mjd([60310.0], 0.0, 0.0, np.nan, 31.0, 0.0)
    with pytest.raises(ValueError, match="Give the instrument a site"):
        barycentric_mjd([60310.0], 0.0, 0.0, None, None, None)


def test_night_of__evening_before_midnight_local():
    mjd = mjd_from_iso(["2024-01-01T00:00:00", "2024-01-01T12:00:00", "2024-01-01T19:30:00", "2024-01-01T19:50:00"])
    # Mean noon at 115.46 degrees west is at 19:41:51 UTC.
    assert night_of(mjd, SITE[0]).tolist() == ["2023-12-31", "2023-12-31", "2023-12-31", "2024-01-01"]


def test_night_of__eastern_sites_and_none():
    mjd = mjd_from_iso(["2024-01-01T10:00:00", "2024-01-01T20:00:00", "2024-01-02T00:00:00"])
    assert night_of(mjd, 150.0).tolist() == ["2024-01-01", "2024-01-01", "2024-01-01"]
    assert night_of(mjd, None).tolist() == ["2024-01-01", "2024-01-01", "2024-01-02"]


def test_night_of__nan_and_nothing():
    assert night_of([np.nan, 60310.0], 0.0).tolist() == ["", "2023-12-31"]
    assert night_of([], 0.0).shape == (0,)


def test_good_time_intervals__gap():
    time = [0.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.4]
    np.testing.assert_allclose(good_time_intervals(time), [[-0.5, 3.5], [6.5, 9.9]], rtol=0, atol=1e-12)
    assert len(good_time_intervals(time, threshold=1.2)) == 3


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ([], np.empty((0, 2))),
        ([5.0], [[5.0, 5.0]]),
        ([np.nan, 1.0, 2.0, np.nan], [[0.5, 2.5]]),
        ([3.0, 3.0], [[3.0, 3.0]]),
    ],
)
def test_good_time_intervals__few_times(time, expected):
    np.testing.assert_array_equal(good_time_intervals(time), expected)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=50), st.floats(1.0, 5.0))
def test_good_time_intervals__hold_all_times_and_do_not_overlap(steps, threshold):
    time = np.cumsum(steps)
    intervals = good_time_intervals(time, threshold)
    assert (intervals[1:, 0] >= intervals[:-1, 1] - 1e-9).all()
    assert all(((intervals[:, 0] <= t) & (t <= intervals[:, 1])).any() for t in time)


def test_good_time_intervals__refuses_disorder():
    with pytest.raises(ValueError, match="ascending"):
        good_time_intervals([2.0, 1.0])
    with pytest.raises(ValueError, match="at least 1"):
        good_time_intervals([1.0, 2.0], threshold=0.5)
