"""A plain reduction with photutils, astroalign and multiprocessing, as one would write it: what we are held against.

It goes the way the one-machine package goes. Headers are read and barycentric times computed frame by frame;
background, finder and aligner run on every frame for the stack; background, finder and photometer run on every frame
again for the light curves. Every process works on frames of its own, with one thread.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before the processes start
    os.environ.setdefault(name, "1")

THRESHOLD = 5.0
N_ALIGNMENT, N_CATALOG = 30, 100
_SITE = (-115.46, 31.04, 2830.0)


def _time(path: str) -> float:
    """Barycentric time of a frame, MJD (TDB)."""
    import astropy.units as u
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.io import fits
    from astropy.time import Time

    header = fits.getheader(path)
    site = EarthLocation.from_geodetic(*_SITE)
    time = Time(header["UT"].replace(" ", "T"), scale="utc", location=site)
    place = SkyCoord(header["RA"], header["DEC"], unit=(u.hourangle, u.deg))
    return float((time.tdb + time.light_travel_time(place)).mjd)


def _image(path: str) -> np.ndarray:
    """Frame in electrons."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        header = hdus[0].header
        return np.asarray(hdus[0].data, dtype=float) - header["DARKCURR"] * header["EXPOSURE"]


def _subtracted(path: str, n_pixels: int):
    """Frame minus its background, the RMS image of the background, the medians of both, and the table of sources."""
    from photutils.background import Background2D

    from opticam_dask.kernels.images.detect import segment_sources

    data = _image(path)
    side = min(data.shape)
    background = Background2D(data, max(16, side // 32))
    image = data - background.background
    table = segment_sources(image, THRESHOLD * background.background_rms, n_pixels, side // 16)
    medians = background.background_median, background.background_rms_median
    return image, background.background_rms, medians, table


def _positions(table, number: int) -> np.ndarray:
    x = table["x_centroid"] if "x_centroid" in table.colnames else table["xcentroid"]
    y = table["y_centroid"] if "y_centroid" in table.colnames else table["ycentroid"]
    return np.column_stack([x, y])[:number]


def _align(paths: list[str], *, reference: np.ndarray, n_pixels: int):
    """Transforms and backgrounds of some frames, and the sum of the frames on the grid of the reference."""
    import astroalign
    from skimage.transform import warp

    transforms, medians, total = [], [], 0.0
    for path in paths:
        image, _, both, table = _subtracted(path, n_pixels)
        coordinates = _positions(table, len(table))
        transform, _ = astroalign.find_transform(reference, coordinates, max_control_points=N_ALIGNMENT)
        total = total + warp(image, transform, order=3, mode="constant", cval=0, clip=True, preserve_range=True)
        transforms.append(transform.params)
        medians.append(both)
    return transforms, medians, total


def _measure(jobs: list[tuple[str, np.ndarray]], *, catalog: np.ndarray, radius: float, n_pixels: int):
    """Fluxes and errors of the sources of the catalogue in some frames, each with an aperture of its own."""
    from photutils.aperture import CircularAperture, aperture_photometry

    fluxes = []
    for path, transform in jobs:
        image, rms, _, table = _subtracted(path, n_pixels)
        predicted = catalog @ transform[:2, :2].T + transform[:2, 2]
        found = _positions(table, len(table))
        error = np.sqrt(np.maximum(image, 0.0) + rms**2)
        away = np.hypot(*(predicted[:, None] - found).transpose(2, 0, 1))
        places = np.where((away.min(axis=1) < radius)[:, None], found[away.argmin(axis=1)], predicted)
        measured = aperture_photometry(image, CircularAperture(places, radius), error=error)
        fluxes.append((np.asarray(measured["aperture_sum"]), np.asarray(measured["aperture_sum_err"])))
    return fluxes


def _batches(items: list, n_processes: int) -> list[list]:
    """Small batches, so that no process waits long for the last of another."""
    size = max(1, len(items) // (8 * n_processes))
    return [items[start : start + size] for start in range(0, len(items), size)]


def reduce(files: list[Path], out: Path, n_processes: int, n_pixels: int) -> dict[str, np.ndarray]:
    """Reduce frames: times, transforms, stack, catalogue and light curves, kept in one file."""
    from opticam_dask.kernels.images.detect import segment_sources

    warnings.simplefilter("ignore")
    paths = [str(path) for path in files]
    with multiprocessing.get_context("spawn").Pool(n_processes) as pool:
        times = pool.map(_time, paths, chunksize=max(1, len(paths) // (8 * n_processes)))
        *_, table = _subtracted(paths[len(paths) // 2], n_pixels)
        align = functools.partial(_align, reference=_positions(table, N_ALIGNMENT), n_pixels=n_pixels)
        transforms, medians, total = [], [], 0.0
        for some, both, image in pool.imap(align, _batches(paths, n_processes)):
            transforms += some
            medians += both
            total = total + image
        stack = total / len(paths)
        noise = np.median([rms for _, rms in medians]) / np.sqrt(len(paths))
        found = segment_sources(stack, THRESHOLD * noise, n_pixels, min(stack.shape) // 16)
        catalog = _positions(found, N_CATALOG)
        measure = functools.partial(_measure, catalog=catalog, radius=8.0, n_pixels=n_pixels)
        jobs = _batches(list(zip(paths, transforms, strict=True)), n_processes)
        measured = [frame for batch in pool.imap(measure, jobs) for frame in batch]
    flux, error = (np.array(values) for values in zip(*measured, strict=True))
    products = {"time": np.array(times), "stack": stack, "catalog": catalog, "transform": np.array(transforms)}
    products |= {"background": np.array(medians), "flux": flux, "flux_err": error}
    np.savez(out, **products)
    return products
