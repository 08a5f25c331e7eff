"""A plain reduction with photutils, astroalign and multiprocessing, of the kind one would write: what we are held against.

Background, finder and aligner run on every frame for the stack; background, finder and photometer run on every frame
again for the light curves. Frames are read with astropy, and every process works on frames of its own.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np

# before the processes start: each has one core
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

THRESHOLD = 5.0
N_ALIGNMENT, N_CATALOG = 15, 15


def _subtracted(path: str, n_pixels: int):
    """Frame minus its background, the RMS of the background, and the table of its sources, brightest first."""
    from astropy.io import fits
    from photutils.background import Background2D

    from opticam_dask.kernels.detect import segment_sources

    data = np.asarray(fits.getdata(path), dtype=float)
    side = min(data.shape)
    background = Background2D(data, max(16, side // 32))
    image = data - background.background
    table = segment_sources(image, THRESHOLD * background.background_rms, n_pixels, side // 16)
    return image, background.background_rms, table


def _positions(table, number: int) -> np.ndarray:
    x = table["x_centroid"] if "x_centroid" in table.colnames else table["xcentroid"]
    y = table["y_centroid"] if "y_centroid" in table.colnames else table["ycentroid"]
    return np.column_stack([x, y])[:number]


def _align(path: str, *, reference: np.ndarray, n_pixels: int):
    """Transform of a frame, and the frame on the grid of the reference."""
    import astroalign
    from skimage.transform import warp

    image, rms, table = _subtracted(path, n_pixels)
    transform, _ = astroalign.find_transform(reference, _positions(table, N_ALIGNMENT))
    return transform.params, warp(image, transform, order=3, preserve_range=True), float(np.median(rms))


def _measure(job: tuple[str, np.ndarray], *, catalog: np.ndarray, radius: float, n_pixels: int):
    """Fluxes, errors and positions of the sources of the catalogue in one frame."""
    from photutils.aperture import CircularAperture, aperture_photometry

    path, transform = job
    image, rms, table = _subtracted(path, n_pixels)
    predicted = catalog @ transform[:2, :2].T + transform[:2, 2]
    found = _positions(table, len(table))
    away = np.hypot(*(predicted[:, None] - found).transpose(2, 0, 1))
    nearest = away.argmin(axis=1)
    places = np.where((away.min(axis=1) < radius)[:, None], found[nearest], predicted)
    error = np.sqrt(np.maximum(image, 0.0) + rms**2)
    measured = aperture_photometry(image, CircularAperture(places, radius), error=error)
    return np.asarray(measured["aperture_sum"]), np.asarray(measured["aperture_sum_err"]), places


def reduce(files: list[Path], out: Path, n_processes: int, n_pixels: int) -> dict[str, np.ndarray]:
    """Reduce the frames of a directory: transforms, stack, catalogue and light curves, kept in one file."""
    warnings.simplefilter("ignore")
    paths = [str(path) for path in files]
    _, _, table = _subtracted(paths[len(paths) // 2], n_pixels)
    reference = _positions(table, N_ALIGNMENT)
    with multiprocessing.get_context("spawn").Pool(n_processes) as pool:
        align = functools.partial(_align, reference=reference, n_pixels=n_pixels)
        transforms, levels, total = [], [], 0.0
        for transform, image, level in pool.imap(align, paths, chunksize=2):
            transforms.append(transform)
            levels.append(level)
            total = total + image
        stack = total / len(paths)
        from opticam_dask.kernels.detect import segment_sources

        noise = np.median(levels) / np.sqrt(len(paths))
        found = segment_sources(stack, THRESHOLD * noise, n_pixels, min(stack.shape) // 16)
        catalog = _positions(found, N_CATALOG)
        measure = functools.partial(_measure, catalog=catalog, radius=8.0, n_pixels=n_pixels)
        measured = list(pool.imap(measure, list(zip(paths, transforms, strict=True)), chunksize=2))
    flux, error, places = (np.array(values) for values in zip(*measured, strict=True))
    products = {"stack": stack, "catalog": catalog, "transform": np.array(transforms), "flux": flux, "flux_err": error}
    np.savez(out, **products, positions=places)
    return products
