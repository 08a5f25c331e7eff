"""Small nights made pixel by pixel, reduced in this process, and read back: for tests of single situations.

`opticam_dask.simulate_observations` makes whole star fields; here a test paints each frame itself (an eclipse, a
satellite, a bled column, a gradient), so that the truth is what it painted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits

from opticam_dask import AperturePhotometer, Instrument, Reducer, light_curves, open_reduction

#: A camera of which everything is known: gain 1, read noise 3 electrons, bias 100 ADU, frames of 5 s.
INSTRUMENT = {
    "name": "Test camera",
    "time_keywords": ["DATE-OBS"],
    "time_marks": "start",
    "cameras": {"1": ["V"]},
    "default_filter": "V",
    "default_gain": 1.0,
    "default_dark_current": 0.0,
    "default_binning": 1,
    "default_read_noise": 3.0,
    "default_saturation": 60000.0,
    "longitude": 0.0,
    "latitude": 30.0,
    "height": 100.0,
    "source_pixels": 9,
}
KEY, NIGHT = "1:V", "2024-01-01"
SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))

#: Ten stars ``(x, y, flux)`` of a field of 200 x 200 pixels, at least 30 pixels apart.
FIELD = np.array(
    [
        (101.4, 163.7, 2e5), (48.8, 165.1, 1.5e5), (72.6, 60.9, 1e5), (147.3, 86.6, 7e4), (106.7, 32.2, 5e4),
        (52.1, 121.5, 3.5e4), (102.2, 103.6, 3e4), (167.4, 132.8, 1.7e4), (34.3, 40.9, 1.2e4), (142.9, 47.4, 8e3),
    ]
)  # fmt: skip


def add_star(
    image: np.ndarray,
    x: float,
    y: float,
    flux: float,
    fwhm: float = 4.0,
    beta: float | None = 3.0,
    *,
    ratio: float = 1.0,
    angle: float = 0.0,
) -> None:
    """Add a star integrated over the pixels: a Moffat function of slope ``beta``, or a Gaussian.

    ``flux`` is its total light to infinity, ``fwhm`` that of the long axis, which lies at ``angle`` (radians,
    counter-clockwise from x); the short one is ``ratio`` as wide.
    """
    n_nodes = 5 if fwhm > 2.0 else 11
    reach = int(np.ceil(12 * fwhm)) + 2
    ny, nx = image.shape
    columns = np.arange(max(int(x) - reach, 0), min(int(x) + reach, nx))
    rows = np.arange(max(int(y) - reach, 0), min(int(y) + reach, ny))
    if not len(columns) or not len(rows):
        return
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    dx = (columns[:, None] - x + nodes / 2).ravel()[None, :]
    dy = (rows[:, None] - y + nodes / 2).ravel()[:, None]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / ratio
    rho2 = along**2 + across**2
    if beta is None:
        variance = (fwhm / SIGMA_TO_FWHM) ** 2
        light = np.exp(-0.5 * rho2 / variance) / (2 * np.pi * variance * ratio)
    else:
        alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
        light = (beta - 1) / (np.pi * alpha2 * ratio) * (1 + rho2 / alpha2) ** -beta
    nested = light.reshape(len(rows), n_nodes, len(columns), n_nodes)
    pixels = np.einsum("ipjq,p,q->ij", nested, weights / 2, weights / 2)
    image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += flux * pixels


def add_stars(
    image: np.ndarray, stars: Iterable[Sequence[float]], shift: Sequence[float] = (0.0, 0.0), **form: float | None
) -> np.ndarray:
    """Add stars ``(x, y, flux)``, moved by ``shift``, of one form (see :func:`add_star`); returns the image."""
    for x, y, flux in stars:
        add_star(image, x + shift[0], y + shift[1], flux, **form)
    return image


def read_out(
    electrons: np.ndarray, rng: np.random.Generator, read_noise: float = 3.0, bias: float = 100.0, gain: float = 1.0
) -> np.ndarray:
    """Photon noise, read noise and bias: what the camera writes, 16 bits."""
    noisy = rng.poisson(electrons) + rng.normal(0.0, read_noise, electrons.shape)
    return np.clip(np.rint(noisy / gain + bias), 0, 65535).astype(np.uint16)


def write_frame(
    path: Path, pixels: np.ndarray, seconds: float, start: str = "2024-01-01T20:00:00", **cards: object
) -> None:
    """Write one frame that was begun ``seconds`` after ``start``; ``cards`` go into the header."""
    header = fits.Header()
    header["DATE-OBS"] = str(np.datetime64(start, "ms") + np.timedelta64(round(seconds * 1000), "ms"))
    for name, value in ({"EXPTIME": 5.0, "RA": "03:30:00", "DEC": "+20:00:00"} | cards).items():
        header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.writeto(path, pixels, header, overwrite=True)


def never(*_args: object, **_options: object) -> None:
    """What must not be called: a scheduler of Dask, the start of a cluster."""
    raise AssertionError("something was computed before it was asked for")


def rows_of(file: Path) -> list[dict[str, str]]:
    """Rows of a table in CSV."""
    with file.open() as stream:
        return list(csv.DictReader(stream))


def write_frames(directory: Path, n_frames: int, *, seed: int) -> None:
    """Write frames of the field, six seconds apart."""
    rng = np.random.default_rng(seed)
    for frame in range(n_frames):
        image = add_stars(np.full((200, 200), 50.0), FIELD)
        write_frame(directory / f"f{frame}.fits", read_out(image, rng), 6.0 * frame)


@dataclass(frozen=True)
class SmallNight:
    """A night that was reduced."""

    out: Path
    key: str = KEY
    night: str = NIGHT

    def group(self, name: str) -> xr.Dataset:
        """A group of the key, such as ``catalog`` or ``2024-01-01/frames``."""
        return open_reduction(self.out)[f"{self.key.replace(':', '-')}/{name}"].to_dataset().load()

    @cached_property
    def catalog(self) -> xr.Dataset:
        """The catalogue."""
        return self.group("catalog")

    @cached_property
    def frames(self) -> xr.Dataset:
        """What was found out about each frame."""
        return self.group(f"{self.night}/frames")

    def curves(self, label: str = "aperture") -> xr.Dataset:
        """Light curves, with ``total`` and ``total_err`` (the aperture correction is in them) beside the fluxes."""
        found = light_curves(self.out, self.key, label).load()
        correction = found.get("aperture_correction", 1.0)
        return found.assign(total=found["flux"] * correction, total_err=found["flux_err"] * correction)

    def source_at(self, x: float, y: float, within: float = 3.0) -> int:
        """Column of the catalogue's source nearest to a place of the reference frame."""
        away = np.hypot(self.catalog["x"].to_numpy() - x, self.catalog["y"].to_numpy() - y)
        best = int(np.argmin(away))
        assert away[best] < within, f"no source within {within} pixels of ({x}, {y}): nearest {away[best]:.1f}"
        return best


