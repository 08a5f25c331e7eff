"""An asteroid is measured along its track: its rotation is found, and passes over stars are flagged."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from small_nights import FIELD, KEY, SmallNight, add_star, read_out, reduce_frames, write_frame

import opticam_dask as opticam
from opticam_dask import AperturePhotometer, OptimalPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.frames import sky_coordinates
from opticam_dask.lightcurves.targets import source_number

N_FRAMES, SIZE, SKY, FWHM, CADENCE = 64, 200, 400.0, 4.0, 60.0
#: It moves by 20 pixels and comes to a faint star in the end.
PATH, STAR = np.array([[62.0, 93.0], [75.0, 108.2]]), (74.4, 107.5, 8e3)
FLUX, AMPLITUDE, PERIOD = 2e4, 0.15, 700.0


def sky() -> sky_coordinates.WCS:
    wcs = sky_coordinates.tangent_wcs(52.5, 20.0)
    wcs.wcs.crpix, wcs.wcs.cd = [100.5, 100.5], 0.8 / 3600 * np.diag([-1.0, 1.0])
    wcs.wcs.set()
    return wcs


def seconds() -> np.ndarray:
    return CADENCE * np.arange(N_FRAMES)


def brightness() -> np.ndarray:
    return FLUX * (1 + AMPLITUDE * np.sin(2 * np.pi * seconds() / PERIOD))


def places() -> np.ndarray:
    return PATH[0] + (seconds() / seconds()[-1])[:, None] * (PATH[1] - PATH[0])


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SmallNight:
    directory = tmp_path_factory.mktemp("moving")
    rng = np.random.default_rng(11)
    for index, (flux, (x, y)) in enumerate(zip(brightness(), places(), strict=True)):
        electrons = np.full((SIZE, SIZE), SKY)
        shift = np.array([0.05 * index, -0.03 * index])
        for star in (*FIELD, STAR):
            add_star(electrons, *(star[:2] + shift), star[2], FWHM)
        add_star(electrons, x + shift[0], y + shift[1], flux, FWHM)
        wcs = sky()
        wcs.wcs.crpix = wcs.wcs.crpix + shift
        cards = {name: value for name, value in sky_coordinates.wcs_header(wcs).items() if name != "WCSAXES"}
        file = directory / "frames" / f"frame_{index:02d}.fits"
        write_frame(file, read_out(electrons, rng), seconds()[index], RA=52.5, DEC=20.0, **cards)
    ra, dec = sky_coordinates.icrs_of_pixels(sky(), *PATH.T)
    times = np.datetime64("2024-01-01T20:00:02.5") + (1000 * seconds()[[0, -1]]).astype("timedelta64[ms]")
    Table({"time": times.astype(str), "ra": ra, "dec": dec}).write(directory / "Ceres.csv")
    photometers = AperturePhotometer(), OptimalPhotometer()
    return reduce_frames(directory, *photometers, instrument={"ra_unit": "deg"}, moving=directory / "Ceres.csv")


@pytest.mark.parametrize("label", ["aperture", "optimal"])
def test_it_is_measured_along_its_track(night: SmallNight, label: str) -> None:
    """Within 1.1 of what photons, sky and read-out allow; flagged where it passes over a star, and not far from it."""
    curves = night.curves(label).sel(source=source_number(night.out, KEY, "Ceres"))
    flags = curves["flags"].to_numpy()
    passes = (flags & np.uint32(SourceFlag.BLENDED | SourceFlag.CONTAMINATED)) != 0
    away = np.hypot(*(places() - STAR[:2]).T)
    assert passes[away < FWHM].all()
    assert not passes[away > 3 * FWHM].any()
    assert np.all(flags & np.uint32(SourceFlag.PLACED))
    pulls = ((curves["total"] - brightness()) / curves["total_err"]).to_numpy()[~passes]
    assert len(pulls) > N_FRAMES / 3
    assert abs(pulls.mean()) < 0.6
    assert pulls.std() < 1.1 + 2 * (2 * len(pulls)) ** -0.5
    photons = np.sqrt(brightness() / 0.75 + (SKY + 9.0) * np.pi * FWHM**2 / 0.75**2)
    assert np.median(curves["total_err"] / photons) < 1.1


def test_its_rotation_is_found(night: SmallNight) -> None:
    """Against fixed stars: period to 2 %, amplitude to 10 %."""
    curve = opticam.relative_light_curve(night.out, KEY, "Ceres", "auto")
    number = source_number(night.out, KEY, "Ceres")
    assert number not in curve.attrs["comparisons"]
    flags = curve["flags"].to_numpy()
    good = (flags & np.uint32(SourceFlag.BLENDED | SourceFlag.CONTAMINATED)) == 0
    time, flux = seconds()[good], curve["relative_flux"].to_numpy()[good]
    fits = []
    for period in (trials := np.linspace(400, 2000, 1601)):
        phase = 2 * np.pi * time / period
        design = np.column_stack([np.ones(len(time)), np.sin(phase), np.cos(phase)])
        found, rest, *_ = np.linalg.lstsq(design, flux, rcond=None)
        fits.append((float(rest[0]), np.hypot(*found[1:]) / found[0]))
    best = int(np.argmin([rest for rest, _ in fits]))
    assert trials[best] == pytest.approx(PERIOD, rel=0.02)
    assert fits[best][1] == pytest.approx(AMPLITUDE, rel=0.1)
