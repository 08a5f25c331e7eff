"""Frames in whole counts, which a gain and an offset make electrons: no master frame is applied to them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels import compiled


def unsigned_counts(stored: np.ndarray) -> np.ndarray:
    """Counts from pixels as a FITS file with ``BZERO = 32768`` has them, which may be overwritten.

    Parameters
    ----------
    stored : ndarray of big-endian int16, shape (ny, nx)
        Pixels of the file.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
    """
    if compiled.native is not None and sys.byteorder == "little" and stored.flags.carray:
        pixels = stored.view(np.uint16)
        compiled.native.unsigned_counts(pixels)
        return pixels
    native = stored.astype("=i2").view(np.uint16)
    # adding BZERO to a two's complement number turns its highest bit over, and no other
    native ^= np.uint16(1 << 15)
    return native


def extremes(pixels: np.ndarray) -> tuple[float, float]:
    """Lowest and highest pixel of a frame that is a number; NaN where none is."""
    if not pixels.size:
        return np.nan, np.nan
    if compiled.native is not None and pixels.dtype == np.uint16 and pixels.ndim == 2:
        lowest, highest = compiled.native.extremes(compiled.ready(pixels))
    else:
        lowest, highest = np.fmin.reduce(pixels, axis=None), np.fmax.reduce(pixels, axis=None)
    return float(lowest), float(highest)


@dataclass(frozen=True, eq=False)
class Replaced:
    """Pixels of a frame that cosmic rays hit, and what stands in their place.

    Attributes
    ----------
    places : ndarray of int64, shape (n,)
        Pixels as ``row * nx + column``, ascending.
    electrons : ndarray of float32, shape (n,)
        The mean of the pixels around each.
    """

    places: np.ndarray
    electrons: np.ndarray

    def put(self, electrons: np.ndarray, places: np.ndarray) -> None:
        """Put what stands in their place into the electrons of pixels at some places, in any order."""
        if len(self.places):
            index = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
            is_hit = self.places[index] == places
            electrons[is_hit] = self.electrons[index[is_hit]]


@dataclass(frozen=True, eq=False)
class Counts:
    """A frame of 16-bit pixels whose electrons are ``raw * gain - offset``: there is no master frame for it.

    Attributes
    ----------
    raw : ndarray of uint16, shape (ny, nx)
        Pixels in ADU.
    gain : float
        Electrons per ADU.
    offset : float
        Dark current of the exposure, electrons.
    replaced : Replaced or None
        Pixels that cosmic rays hit, where these were removed: ``raw`` has them in whole counts, as it has all others.
    """

    raw: np.ndarray
    gain: float
    offset: float
    replaced: Replaced | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape ``(ny, nx)`` of the frame."""
        return self.raw.shape[0], self.raw.shape[1]

    def in_full(self) -> np.ndarray:
        """The frame in electrons, in double precision."""
        return self.raw * self.gain - self.offset

    def electrons(self) -> np.ndarray:
        """The frame in electrons, float32, which holds every digit of 16 bits."""
        electrons = self.raw.astype(np.float32)
        electrons *= np.float32(self.gain)
        electrons -= np.float32(self.offset)
        return electrons
