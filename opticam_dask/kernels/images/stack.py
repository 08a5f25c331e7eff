"""Stack of aligned frames, summed in whole numbers so that the order of the sum does not matter."""

from __future__ import annotations

import numpy as np

#: Sums are whole numbers of this part of an electron.
STACK_UNITS_PER_ELECTRON = 1024

_ROWS_AT_ONCE = 64


def stack_selection(n_frames: int, stack_frames: int) -> np.ndarray:
    """Indices of the frames that are stacked: evenly spaced, all for ``stack_frames=0``."""
    if stack_frames == 0 or n_frames <= stack_frames:
        return np.arange(n_frames)
    return np.unique(np.round(np.linspace(0, n_frames - 1, stack_frames)).astype(int))


def stacked_frames(start: int, stop: int, n_frames: int, stack_frames: int) -> np.ndarray:
    """Which of the frames ``start`` to ``stop`` are stacked, bool, shape (stop - start,)."""
    if stack_frames == 0 or n_frames <= stack_frames:
        return np.ones(stop - start, dtype=bool)
    return np.isin(np.arange(start, stop), stack_selection(n_frames, stack_frames))


class PartialStack:
    """Sum of aligned frames in whole numbers, so that the order of the sum does not matter.

    The whole numbers are kept as float64, which holds them exactly up to 2^53: frames are added faster than as int64.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._total = np.zeros(shape)
        self.coverage = np.zeros(shape, dtype=np.uint32)

    @property
    def total(self) -> np.ndarray:
        """Sum in units of 2^-10 electron, int64."""
        return self._total.astype(np.int64)

    def add(self, image: np.ndarray) -> None:
        """Add one image on the grid of the stack; pixels that are not finite do not count."""
        unit = np.asarray(STACK_UNITS_PER_ELECTRON, dtype=image.dtype)
        # strips stay in the cache of the processor
        for start in range(0, len(image), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            units, seen = image[rows] * unit, np.isfinite(image[rows])
            np.rint(units, out=units)
            if seen.all():
                self.coverage[rows] += 1
            else:
                units[~seen] = 0.0
                self.coverage[rows] += seen
            self._total[rows] += units


def stack_image(total: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Mean image in electrons, float32; NaN where nothing was seen."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / (coverage * float(STACK_UNITS_PER_ELECTRON))).astype(np.float32)
