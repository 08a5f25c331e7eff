"""A field that stars have told: an asteroid in it goes to the Minor Planet Center, and the sky matches its cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time
from small_nights import FIELD, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask import AperturePhotometer
from opticam_dask.cli import main
from opticam_dask.frames import sky_coordinates
from opticam_dask.lightcurves.submission.ades import problems_of_ades
from opticam_dask.lightcurves.submission.places import nearest_detections

CAMERAS = {"cameras": {"1": ["g"], "2": ["r"]}, "default_filter": None, "ra_unit": "deg"}
N_FRAMES, CADENCE, SCALE = 10, 60.0, 0.8
#: The asteroid moves by 20 pixels.
PATH, FLUX = np.array([[130.0, 130.0], [144.0, 144.3]]), 6e4
#: Its ephemeris is wrong by so many pixels.
WRONG = np.array([0.9, -0.7])
#: The second camera sees two stars, mirrored.
FEW = FIELD[[0, 2]]
MIDDLE = 99.5

CODES = """
[observer]
name = "A. Observer"
mpc = "I11"

[telescope]
design = "Reflector"
aperture = 0.15
detector = "CCD"
"""


def sky(mirror: float = 1.0) -> sky_coordinates.WCS:
    wcs = sky_coordinates.tangent_wcs(52.5, 20.0)
    wcs.wcs.crpix, wcs.wcs.cd = [MIDDLE + 1, MIDDLE + 1], SCALE / 3600 * np.diag([-mirror, 1.0])
    wcs.wcs.set()
    return wcs


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    """The first camera does not know where it looks, but has a catalogue of stars; the second has its header."""
    directory, rng = tmp_path_factory.mktemp("solved"), np.random.default_rng(21)
    cards = {name: value for name, value in sky_coordinates.wcs_header(sky(-1.0)).items() if name != "WCSAXES"}
    for index, (x, y) in enumerate(np.linspace(*PATH, N_FRAMES)):
        electrons = [np.full((200, 200), 300.0) for _ in range(2)]
        for star_x, star_y, flux in FIELD:
            add_star(electrons[0], star_x, star_y, flux, 3.5)
        add_star(electrons[0], x, y, FLUX, 3.5)
        for star_x, star_y, flux in FEW:
            add_star(electrons[1], 2 * MIDDLE - star_x, star_y, flux, 3.5)
        known = {"RA": 52.55, "DEC": 20.0, "PIXSCALE": SCALE}
        for camera, more in ((0, known), (1, cards)):
            file = directory / "frames" / f"c{camera}_{index:02d}.fits"
            write_frame(file, read_out(electrons[camera], rng), CADENCE * index, FILTER="gr"[camera], **more)
    ra, dec = sky_coordinates.icrs_of_pixels(sky(), *FIELD[:, :2].T)
    stars = Table({"ra": ra, "dec": dec, "g_mag": 20.0 - 2.5 * np.log10(FIELD[:, 2])})
    stars.write(directory / "gaia_dr3.csv")
    ra, dec = sky_coordinates.icrs_of_pixels(sky(), *(PATH + WRONG).T)
    first = np.datetime64("2024-01-01T20:00:02.5")
    times = [str(first), str(first + np.timedelta64(round(CADENCE * (N_FRAMES - 1)), "s"))]
    Table({"time": times, "ra": ra, "dec": dec}).write(directory / "Ceres.csv")
    given = {"moving": directory / "Ceres.csv", "sky_catalog": directory / "gaia_dr3.csv"}
    reduce_frames(directory, AperturePhotometer(), instrument=CAMERAS, **given)
    return SmallNight(directory / "out", "1:g")


def test_an_asteroid_of_a_solved_field__is_where_it_was_in_the_file_for_the_minor_planet_center(
    night: SmallNight, tmp_path: Path
) -> None:
    """Where the frames show it, not where its ephemeris has it."""
    (tmp_path / "observer.toml").write_text(CODES)
    out = str(night.out)
    assert night.catalog.attrs["wcs_n_matched"] == len(FIELD)
    curve = ["lightcurve", out, "--target", "Ceres", "--comparisons", "auto", "--key", "1:g", "--prefix", "ceres"]
    assert main(curve) == 0
    send = ["submit", out, "--format", "ades", "--name", "ceres", "--number", "1", "--key", "1:g"]
    assert main([*send, "--observer", str(tmp_path / "observer.toml")]) == 0
    text = next((night.out / "submissions").glob("ceres*ades*")).read_text()
    assert problems_of_ades(text) == []
    lines = [line.split("|") for line in text.splitlines() if not line.startswith(("#", "!"))]
    names = [name.strip() for name in lines[0]]
    rows = [dict(zip(names, map(str.strip, line), strict=True)) for line in lines[1:]]
    assert len(rows) >= 3
    assert {row["astCat"] for row in rows} == {"Gaia3E"}
    seconds = (Time([row["obsTime"].rstrip("Z") for row in rows], scale="utc").mjd - 60310.0) * 86400.0 - 72002.5
    frames = np.rint(seconds / CADENCE).astype(int)
    np.testing.assert_allclose(seconds, CADENCE * frames, atol=0.002)
    truth = SkyCoord(*sky_coordinates.icrs_of_pixels(sky(), *np.linspace(*PATH, N_FRAMES)[frames].T), unit="deg")
    found = SkyCoord([float(row["ra"]) for row in rows], [float(row["dec"]) for row in rows], unit="deg")
    off = truth.separation(found).arcsec
    assert np.sqrt(np.mean(off**2)) < 0.2 * SCALE
    claimed = np.array([[float(row["rmsRA"]), float(row["rmsDec"])] for row in rows])
    assert np.all((claimed > 0) & (claimed < 0.2 * SCALE))


def test_detections__are_those_near_the_expected_place() -> None:
    detected = np.full((4, 3, 2), np.nan)
    detected[0, :2], detected[1, :2] = [(10.0, 10.0), (30.4, 29.8)], [(27.0, 30.0), (80.0, 80.0)]
    detected[3, 2] = (29.0, 31.0)
    found = nearest_detections(detected, np.full((4, 2), 30.0), np.array([2.0, 2.0, 2.0, np.nan]))
    np.testing.assert_array_equal(found[0], (30.4, 29.8))
    assert np.isnan(found[1:]).all()


def test_cameras_with_too_few_stars_for_a_pattern__are_matched_by_the_sky(night: SmallNight) -> None:
    """Two stars make no pattern, mirrored or not; coordinates of both cameras say which is which."""
    found = opticam.match_cameras(night.out, "1:g", "2:r")
    assert found.is_mirrored
    assert found.distance.max() < 0.2, "pixels"
    first, second = (SmallNight(night.out, key).catalog for key in ("1:g", "2:r"))
    for one, other in zip(found.source_id.tolist(), found.other_id.tolist(), strict=True):
        place = (float(first.sel(source=one - 1)["x"]), float(first.sel(source=one - 1)["y"]))
        there = (float(second.sel(source=other - 1)["x"]), float(second.sel(source=other - 1)["y"]))
        assert there == pytest.approx((2 * MIDDLE - place[0], place[1]), abs=0.2)
    assert sum(np.isin([1, 2], found.other_id)) == 2
    assert sorted(opticam.match_cameras(night.out, "2:r", "1:g").source_id.tolist()) == sorted(found.other_id.tolist())
