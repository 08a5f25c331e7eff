"""Simulated observations with known truth: the three-camera field of the opticam package, and flat fields.

:func:`generate_observations` writes six stars in three filters, one of them variable with a lag between the
cameras. More general fields come from :func:`simulate_observations`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits

from opticam_dask import locations
from opticam_dask.console import Console
from opticam_dask.parameters import SIMULATION, held_to

Noise = Literal["independent", "opticam"]

FILTERS = ("g", "r", "i")

_DETECTOR = 2048  # pixels of a side, unbinned
_N_SOURCES = 6  # of a frame
_FIELD_SEED = 123  # of the places and fluxes of the sources
_SKY = 100.0  # mean of a pixel, counts
_SKY_RMS = 10.0  # scatter of a pixel, counts
_PSF_SIGMA = 6.0  # unbinned pixels
_JITTER = 4.0  # unbinned pixels
_VARIABLE = 1  # place of the variable among the sources
_AMPLITUDE_RMS = 0.02  # relative
_FREQUENCY = 0.135  # Hz
_LAGS = {"g": 0.0, "r": np.pi / 2.0, "i": np.pi}
_START = datetime(2024, 1, 1, tzinfo=UTC)
_GAP_SEED = 42  # of the random gaps
_GAP_CHANCE = 0.02  # probability that a gap begins at a frame
_GAP_STAYS = 0.95  # probability that a gap goes on to the next frame
_FLAT_LEVEL = 10_000.0  # mean of a pixel of a flat, counts
_FLAT_RMS = 100.0  # scatter of a pixel of a flat, counts

#: Each seed, filter, frame and kind of noise has a stream of random numbers of its own.
_KINDS = {"shot": 0, "sky": 1, "flat": 2}


@held_to(SIMULATION)
def generate_observations(
    out_directory: str | Path,
    n_images: int = 100,
    circular_aperture: bool = True,
    binning_scale: int = 4,
    overwrite: bool = False,
    *,
    noise: Noise = "independent",
    seed: int = 0,
    compress: bool = False,
) -> None:
    """Write simulated frames of one field in g, r and i, one frame a second.

    Source 2 (in order of brightness) varies by 2 % at 0.135 Hz; r is ahead of g by a quarter of a turn, i by half a
    turn.

    Parameters
    ----------
    out_directory : path
        Where the frames go; made if it does not exist.
    n_images : int
        Frames of each filter.
    circular_aperture : bool
        Darken the corners beyond the inscribed circle.
    binning_scale : int
        Pixels of a 2048 x 2048 detector that are binned along each axis.
    overwrite : bool
        Replace frames that are there; otherwise they are kept.
    noise : {"independent", "opticam"}
        Independent noise in every filter, frame and kind; or that of the opticam package, which restarts the same
        stream for all of them, so that errors cannot be tested on it.
    seed : int
        Seed of the noise. Of the independent noise only.
    compress : bool
        Write ``.fits.gz``.

    Raises
    ------
    ValueError
        When ``n_images`` or ``binning_scale`` is below 1, or the noise is unknown.
    """
    _generate(out_directory, range(n_images), circular_aperture, binning_scale, overwrite, noise, seed, compress)


@held_to(SIMULATION)
def generate_gappy_observations(
    out_directory: str | Path,
    n_images: int = 1000,
    circular_aperture: bool = True,
    binning_scale: int = 4,
    overwrite: bool = False,
    *,
    noise: Noise = "independent",
    seed: int = 0,
    compress: bool = False,
) -> None:
    """Write the frames of :func:`generate_observations` with random gaps: about 71 % of ``n_images`` are kept."""
    _generate(out_directory, _kept_frames(n_images), circular_aperture, binning_scale, overwrite, noise, seed, compress)


@held_to(SIMULATION)
def generate_flats(
    out_directory: str | Path,
    n_flats: int = 5,
    binning_scale: int = 4,
    overwrite: bool = False,
    *,
    noise: Noise = "independent",
    seed: int = 0,
    compress: bool = False,
) -> None:
    """Write flat-field frames of g, r and i with the shadow of the circular aperture.

    Parameters are those of :func:`generate_observations`.
    """
    _check_noise(noise)
    SIMULATION["n_images"].check("n_flats", n_flats)
    side = _side(binning_scale)
    directory, shadow = _made(out_directory), _aperture_shadow(side)
    for filter_name in FILTERS:
        for index in range(n_flats):
            path = directory / f"{filter_name}-band_flat_{index}.fits{'.gz' if compress else ''}"
            if path.exists() and not overwrite:
                continue
            restarted = np.random.default_rng(123 * (index + 123))
            rng = restarted if noise == "opticam" else _rng(seed, filter_name, index, "flat")
            image = rng.normal(_FLAT_LEVEL, _FLAT_RMS, (side, side)) * shadow
            header = {**_header(filter_name, binning_scale, index), "EXPOSURE": 0.05}
            write_frame(path, image, header)


@held_to(SIMULATION)
def observation_truth(n_images: int = 100, binning_scale: int = 4, *, gaps: bool = False) -> xr.Dataset:
    """Return what :func:`generate_observations` simulates.

    Parameters
    ----------
    n_images : int
        Number of images of each camera.
    binning_scale : int
        Pixels of the detector that are summed along each axis.
    gaps : bool
        The truth of :func:`generate_gappy_observations`.

    Returns
    -------
    xarray.Dataset
        ``flux (filter, frame, source)`` in electrons, ``x, y (frame, source)`` in pixels, ``time (frame)`` in seconds
        since the first exposure began; sources are in the order of their mean fluxes.
    """
    frames = np.array(_kept_frames(n_images) if gaps else range(n_images), dtype=int)
    positions, fluxes = _field(binning_scale)
    flux = np.broadcast_to(fluxes, (len(FILTERS), len(frames), _N_SOURCES)).copy()
    for row, filter_name in enumerate(FILTERS):
        flux[row, :, _VARIABLE] *= [_variability(int(index), filter_name) for index in frames]
    shifts = np.array([_shift(int(index), binning_scale) for index in frames]).reshape(-1, 2)
    xy = positions[None] + shifts[:, None]
    return xr.Dataset(
        {
            "flux": (("filter", "frame", "source"), flux, {"units": "electron"}),
            "x": (("frame", "source"), xy[..., 0], {"units": "pixel"}),
            "y": (("frame", "source"), xy[..., 1], {"units": "pixel"}),
        },
        coords={
            "filter": list(FILTERS),
            "time": ("frame", frames.astype(float), {"units": "s"}),
            "source_id": ("source", np.arange(1, _N_SOURCES + 1)),
        },
        attrs={
            "variable_source": _VARIABLE + 1,
            "frequency": _FREQUENCY,
            "amplitude": _AMPLITUDE_RMS * float(np.sqrt(2.0)),
            "lags": [_LAGS[name] for name in FILTERS],
            "psf_sigma": _PSF_SIGMA / binning_scale,
            "sky": _SKY,
            "sky_rms": _SKY_RMS,
        },
    )


def _generate(
    out_directory: str | Path,
    frames: Sequence[int],
    circular_aperture: bool,
    binning_scale: int,
    overwrite: bool,
    noise: Noise,
    seed: int,
    compress: bool,
) -> None:
    _check_noise(noise)
    positions, fluxes = _field(binning_scale)
    directory = _made(out_directory)
    side = _side(binning_scale)
    shadow = _aperture_shadow(side) if circular_aperture else None
    _announce(positions)
    console = Console()
    with console.stage("Simulating", len(frames) * len(FILTERS), "frames"):
        for index, filter_name in product(frames, FILTERS):
            console.advance(1)
            path = directory / f"240101{filter_name}{200_000_000 + index}o.fits{'.gz' if compress else ''}"
            if path.exists() and not overwrite:
                continue
            flux = fluxes.copy()
            flux[_VARIABLE] *= _variability(index, filter_name)
            shift = np.array(_shift(index, binning_scale))
            image = _stars(side, positions + shift, flux, _PSF_SIGMA / binning_scale)
            image = _add_noise(image, filter_name, index, noise, seed)
            if shadow is not None:
                image *= shadow
            write_frame(path, image, _header(filter_name, binning_scale, index))


def _announce(positions: np.ndarray) -> None:
    """Say what is simulated, in the words of the opticam package (its RMS was wrong by a factor of 100)."""
    x, y = np.round(positions[_VARIABLE]).astype(int)
    lines = [
        f"variable source is at ({x}, {y})",
        f"variability RMS: {100 * _AMPLITUDE_RMS:g} %",
        f"variability frequency: {_FREQUENCY} Hz",
        *(f"{name}-band phase lag: {lag:.3f} rad" for name, lag in _LAGS.items()),
    ]
    for line in lines:
        print(f"[OPTICAM] {line}", flush=True)  # noqa: T201 - users of the original look for these lines


def _field(binning_scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions ``(source, 2)`` and total counts, brightest first."""
    side = _side(binning_scale)
    border = _DETECTOR // (16 * binning_scale)
    rng = np.random.default_rng(_FIELD_SEED)
    positions = rng.uniform(border, side - border, (_N_SOURCES, 2))
    fluxes = np.sort(np.round(10.0 ** (3.0 + rng.random(_N_SOURCES))))[::-1]
    return positions, fluxes.copy()


