"""Smooth light that stars stand on and the mesh of the sky does not follow: the median on a ring around each pixel."""

from __future__ import annotations

import warnings

import numpy as np

#: Radii of the circles of the ring, in FWHM of a star: outside most of its light, and as near to it as that allows.
_RADII = (1.5, 2.0, 2.5)
#: Pixels on each circle.
_ON_CIRCLE = 12
#: The median on a ring lies below the top of a hill and above the floor of a valley; what it leaves is smoother and
#: less by a factor of ten (for a hill with a standard deviation of four FWHM), and is taken off in turn so many times.
_TIMES = 3
#: Rows that are worked on at a time, so that memory stays small.
_ROWS = 64


def ring_median(image: np.ndarray, fwhm: float) -> np.ndarray:
    """Light that varies little over a few FWHM, without that of the stars on it.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels; those that are NaN do not count.
    fwhm : float
        FWHM of the stars, in pixels.

    Returns
    -------
    ndarray, shape (ny, nx)
        In the unit of the image; zero where nothing is known.
    """
    light = np.zeros(image.shape)
    for _ in range(_TIMES):
        light += _on_rings(image - light, fwhm)
    return light


def _on_rings(image: np.ndarray, fwhm: float) -> np.ndarray:
    """Median of the pixels on three circles around each pixel; beyond its edges the image is mirrored."""
    angles = 2.0 * np.pi * np.arange(_ON_CIRCLE) / _ON_CIRCLE
    radii = fwhm * np.repeat(_RADII, _ON_CIRCLE)
    offsets = np.unique(
        np.rint(np.column_stack([radii * f(np.tile(angles, len(_RADII))) for f in (np.sin, np.cos)])), axis=0
    )
    reach = int(np.max(np.abs(offsets)))
    padded = np.pad(image, reach, mode="symmetric")
    medians = np.empty(image.shape)
    for top in range(0, len(image), _ROWS):
        height = min(_ROWS, len(image) - top)
        around = [
            padded[reach + top + dy : reach + top + dy + height, reach + dx : reach + dx + image.shape[1]]
            for dy, dx in offsets.astype(int)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # there is no pixel on any ring
            medians[top : top + height] = np.nanmedian(around, axis=0)
    return np.nan_to_num(medians)
