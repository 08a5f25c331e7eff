"""Sums over the pixels of the windows of sources, and what there is to say about the pixels that count.

Each is a few numbers of a source, from some hundred pixels: in C all of them come from one look at the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opticam_dask.kernels import compiled


class ApertureSums(NamedTuple):
    """Sums over apertures, shape (n,) each.

    Attributes
    ----------
    whole, area : ndarray
        Of the weights, and of those of pixels with data.
    flux : ndarray
        Of weighted electrons.
    photons, sky : ndarray
        Of the variance of these: that of their own electrons, which may be below zero, and that of the sky.
    inside, seen : ndarray
        Of weighted light of the star, and of that on pixels with data; NaN where the light is not known.
    """

    whole: np.ndarray
    area: np.ndarray
    flux: np.ndarray
    photons: np.ndarray
    sky: np.ndarray
    inside: np.ndarray
    seen: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Variance of the fluxes, electrons squared; see ``noise.aperture_variance``."""
        variance: np.ndarray = np.maximum(self.photons, 0.0) + self.sky
        return variance


def aperture_sums(
    weights: np.ndarray, electrons: np.ndarray, rms: np.ndarray, light: np.ndarray | None = None
) -> ApertureSums:
    """Sums over the pixels of apertures.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Share of each pixel in the aperture.
    electrons : ndarray, shape (n, size, size)
        Pixels without their sky; NaN pixels do not count.
    rms : ndarray, shape (n, size, size)
        Background RMS, electrons.
    light : ndarray, shape (n, size, size), optional
        Share of the star's light in each pixel.

    Returns
    -------
    ApertureSums
    """
    if compiled.native is not None:
        sums = np.empty((len(ApertureSums._fields), len(weights)))
        given = (compiled.ready(values, dtype=float) for values in (weights, electrons, of_window(rms)))
        compiled.native.aperture_sums(*given, None if light is None else compiled.ready(light, dtype=float), sums)
        return ApertureSums(*sums)
    has_data = np.isfinite(electrons)
    counted, source = np.where(has_data, weights, 0.0), np.where(has_data, electrons, 0.0)
    squared = counted**2
    noise = squared * np.where(squared > 0, rms, 0.0) ** 2
    shares = np.full(weights.shape, np.nan) if light is None else weights * light
    seen = shares if light is None else np.where(has_data, shares, 0.0)
    terms = weights, counted, weights * source, squared * source, noise, shares, seen
    return ApertureSums(*(np.sum(term, axis=(1, 2)) for term in terms))


def centroid_sums(cutouts: np.ndarray, rms: np.ndarray, along: np.ndarray, reach: float) -> np.ndarray:
    """Sums over Gaussian windows: of the light, of the light once more weighted, and of the variance; shape (3, n).

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted electrons; pixels without data do not count.
    rms : ndarray, shape (n, size, size) or (n, 1, 1)
        Background RMS, electrons.
    along : ndarray, shape (4, n, size)
        Gaussian of columns and of rows, and the squares of their distances in sigma.
    reach : float
        Square of the distance at which the window ends.
    """
    if compiled.native is not None:
        sums = np.empty((3, len(cutouts)))
        given = (compiled.ready(values, dtype=float) for values in (cutouts, of_window(rms), along))
        compiled.native.centroid_sums(*given, sums, reach)
        return sums
    has_data = np.isfinite(cutouts)
    peak = along[0][:, None, :] * along[1][:, :, None]
    is_inside = along[2][:, None, :] + along[3][:, :, None] < reach
    window = np.where(has_data & is_inside, peak, 0.0)
    light = window * np.where(has_data, cutouts, 0.0)
    variance = (window * np.where(has_data, rms, 0.0)) ** 2
    return np.array([np.sum(term, axis=(1, 2)) for term in (light, window * light, variance)])