def reducer_of(directory: Path, *, instrument: dict | None = None, out: str = "out", **options: object) -> Reducer:
    """Reducer of ``directory/frames``, without workers and figures where ``options`` do not say otherwise.

    ``instrument`` changes entries of the definition of the camera.
    """
    camera = Instrument.from_json(INSTRUMENT | (instrument or {}))
    usual = {"client": "none", "figures": False, "show_plots": False, "verbose": False}
    return Reducer(directory / out, directory / "frames", instrument=camera, **usual | options)


def reduce_frames(directory: Path, *photometers: object, instrument: dict | None = None, **options: object):
    """Reduce ``directory/frames`` to ``directory/out`` without workers; ``options`` are those of the Reducer.

    ``instrument`` changes entries of the definition of the camera; ``create_catalogs`` takes what is in ``catalogs``.
    """
    catalogs = options.pop("catalogs", {})
    reducer = reducer_of(directory, instrument=instrument, **options)
    reducer.create_catalogs(**catalogs)
    reducer.photometry(list(photometers) or [AperturePhotometer()])
    return SmallNight(directory / "out")


def measure_again(night: SmallNight, radii: dict[str, object], instrument: dict | None = None) -> None:
    """Measure a reduced night with further apertures (FWHM of the catalogue, or "best"), by their labels."""
    reducer = reducer_of(night.out.parent, instrument=instrument)
    for label, radius in radii.items():
        unit = "pixel" if radius == "best" else "reference_fwhm"
        reducer.photometry(AperturePhotometer(radius=radius, radius_unit=unit), label=label)
