"""The catalogue of a key: sources of the stack of its reference night, brightest first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from opticam_dask.kernels.images import align, background, detect
from opticam_dask.kernels.sources import photometry
from opticam_dask.steps.frame_steps import FrameSteps

#: Sources are looked for where at least this share of the best-covered pixel's frames contribute.
_LEAST_COVERAGE = 0.25

#: The typical width is the median over so many of the brightest sources.
_TYPICAL_SOURCES = 30

#: No star is sharper than the frames: what is narrower, along its short axis, than this share of the short axis of
#: their stars (which are elongated when the mount tracks badly) is the trace of a cosmic ray or of a hot pixel that the
#: field drifted across.
_LEAST_WIDTH = 0.6

#: Variance of a uniform distribution over one pixel.
_PIXEL_VARIANCE = 1.0 / 12.0

_SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


class NoCatalog(Exception):
    """No source was found on the stack; the message says what may help."""


def make_catalog(
    image: np.ndarray,
    coverage: np.ndarray,
    frame_rms: np.ndarray,
    seeing: float,
    sharpest: float,
    steps: FrameSteps,
    max_sources: int,
    transforms: np.ndarray,
) -> dict[str, np.ndarray]:
    """Detect the sources of a stack.

    The noise of a pixel is taken from the scatter of the frames and the number of them, not from the stack:
    resampling correlates neighbouring pixels, so that the scatter of the stack is too small.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Mean of the aligned frames, electrons; NaN where no frame contributes.
    coverage : ndarray of int, shape (ny, nx)
        Number of frames in each pixel.
    frame_rms : ndarray, shape (frame,)
        Background RMS of the frames, electrons.
    seeing : float
        Median FWHM of the frames, in pixels; NaN when unknown.
    sharpest : float
        Median FWHM of the frames along the short axis of their stars, in pixels; NaN when unknown.
    steps : FrameSteps
        Mesh, finder and threshold.
    max_sources : int
        How many of the brightest sources to keep.
    transforms : ndarray, shape (stacked, 3, 3)
        Of the frames in the stack, by which they were resampled.

    Returns
    -------
    dict of ndarray, shape (source,)
        The variables of ``schema.CATALOG``.

    Raises
    ------
    NoCatalog
        When there is nothing above the threshold.
    """
    if not coverage.any():
        raise NoCatalog("no frame could be aligned, so there is no stack. A lower threshold or n_pixels may help.")
    seen = coverage >= max(1.0, _LEAST_COVERAGE * coverage.max())
    pixels = np.where(seen, image.astype(float), np.nan)
    mesh, _ = background.sky_mesh(pixels, steps.box_size)
    pixels -= background.zoom_mesh(mesh, pixels.shape, steps.box_size)
    noise = np.nanmedian(frame_rms) / np.sqrt(np.maximum(coverage, 1))
    table = steps.finder(pixels, steps.threshold * noise)
    if table is None or not len(table):
        raise NoCatalog(
            f"no source above {steps.threshold:g} times the noise on the stack. A lower threshold or n_pixels may help."
        )
    found = _sources_of(pixels, detect.source_arrays(table, len(table)), seeing, sharpest, transforms)
    if not len(found["x"]):
        raise NoCatalog("the stack holds nothing as wide as a star, only traces of cosmic rays or hot pixels.")
    found = {name: values[:max_sources] for name, values in found.items()}
    _refine_positions(pixels, found)
    found["source_id"] = np.arange(1, len(found["x"]) + 1, dtype=np.int32)
    return found


def _sources_of(
    image: np.ndarray, found: dict[str, np.ndarray], seeing: float, sharpest: float, transforms: np.ndarray
) -> dict[str, np.ndarray]:
    """Add the FWHM of each source, and drop what is too sharp for the sky. Widths are those without resampling."""
    known = np.isfinite(found["x"]) & np.isfinite(found["y"])
    found = {name: values[known] for name, values in found.items()}
    xy = np.column_stack([found["x"], found["y"]])
    isophotal = np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"])
    start = np.full(len(xy), seeing / _SIGMA_TO_FWHM) if np.isfinite(seeing) else isophotal
    resampling = np.mean(align.widening(transforms, xy), axis=0) if len(transforms) else np.zeros(len(xy))
    semimajor, semiminor = (_narrowed(width, resampling) for width in photometry.source_widths(image, xy, start))
    for name in ("semimajor_sigma", "semiminor_sigma"):
        found[name] = _narrowed(found[name], resampling)
    found["fwhm"] = _SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)
    narrow = _SIGMA_TO_FWHM * np.where(np.isfinite(semiminor), semiminor, found["semiminor_sigma"])
    is_sharp = narrow < _LEAST_WIDTH * np.fmin(seeing, sharpest)
    return {name: values[~is_sharp] for name, values in found.items()}


def _narrowed(sigma: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Width without what resampling added to its square; a pixel is the least that is left."""
    least = np.minimum(sigma**2, _PIXEL_VARIANCE)
    return np.sqrt(np.maximum(sigma**2 - variance, least))


def _refine_positions(image: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Replace the centroids of the segments, which lean towards whatever else is in them, by windowed ones."""
    sigma = typical_fwhm(found) / _SIGMA_TO_FWHM
    size = 2 * int(np.ceil(4.0 * sigma)) + 3
    start = np.column_stack([found["x"], found["y"]])
    x0, y0 = photometry.origins(start, size)
    xy, _ = photometry.windowed_centroids(photometry.cut_out(image, x0, y0, size), x0, y0, start, sigma)
    found["x"], found["y"] = xy[:, 0], xy[:, 1]


def typical_fwhm(found: Mapping[str, np.ndarray], select: Callable[[np.ndarray], float] = np.median) -> float:
    """FWHM that stands for a catalogue, in pixels: ``select`` (the median) of its brightest sources."""
    widths = found["fwhm"][np.isfinite(found["fwhm"])][:_TYPICAL_SOURCES]
    if len(widths):
        return float(select(widths))
    sigma = np.sqrt(found["semimajor_sigma"] * found["semiminor_sigma"])
    sigma = sigma[np.isfinite(sigma) & (sigma > 0)]
    return float(_SIGMA_TO_FWHM * select(sigma)) if len(sigma) else 2.0 * _SIGMA_TO_FWHM


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the bits of a catalogue, by which it is known again."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
