"""Sources that the observer places: measured where nothing is ever detected, without a change to any other source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from small_nights import FIELD, SmallNight, add_star, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer, PSFPhotometer
from opticam_dask.flags import SourceFlag
from opticam_dask.frames import sky_coordinates

#: Three cameras with filters; the second sees the field mirrored and turned by 30 degrees, the third shifted.
CAMERAS = {"cameras": {"1": ["g"], "2": ["r"], "3": ["i"]}, "default_filter": None}
KEYS = ("1:g", "2:r", "3:i")
STARTS = ("2024-01-01T20:00:00", "2024-01-02T20:00:00", "2024-01-03T20:00:00")
N_FRAMES, SIZE, SKY = 12, 200, 400.0
MIDDLE = (SIZE - 1) / 2
#: Stars of peak signal-to-noise ratio 1 in a frame, and something beside the second brightest star.
HIDDEN = np.array([(75.0, 140.0), (130.0, 110.0), (75.3, 95.6), (125.0, 60.0), (60.4, 75.7)])
FAINT, FWHM = 490.0, 4.0
UNUSABLE = np.uint32(SourceFlag.OFF_FRAME | SourceFlag.EDGE | SourceFlag.NO_TRANSFORM)


def on_camera(camera: int, night: int, index: int, xy: np.ndarray) -> np.ndarray:
    """Where places of the sky (pixels of the first camera) are on a frame; the telescope flips in the second night."""
    away = xy - MIDDLE
    if camera == 1:
        cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
        away = (away * [-1.0, 1.0]) @ np.array([[cos, sin], [-sin, cos]])
    elif camera == 2:
        away = 0.97 * away + [4.0, -3.0]
    if night == 1:
        away = -away
    return away + MIDDLE + [0.31 * index + night, -0.17 * index]


def sky_of_reference() -> sky_coordinates.WCS:
    """World coordinates of places of the sky."""
    wcs = sky_coordinates.tangent_wcs(52.5, 20.0)
    wcs.wcs.crpix, wcs.wcs.cd = [MIDDLE + 1, MIDDLE + 1], 0.8 / 3600 * np.array([[-0.8, 0.6], [0.6, 0.8]])
    wcs.wcs.set()
    return wcs


def write_nights(directory: Path, keys: tuple[int, ...] = (0, 1, 2), nights: tuple[int, ...] = (0, 1, 2)) -> None:
    rng = np.random.default_rng(20)
    for camera in keys:
        for night in nights:
            for index in range(N_FRAMES):
                electrons = np.full((SIZE, SIZE), SKY)
                for (x, y), flux in zip(on_camera(camera, night, index, FIELD[:, :2]), FIELD[:, 2], strict=True):
                    add_star(electrons, x, y, flux, FWHM)
                for x, y in on_camera(camera, night, index, HIDDEN):
                    add_star(electrons, x, y, FAINT, FWHM)
                cards = {}
                if camera == 0 and night == 0:
                    wcs = sky_of_reference()
                    wcs.wcs.crpix = wcs.wcs.crpix + [0.31 * index, -0.17 * index]
                    cards = {name: v for name, v in sky_coordinates.wcs_header(wcs).items() if name != "WCSAXES"}
                file = directory / "frames" / f"c{camera}_n{night}_{index:02d}.fits"
                write_frame(file, read_out(electrons, rng), 10.0 * index, STARTS[night], FILTER="gri"[camera], **cards)


def coordinates(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return sky_coordinates.icrs_of_pixels(sky_of_reference(), *xy.T)


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras and nights, with the hidden stars placed by their coordinates from the beginning."""
    directory = tmp_path_factory.mktemp("placed")
    write_nights(directory)
    ra, dec = coordinates(HIDDEN)
    table = Table({"name": [f"hidden {i}" for i in range(len(ra))], "ra": ra, "dec": dec})
    table.write(directory / "sources.csv")
    reduce_frames(
        directory,
        AperturePhotometer(),
        PSFPhotometer(),
        instrument=CAMERAS,
        sources=directory / "sources.csv",
        verbose=True,
    )
    return directory


@pytest.mark.parametrize("key", KEYS)
def test_hidden_stars_have_the_right_flux_and_errors(placed: Path, key: str) -> None:
    night = SmallNight(placed / "out", key)
    catalog = night.catalog
    rows = np.flatnonzero(catalog["is_placed"].to_numpy())
    print(key, catalog["source_id"].values, catalog["name"].values, catalog["flux"].values)
    for label in ("aperture", "psf"):
        curves = night.curves(label).isel(source=rows)
        flags = curves["flags"].to_numpy()
        flux, error = curves["total"].to_numpy(), curves["total_err"].to_numpy()
        pulls = (flux - FAINT) / error
        mean = np.average(flux, weights=error**-2, axis=0)
        e = 1 / np.sqrt(np.sum(error**-2, axis=0))
        print(
            label,
            flux.shape,
            "mean",
            mean,
            "pull of mean",
            (mean - FAINT) / e,
            "std",
            pulls.std(),
            "all",
            pulls.mean() * np.sqrt(pulls.size),
            [hex(np.bitwise_or.reduce(flags.ravel()))],
        )
