"""Finding charts and cut-outs as small pictures: black stars on a white sky."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: A chart has at most this many pixels along its longer side; larger images are averaged.
LONGEST_SIDE = 1000

#: Pixels below the sky by this many times its scatter are white.
_BELOW = 1.5


def chart(image: np.ndarray) -> bytes:
    """Picture (JPEG) of a stack, y upwards.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Electrons per pixel; NaN is white.
    """
    return _encoded(_grey(averaged(image, -(-max(image.shape) // LONGEST_SIDE))), "JPEG", quality=82, optimize=True)


def stamp(image: np.ndarray, x: float, y: float, half: int) -> bytes:
    """Picture (PNG) of the surroundings of a source, y upwards, ``2 half + 1`` pixels to a side."""
    column, row = round(x), round(y)
    window = np.full((2 * half + 1, 2 * half + 1), np.nan)
    rows = slice(max(0, row - half), max(0, row + half + 1))
    columns = slice(max(0, column - half), max(0, column + half + 1))
    found = image[rows, columns]
    if found.size:
        top, left = rows.start - (row - half), columns.start - (column - half)
        window[top : top + found.shape[0], left : left + found.shape[1]] = found
    return _encoded(_grey(window), "PNG", optimize=True)


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of ``factor`` x ``factor`` pixels; the last row and column of means may be of fewer."""
    if factor == 1:
        return image
    ny, nx = (-(-length // factor) for length in image.shape)
    padded = np.full((ny * factor, nx * factor), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    boxes = padded.reshape(ny, factor, nx, factor)
    known = np.isfinite(boxes)
    n_known = known.sum(axis=(1, 3))
    total = np.where(known, boxes, 0.0).sum(axis=(1, 3))
    return np.where(n_known > 0, total / np.maximum(n_known, 1), np.nan)


def _grey(image: np.ndarray) -> np.ndarray:
    """Bytes of an image, 255 for sky and 0 for the brightest stars, on an asinh scale; the first row is the top."""
    known = image[np.isfinite(image)]
    if not len(known):
        return np.full(image.shape, 255, dtype=np.uint8)
    sky = float(np.median(known))
    rms = MAD_TO_SIGMA * float(np.median(np.abs(known - sky))) or float(np.std(known)) or 1.0
    low = sky - _BELOW * rms
    high = max(float(np.percentile(known, 99.9)), sky + 10.0 * rms)
    scaled = np.arcsinh(np.clip(np.nan_to_num(image, nan=low) - low, 0.0, high - low) / (3.0 * rms))
    grey: np.ndarray = np.rint(255.0 * (1.0 - scaled / np.arcsinh((high - low) / (3.0 * rms)))).astype(np.uint8)
    return grey[::-1]


def _encoded(grey: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(stream, kind, **options)
    return stream.getvalue()