def _side(binning_scale: int) -> int:
    side = _DETECTOR // binning_scale
    if side < 64:
        raise ValueError(f"binning_scale must leave at least 64 pixels of {_DETECTOR}, got {binning_scale}")
    return side


def _shift(index: int, binning_scale: int) -> tuple[float, float]:
    """Pointing jitter of a frame in pixels, the same in all filters."""
    rng = np.random.default_rng(index)
    return _JITTER * rng.normal() / binning_scale, _JITTER * rng.normal() / binning_scale


def _variability(index: int, filter_name: str) -> float:
    phase = 2.0 * np.pi * _FREQUENCY * index + _LAGS[filter_name]
    return float(1.0 + _AMPLITUDE_RMS * np.sqrt(2.0) * np.sin(phase))


def _stars(side: int, positions: np.ndarray, fluxes: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian stars, evaluated at the pixel centres."""
    image = np.zeros((side, side))
    pixels = np.arange(side)
    for (x, y), flux in zip(positions, fluxes, strict=True):
        along_x = np.exp(-0.5 * ((pixels - x) / sigma) ** 2)
        along_y = np.exp(-0.5 * ((pixels - y) / sigma) ** 2)
        image += flux / (2.0 * np.pi * sigma**2) * along_y[:, None] * along_x[None, :]
    return image


def _rng(seed: int, filter_name: str, index: int, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, FILTERS.index(filter_name), index, _KINDS[kind]])


def _add_noise(image: np.ndarray, filter_name: str, index: int, noise: Noise, seed: int) -> np.ndarray:
    """Shot noise of the sources, then the sky with its own noise."""
    if noise == "opticam":
        shot, sky = np.random.default_rng(index), np.random.default_rng(index)
    else:
        shot, sky = _rng(seed, filter_name, index, "shot"), _rng(seed, filter_name, index, "sky")
    noisy = image + shot.normal(0.0, np.sqrt(image))
    return noisy + sky.normal(_SKY, _SKY_RMS, image.shape)


def _aperture_shadow(side: int) -> np.ndarray:
    """Transmission of the circular aperture: 1 inside, ``(R / d)^2`` beyond the inscribed circle."""
    centre = radius = side // 2
    pixels = np.arange(side) - centre
    distance = np.hypot(pixels[:, None], pixels[None, :])
    return np.where(distance >= radius, (radius / np.maximum(distance, 1.0)) ** 2, 1.0)


def _header(filter_name: str, binning_scale: int, index: int) -> dict[str, Any]:
    stamp = (_START + timedelta(seconds=index)).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "FILTER": filter_name,
        "BINNING": f"{binning_scale}x{binning_scale}",
        "GAIN": 1.0,
        "EXPOSURE": 1.0,
        "DARKCURR": 0.0,
        "INSTRUME": "OPTICAM",
        "RA": 0.0,
        "DEC": 0.0,
        "UT": stamp,
    }


def _kept_frames(n_images: int) -> list[int]:
    """Frames that are not lost in a gap: a loss is rare, but likely to be followed by another."""
    rng = np.random.default_rng(_GAP_SEED)
    kept, chance = [], _GAP_CHANCE
    for index in range(n_images):
        if rng.random() < chance:
            chance = _GAP_STAYS
        else:
            chance = _GAP_CHANCE
            kept.append(index)
    return kept


def _check_noise(noise: str) -> None:
    if noise not in ("independent", "opticam"):
        raise ValueError(f"noise must be 'independent' or 'opticam', got {noise!r}")


def _made(out_directory: str | Path) -> Path:
    directory = Path(out_directory)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def write_frame(path: Path, image: np.ndarray, header: Mapping[str, Any]) -> None:
    """Write one FITS file; a reader never sees a part of it. Names that end in ``.gz`` are compressed."""
    document = fits.PrimaryHDU(image)
    for keyword, value in header.items():
        document.header[keyword] = value
    with locations.replacing(path) as temporary, temporary.open("wb") as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream, mtime=0) as packed:
                document.writeto(packed)
        else:
            document.writeto(stream)
