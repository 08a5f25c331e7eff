"""Stack of aligned frames, summed in whole numbers so that the order of the sum does not matter."""

from __future__ import annotations

import numpy as np

#: Sums are whole numbers of this part of an electron.
STACK_UNITS_PER_ELECTRON = 1024


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
    """Sum of aligned frames in whole numbers, so that the order of the sum does not matter."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.total = np.zeros(shape, dtype=np.int64)
        self.coverage = np.zeros(shape, dtype=np.uint32)

    def add(self, image: np.ndarray) -> None:
        """Add one image on the grid of the stack; NaN pixels do not count."""
        seen = np.isfinite(image)
        self.total[seen] += np.rint(image[seen] * STACK_UNITS_PER_ELECTRON).astype(np.int64)
        self.coverage += seen


def stack_image(total: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Mean image in electrons, float32; NaN where nothing was seen."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / (coverage * float(STACK_UNITS_PER_ELECTRON))).astype(np.float32)
