"""Source finders: callables ``(image, threshold) -> QTable`` that users may replace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from opticam_dask.kernels.images import detect

if TYPE_CHECKING:
    from astropy.table import QTable


@dataclass(frozen=True, init=False)
class DefaultFinder:
    """photutils segmentation with deblending.

    Parameters
    ----------
    n_pixels : int
        Least number of connected pixels of a source (``npixels`` works as well).
    border_width : int
        Sources whose centre lies in this border are left out.

    Raises
    ------
    ValueError
        When ``n_pixels`` is not a whole number above 0 or ``border_width`` is negative.
    """

    n_pixels: int
    border_width: int

    def __init__(self, n_pixels: int | None = None, border_width: int = 0, *, npixels: int | None = None) -> None:
        chosen = npixels if n_pixels is None else n_pixels
        if isinstance(chosen, bool) or not isinstance(chosen, (int, np.integer)) or chosen < 1:
            raise ValueError(f"n_pixels must be a whole number above 0, got {chosen!r}")
        if border_width < 0:
            raise ValueError(f"border_width must not be negative, got {border_width!r}")
        object.__setattr__(self, "n_pixels", int(chosen))
        object.__setattr__(self, "border_width", int(border_width))

    @property
    def npixels(self) -> int:
        """The name that photutils 2 gives to ``n_pixels``."""
        return self.n_pixels

    def replace(self, *, n_pixels: int | None = None, border_width: int | None = None) -> DefaultFinder:
        """Copy with other values; None keeps the old one."""
        given = {"n_pixels": n_pixels, "border_width": border_width}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def __call__(self, image: np.ndarray, threshold: float | np.ndarray) -> QTable:
        """Find the sources of a sky-subtracted image, brightest first; no row when there is none."""
        return detect.segment_sources(image, threshold, self.n_pixels, self.border_width)


def default_finder(shape: tuple[int, int], binning: int, rebin_factor: int, source_pixels: int) -> DefaultFinder:
    """Finder for a frame: the least source area of the instrument, and a border of 1/16 of the shorter side.

    Parameters
    ----------
    shape : (int, int)
        Shape ``(ny, nx)`` of the image.
    binning, rebin_factor : int
        Detector pixels and frame pixels that were summed along one axis.
    source_pixels : int
        Least area of a source in unbinned pixels.
    """
    n_pixels = max(1, source_pixels // (binning * rebin_factor) ** 2)
    return DefaultFinder(n_pixels, border_width=min(shape) // 16)
