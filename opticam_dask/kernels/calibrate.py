"""Calibration of one frame: ADU to electrons, cosmic rays, rebinning."""

from __future__ import annotations

import astroscrappy
import numpy as np

#: L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) with the usual detection limits.
_SIGCLIP, _SIGFRAC, _OBJLIM = 4.5, 0.3, 5.0
_MOST_ELECTRONS = 2.0**35


def to_electrons(raw: np.ndarray, *, gain: float, dark_current: float, exposure_time: float) -> np.ndarray:
    """Electrons of the sky and the sources: ``raw * gain - dark_current * exposure_time``.

    Every pixel is converted by itself, so that a cut-out gives the same bits as the frame.

    Parameters
    ----------
    raw : ndarray
        Pixels in ADU.
    gain : float
        Electrons per ADU.
    dark_current : float
        Electrons per pixel and second.
    exposure_time : float
        Seconds.

    Returns
    -------
    ndarray of float64
        NaN where a pixel is infinite or beyond what any detector counts: one such number would spoil every sum.
    """
    raw = np.asarray(raw)
    electrons = raw.astype(float) * gain - dark_current * exposure_time
    if raw.dtype.itemsize > 2:  # 16 bits hold no such number
        electrons[~(np.abs(electrons) <= _MOST_ELECTRONS)] = np.nan
    return electrons


def remove_cosmic_rays(
    image: np.ndarray, *, read_noise: float, saturation: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Find cosmic rays with L.A.Cosmic and replace them by the mean of the unmarked pixels around them.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Frame in electrons with its sky in it, from which the noise of a pixel follows; NaN pixels stay NaN.
    read_noise : float
        Electrons per pixel; NaN counts as 0.
    saturation : float
        Level in electrons above which stars are not taken for cosmic rays.

    Returns
    -------
    clean : ndarray, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx)
        True where a pixel was replaced.
    """
    bad = ~np.isfinite(image)
    level = 0.0 if bad.all() else float(np.median(image[~bad]).item())
    # float32 holds 1e-7 of a value: the differences that L.A.Cosmic looks at are far above it
    pixels = np.where(bad, level, image).astype(np.float32)
    mask, clean = astroscrappy.detect_cosmics(
        pixels,
        inmask=bad,
        sigclip=_SIGCLIP,
        sigfrac=_SIGFRAC,
        objlim=_OBJLIM,
        gain=1.0,
        readnoise=float(np.nan_to_num(read_noise)),
        satlevel=min(saturation, 3e38),
        sepmed=True,
        cleantype="meanmask",
    )
    mask = np.asarray(mask, dtype=bool) & ~bad
    return np.where(mask, clean.astype(float), image), mask


def rebin(image: np.ndarray, factor: int) -> np.ndarray:
    """Sum blocks of ``factor`` x ``factor`` pixels.

    Raises
    ------
    ValueError
        When the factor does not divide the shape.
    """
    return _blocks(image, factor).sum(axis=(1, 3))


def rebin_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """Mark a rebinned pixel when any of its pixels is marked."""
    marked: np.ndarray = np.any(_blocks(mask, factor), axis=(1, 3))
    return marked


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    ny, nx = image.shape
    if factor < 1 or ny % factor or nx % factor:
        raise ValueError(f"the rebinning factor must divide the frame: got shape {image.shape} and factor {factor}")
    return image.reshape(ny // factor, factor, nx // factor, factor)
