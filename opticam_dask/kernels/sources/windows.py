"""Gaussian windows on cut-outs, for centroids and moments."""

from __future__ import annotations

import numpy as np

#: Gaussian windows are cut at this many sigma.
WINDOW = 4.0

#: Below this sigma (pixels) the moments of a Gaussian on the pixels are not those of the Gaussian: they depend on where
#: in its pixel the centre is. At this width they differ by less than 1e-6.
COARSE = 1.2

#: A step (pixels) below which an iteration has arrived.
AT_REST = 1e-3

#: Centroids and widths are not trusted where more than this part of a star's signal has no pixels: it would shift
#: them by some hundredths of a sigma.
LARGEST_GAP = 0.01

#: What the compiled kernels take of these, in their order.
LIMITS = np.array((WINDOW, COARSE, AT_REST, LARGEST_GAP))
LIMITS.flags.writeable = False


def per_source(value: float | np.ndarray, n_sources: int) -> np.ndarray:
    """One value for each source, from one value for all of them or one for each."""
    return np.asarray(value, dtype=float) if np.ndim(value) else np.full(n_sources, value, dtype=float)


def pixel_grid(cutouts: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame coordinates of the pixels: columns ``(n, 1, size)`` and rows ``(n, size, 1)``."""
    offsets = np.arange(cutouts.shape[1])
    return (np.asarray(x0)[:, None] + offsets)[:, None, :], (np.asarray(y0)[:, None] + offsets)[:, :, None]


def gaussian_window(columns: np.ndarray, rows: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Round Gaussian of peak 1 around each position, cut at 4 sigma."""
    squares = [
        ((grid - xy[:, axis, None, None]) / sigma[:, None, None]) ** 2 for axis, grid in enumerate((columns, rows))
    ]
    # the exponential of a sum is a product: 2 size instead of size^2 exponentials
    peak = np.exp(-0.5 * squares[0]) * np.exp(-0.5 * squares[1])
    return np.where(squares[0] + squares[1] < WINDOW**2, peak, 0.0)


def first_moments(
    weighted: np.ndarray, columns: np.ndarray, rows: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum (n,) and first moments (n, 2) about a position, of weighted pixels."""
    along_x, along_y = weighted.sum(axis=1), weighted.sum(axis=2)
    dx, dy = columns[:, 0, :] - xy[:, 0, None], rows[:, :, 0] - xy[:, 1, None]
    return along_x.sum(axis=1), np.stack([(along_x * dx).sum(axis=1), (along_y * dy).sum(axis=1)], axis=1)


def missing_signal(cutouts: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Part of the signal of a star as wide as the window that falls on pixels without data."""
    signal = window**2
    whole = signal.sum(axis=(1, 2))
    missing = np.where(np.isfinite(cutouts), 0.0, signal).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, missing / whole, 1.0)
