"""Calibration of one frame: ADU to electrons, cosmic rays, rebinning."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import overload

import astroscrappy
import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.counts import Counts, Replaced

#: L.A.Cosmic (van Dokkum 2001, PASP 113, 1420), with the usual limits: a cosmic ray is this many sigma, its neighbours
#: are this part of that, and it stands out of the light of stars by this much.
_LIMITS = (4.5, 0.3, 5.0)

#: Rounds of searching and cleaning.
_ROUNDS = 4

#: Stands for no saturation, within what float32 holds.
_LARGEST_LEVEL = 3e38

#: Smaller frames (pixels along an axis) than this leave the compiled form no room.
_SMALLEST_FRAME = 16

#: Pixels of more electrons have no value: a stack counts them in fixed point (64 bits).
_MOST_ELECTRONS = 2.0**35


def to_electrons(
    raw: np.ndarray,
    *,
    gain: float,
    dark_current: float,
    exposure_time: float,
    bias: np.ndarray | None = None,
    dark: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    bad_pixels: np.ndarray | None = None,
    fringe: np.ndarray | None = None,
    dark_gain: float | None = None,
    dtype: type[np.floating] = np.float64,
) -> np.ndarray:
    """Electrons of the sky and the sources: ``(raw - bias - dark * exposure_time) / flat * gain - fringe``.

    Without a master dark, ``dark_current * exposure_time`` electrons are taken off before the division. Every pixel is
    converted by itself, so that a cut-out gives the same bits as the frame.

    Parameters
    ----------
    raw : ndarray
        Pixels in ADU.
    gain : float
        Electrons per ADU.
    dark_current : float
        Electrons per pixel and second; not used when there is a master dark.
    exposure_time : float
        Exposure time, seconds.
    bias, dark, flat, bad_pixels : ndarray, same shape as ``raw``, optional
        Masters: level in ADU, rate in ADU per second, response (1 on average), and True for pixels not to be used.
    fringe : ndarray, same shape as ``raw``, optional
        Fringes of this frame, electrons.
    dark_gain : float, optional
        Electrons per ADU of the dark; by default that of the frame.
    dtype : type
        float64, or float32 where a part in 10^7 is enough, as for the detection of sources.

    Returns
    -------
    ndarray of ``dtype``
        NaN where a pixel is bad, where the response is not above zero, and where a pixel is infinite or beyond what
        any detector counts: one such number would spoil every sum.
    """
    raw = np.asarray(raw)
    electrons = raw.astype(dtype)
    if bias is not None:
        electrons -= bias
    if dark is not None:
        seconds = exposure_time if dark_gain in (None, gain) else exposure_time * dark_gain / gain
        electrons -= np.multiply(dark, seconds, dtype=dtype)  # the same bits for masters of any type
        dark_current = 0.0
    electrons *= dtype(gain)
    if dark_current * exposure_time:
        electrons -= dtype(dark_current * exposure_time)
    if flat is not None:
        electrons /= np.where(flat > 0, flat, np.nan)
    if fringe is not None:
        electrons -= fringe
    if bad_pixels is not None:
        electrons[bad_pixels] = np.nan
    if raw.dtype.itemsize > 2 or flat is not None:  # 16 bits hold no such number, unless they are divided
        electrons[~(np.abs(electrons) <= _MOST_ELECTRONS)] = np.nan
    return electrons


@overload
def remove_cosmic_rays(
    image: np.ndarray, *, read_noise: float, saturation: float = ...
) -> tuple[np.ndarray, np.ndarray]: ...
@overload
def remove_cosmic_rays(image: Counts, *, read_noise: float, saturation: float = ...) -> tuple[Counts, np.ndarray]: ...
def remove_cosmic_rays(
    image: np.ndarray | Counts, *, read_noise: float, saturation: float = np.inf
) -> tuple[np.ndarray | Counts, np.ndarray]:
    """Find cosmic rays with L.A.Cosmic and replace them by the mean of the unmarked pixels around them.

    The compiled form looks only where there may be some; mask and cleaned pixels are those of astroscrappy, which is
    what runs without it.

    Parameters
    ----------
    image : ndarray or Counts, shape (ny, nx)
        Frame in electrons with its sky in it, from which the noise of a pixel follows; NaN pixels stay NaN.
    read_noise : float
        Electrons per pixel; NaN counts as 0.
    saturation : float
        Level in electrons above which stars are not taken for cosmic rays.

    Returns
    -------
    clean : ndarray or Counts, shape (ny, nx)
        The image without cosmic rays.
    mask : ndarray of bool, shape (ny, nx)
        True where a pixel was replaced.
    """
    limits = float(np.nan_to_num(read_noise)), min(saturation, _LARGEST_LEVEL)
    native = compiled.native if min(image.shape) >= _SMALLEST_FRAME else None
    if not isinstance(image, Counts):
        found, mask = _search(native, image, *limits)
        clean = image.copy(order="C")
        clean.ravel()[found.places] = found.electrons
        return clean, mask
    found, mask = (
        _search(native, image.in_full(), *limits) if native is None else _search_counts(native, image, *limits)
    )
    raw = image.raw
    if len(found.places):
        raw, counts = raw.copy(), (found.electrons.astype(float) + image.offset) / image.gain
        raw.ravel()[found.places] = np.clip(np.rint(counts), 0, np.iinfo(raw.dtype).max)
    return replace(image, raw=raw, replaced=found), mask


def _search_counts(
    native: ModuleType, image: Counts, read_noise: float, saturation: float
) -> tuple[Replaced, np.ndarray]:
    """Cosmic rays of a frame of counts, and the mask of them."""
    mask = np.empty(image.shape, dtype=bool)
    limits, line = (read_noise, saturation, *_LIMITS, _ROUNDS), (image.gain, image.offset)
    return _found(native.cosmic_rays(compiled.ready(image.raw), None, mask, *limits, *line)), mask


def _search(
    native: ModuleType | None, image: np.ndarray, read_noise: float, saturation: float
) -> tuple[Replaced, np.ndarray]:
    """Cosmic rays of a frame of electrons, and the mask of them."""
    bad = np.ascontiguousarray(~np.isfinite(image))
    # float32 holds 1e-7 of a value: the differences that L.A.Cosmic looks at are far above it
    pixels = image.astype(np.float32, order="C")
    if bad.any():
        pixels[bad] = 0.0 if bad.all() else np.median(image[~bad]).item()
    if native is not None:
        mask = np.empty(image.shape, dtype=bool)
        return _found(native.cosmic_rays(pixels, bad, mask, read_noise, saturation, *_LIMITS, _ROUNDS)), mask
    limit, fraction, object_limit = _LIMITS
    mask, pixels = astroscrappy.detect_cosmics(
        pixels,
        inmask=bad,
        sigclip=limit,
        sigfrac=fraction,
        objlim=object_limit,
        niter=_ROUNDS,
        gain=1.0,
        readnoise=read_noise,
        satlevel=saturation,
        sepmed=True,
        cleantype="meanmask",
    )
    mask = np.asarray(mask, dtype=bool) & ~bad
    places = np.flatnonzero(mask)
    return Replaced(places, pixels.ravel()[places]), mask


def _found(replaced: tuple[bytes, bytes]) -> Replaced:
    """What the compiled form found."""
    return Replaced(np.frombuffer(replaced[0], dtype=np.int64), np.frombuffer(replaced[1], dtype=np.float32))


def rebin(image: np.ndarray, factor: int) -> np.ndarray:
    """Sum blocks of ``factor`` x ``factor`` pixels.

    Missing (NaN) pixels count as the mean of the others of their block, so that the sky stays level; a block
    without any pixel is NaN.

    Raises
    ------
    ValueError
        When the factor does not divide the shape.
    """
    blocks = _blocks(image, factor)
    total: np.ndarray = blocks.sum(axis=(1, 3))
    if np.isnan(total).any():
        n_good = np.isfinite(blocks).sum(axis=(1, 3))
        scale = np.divide(factor**2, n_good, out=np.full(total.shape, np.nan), where=n_good > 0)
        total = np.where(n_good == factor**2, total, np.nansum(blocks, axis=(1, 3)) * scale)
    return total


def rebin_response(response: np.ndarray, variance: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Response of rebinned pixels, the mean of their good pixels, and the variance of that mean.

    Parameters
    ----------
    response, variance : ndarray, shape (ny, nx)
        Master flat and its variance; NaN for bad pixels.
    factor : int
        Pixels that are summed along each axis.

    Returns
    -------
    response, variance : ndarray, shape (ny // factor, nx // factor)
        NaN where no pixel is good.
    """
    blocks, variances = _blocks(response, factor), _blocks(variance, factor)
    good = np.isfinite(blocks) & np.isfinite(variances)
    n_good = good.sum(axis=(1, 3))
    n_used = np.where(n_good > 0, n_good, np.nan)
    mean = np.where(good, blocks, 0.0).sum(axis=(1, 3)) / n_used
    return mean, np.where(good, variances, 0.0).sum(axis=(1, 3)) / n_used**2


def rebin_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """Mark a rebinned pixel when any of its pixels is marked."""
    marked: np.ndarray = np.any(_blocks(mask, factor), axis=(1, 3))
    return marked


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    ny, nx = image.shape
    if factor < 1 or ny % factor or nx % factor:
        raise ValueError(f"the rebinning factor must divide the frame: got shape {image.shape} and factor {factor}")
    return image.reshape(ny // factor, factor, nx // factor, factor)