def added_windows(n: int, of: np.ndarray, amounts: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Sums of windows, each times a number, in their order; shape (n, size, size).

    Parameters
    ----------
    n : int
        How many sums there are.
    of : ndarray of int, shape (m,)
        The sum that each window is added to; none below 0.
    amounts : ndarray, shape (m,)
        By what each window is multiplied.
    windows : ndarray, shape (m, size, size)
        The windows.
    """
    sums = np.zeros((n, *windows.shape[1:]))
    if compiled.native is not None:
        given = compiled.ready(amounts, dtype=float), compiled.ready(windows, dtype=float)
        compiled.native.add_windows(sums, compiled.ready(of, dtype=np.int64), *given)
        return sums
    is_one = of >= 0
    np.add.at(sums, of[is_one], amounts[is_one, None, None] * windows[is_one])
    return sums


def inner_windows(windows: np.ndarray, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Windows of a ``size`` in larger ones, from column ``x`` and row ``y`` of each on; shape (n, size, size)."""
    if windows.strides[1:] == (0, 0):  # one number a window
        return np.broadcast_to(windows[:, :1, :1], (len(windows), size, size))
    if compiled.native is not None and windows.dtype in (np.float64, np.bool_):
        inner = np.empty((len(windows), size, size), dtype=windows.dtype)
        corners = (compiled.ready(corner, dtype=np.int64) for corner in (x, y))
        compiled.native.inner_windows(compiled.ready(windows), *corners, inner)
        return inner
    views = np.lib.stride_tricks.sliding_window_view(windows, (size, size), axis=(1, 2))
    found: np.ndarray = views[np.arange(len(windows)), y, x]
    return found


def of_window(rms: np.ndarray) -> np.ndarray:
    """One number a window, (n, 1, 1), where it is the same in all of its pixels; else what is given."""
    return rms[:, :1, :1] if rms.strides[1:] == (0, 0) else rms


def block_excess(deviation: np.ndarray, used: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of deviations over square blocks of windows, in their errors.

    Parameters
    ----------
    deviation : ndarray, shape (n, size, size)
        Pixels minus a model, in their errors.
    used : ndarray of bool, shape (n, size, size)
        Pixels that count.
    block : int
        Side of a block, pixels.

    Returns
    -------
    largest, squares : ndarray, shape (n,)
        The largest sum of a block, and the sum of their squares.
    n_blocks : ndarray, shape (n,)
        How many blocks have pixels that count.
    """
    if compiled.native is not None:
        found = np.empty((3, len(deviation)))
        windows = compiled.ready(deviation, dtype=float), compiled.ready(used, dtype=bool)
        compiled.native.block_excess(*windows, found, block)
        return found[0], found[1], found[2]
    size = deviation.shape[1]
    of_block = (np.arange(size)[:, None] // block == np.arange(-(-size // block))).astype(float)
    sums, count = (of_block.T @ (v @ of_block) for v in (np.where(used, deviation, 0.0), used.astype(float)))
    sums /= np.sqrt(np.maximum(count, 1.0))
    n_blocks = np.count_nonzero(count, axis=(1, 2)).astype(float)
    return np.max(sums, axis=(1, 2)), np.sum(sums**2, axis=(1, 2)), n_blocks


class PixelFacts(NamedTuple):
    """Pixels of each source, of those that count unless another thing is said; shape (n,) each.

    Attributes
    ----------
    there, beyond : ndarray of int
        On the frame, and not.
    lacking : ndarray of int
        On the frame and without data.
    saturated, stray : ndarray of int
        Saturated, and not the source's.
    all_stray : ndarray of int
        Not the source's, whether they count or not.
    """

    there: np.ndarray
    beyond: np.ndarray
    lacking: np.ndarray
    saturated: np.ndarray
    stray: np.ndarray
    all_stray: np.ndarray


def pixel_facts(
    corners: tuple[np.ndarray, np.ndarray],
    counted: np.ndarray,
    electrons: np.ndarray,
    is_saturated: np.ndarray,
    is_stray: np.ndarray,
    shape: tuple[int, int],
) -> PixelFacts:
    """Count the pixels of windows by what there is to say about them.

    Parameters
    ----------
    corners : tuple of ndarray of int, shape (n,)
        ``x0, y0`` of the windows.
    counted : ndarray of bool, shape (n, size, size)
        Pixels that count.
    electrons : ndarray, shape (n, size, size)
        Pixels; not finite where there are no data.
    is_saturated, is_stray : ndarray of bool, shape (n, size, size)
        Saturated pixels, and those that are not the source's.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.
    """
    if compiled.native is not None:
        facts = np.empty((len(PixelFacts._fields), len(counted)), dtype=np.int64)
        masks = (compiled.ready(mask, dtype=bool) for mask in (is_saturated, is_stray))
        windows = compiled.ready(counted, dtype=bool), compiled.ready(electrons, dtype=float), *masks
        compiled.native.pixel_facts(np.array(corners, dtype=np.int64), *windows, facts, *shape)
        return PixelFacts(*facts)
    is_there = counted & on_frame(shape, *corners, counted.shape[1])
    missing = is_there & ~np.isfinite(electrons)
    which = is_there, counted & ~is_there, missing, counted & is_saturated, counted & is_stray, is_stray
    return PixelFacts(*(np.count_nonzero(mask, axis=(1, 2)) for mask in which))


def on_frame(shape: tuple[int, int], x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Which pixels of windows lie on the frame, shape (n, size, size)."""
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    return ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
