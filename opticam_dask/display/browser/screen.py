"""Numbers for the pictures of the browser: envelopes of series, grey levels, the point nearest to a click."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA


def spread_order(n: int) -> np.ndarray:
    """Numbers 0 to n - 1 in an order whose first few are spread evenly over all: bits are counted from the far end."""
    n_bits = max(1, int(n - 1).bit_length()) if n else 0
    numbers = np.arange(1 << n_bits) if n else np.empty(0, dtype=int)
    turned = np.zeros_like(numbers)
    for bit in range(n_bits):
        turned |= ((numbers >> bit) & 1) << (n_bits - 1 - bit)
    return turned[turned < n]


def envelope(
    x: np.ndarray, y: np.ndarray, low: float, high: float, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smallest and largest value in each column of pixels: what a plot of all points would cover.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        In order of ``x``, NaN at its end.
    low, high : float
        Range of ``x`` that the columns divide evenly.
    n_columns : int
        Number of columns of the picture.

    Returns
    -------
    centre, lowest, highest : ndarray, shape (m,)
        Middle of each column that holds a finite value (units of ``x``), and the lowest and highest ``y`` in it.
    """
    edges = np.linspace(low, high, n_columns + 1)
    bounds = np.searchsorted(x, edges, side="left")
    bounds[-1] = np.searchsorted(x, high, side="right")
    has_points = np.flatnonzero(np.diff(bounds) > 0)
    if not len(has_points):
        return np.empty(0), np.empty(0), np.empty(0)
    span = slice(bounds[0], bounds[-1])
    values, starts = y[span], bounds[has_points] - bounds[0]
    is_finite = np.isfinite(values)
    lowest = np.minimum.reduceat(np.where(is_finite, values, np.inf), starts)
    highest = np.maximum.reduceat(np.where(is_finite, values, -np.inf), starts)
    is_known = lowest <= highest
    centres = (edges[:-1] + edges[1:])[has_points] / 2
    return centres[is_known], lowest[is_known], highest[is_known]


def nearest(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], scale: tuple[float, float], within: tuple[int, int]
) -> int | None:
    """Number of the point that looks nearest to a click.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Points with a coordinate that is not finite are none.
    at : (float, float)
        Where the click was.
    scale : (float, float)
        Size of a pixel of the screen along each axis.
    within : (int, int)
        First and one past the last point that count.

    Returns
    -------
    int or None
        None when there is no point.
    """
    span = slice(*within)
    distance = np.hypot((x[span] - at[0]) / scale[0], (y[span] - at[1]) / scale[1])
    if not np.isfinite(distance).any():
        return None
    return int(np.nanargmin(distance)) + within[0]


def shrink(image: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Mean of squares of pixels, so that no side is longer than ``most``; and the side of a square.

    Pixels at the far edges that fill no square are left out.
    """
    factor = max(1, -(-max(image.shape) // most))
    if factor == 1:
        return image, 1
    ny, nx = (size // factor for size in image.shape)
    if not (ny and nx):
        return image, 1
    squares = image[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor)
    return squares.mean(axis=(1, 3)), factor


def shade(image: np.ndarray, limits: tuple[float, float, float] | None = None) -> np.ndarray:
    """Grey levels 0 to 255 of an image of stars: steep at the sky, flat in the stars.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The image.
    limits : (float, float, float), optional
        Result of :func:`shade_limits`; by default that of this image.

    Returns
    -------
    ndarray of uint8, shape (ny, nx)
        Pixels without data are 0.
    """
    middle, scatter, top = limits or shade_limits(image)
    low, high = np.arcsinh(-1.0), np.arcsinh((top - middle) / (2 * scatter))
    with np.errstate(invalid="ignore"):
        level = (np.arcsinh((image - middle) / (2 * scatter)) - low) / max(high - low, 1e-9)
    return (np.clip(np.nan_to_num(level), 0.0, 1.0) * 255).astype(np.uint8)


def shade_limits(image: np.ndarray) -> tuple[float, float, float]:
    """Median, scatter and white level of an image, from at most some 10^5 of its pixels."""
    step = max(1, int(np.sqrt(image.size / 1e5)))
    some = image[::step, ::step]
    some = some[np.isfinite(some)]
    if not len(some):
        return 0.0, 1.0, 10.0
    middle = float(np.median(some))
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(some - middle))) or float(np.std(some)) or 1.0
    return middle, scatter, max(float(np.percentile(image[np.isfinite(image)], 99.9)), middle + 10 * scatter)
