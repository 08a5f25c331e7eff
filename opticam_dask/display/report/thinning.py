"""Long series thinned for a page: smallest, largest and median value of equal bins."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.units import SECONDS_PER_DAY

#: Times are kept as whole numbers of this many seconds since the first of a night.
TICK = 1e-4

#: The last of these numbers: they have 32 bits.
_LAST_TICK = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Clock:
    """Times of the points of one night.

    Attributes
    ----------
    night : str
        Night, ``YYYY-MM-DD``.
    zero : float
        Time of the first point, MJD in days.
    ticks : ndarray of uint32, shape (point,)
        Time since then, in units of :data:`TICK` seconds.
    per_point : int
        Frames that one point stands for.
    """

    night: str
    zero: float
    ticks: np.ndarray
    per_point: int


@dataclass(frozen=True, eq=False)
class Column:
    """One quantity of the points of a night.

    Attributes
    ----------
    middle : ndarray of float32, shape (point,)
        Median of the frames of the point; NaN where none has a value.
    low, high : ndarray of float32 or None
        Least and greatest value of these frames; None where a point is a frame.
    error : ndarray of float32 or None
        Median 1-sigma error of one frame.
    flags : ndarray of uint32 or None
        Bits that any of these frames has.
    """

    middle: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    error: np.ndarray | None = None
    flags: np.ndarray | None = None


def frames_per_point(n_frames: int, n_points: int) -> int:
    """Frames that a point stands for when ``n_frames`` are to be at most ``n_points`` points."""
    return max(1, -(-n_frames // max(1, n_points)))


def clock_of(night: str, times: np.ndarray, per_point: int) -> Clock:
    """Clock of the frames of a night.

    Parameters
    ----------
    night : str
        Night, ``YYYY-MM-DD``.
    times : ndarray, shape (frame,)
        MJD in days; a time that is not known becomes that of the first frame.
    per_point : int
        Frames of one point of the page.
    """
    middle = median_of(times, per_point).astype(float)
    zero = float(np.nanmin(middle)) if np.isfinite(middle).any() else 0.0
    ticks = np.rint(np.nan_to_num(middle - zero) * SECONDS_PER_DAY / TICK)
    return Clock(night, zero, np.clip(ticks, 0, _LAST_TICK).astype(np.uint32), per_point)


def column_of(
    values: np.ndarray, per_point: int, *, error: np.ndarray | None = None, flags: np.ndarray | None = None
) -> Column:
    """Column of the frames of a night, shape (frame,); see :class:`Column`."""
    is_thinned = per_point > 1
    return Column(
        middle=median_of(values, per_point).astype(np.float32),
        low=_reduced(np.nanmin, values, per_point).astype(np.float32) if is_thinned else None,
        high=_reduced(np.nanmax, values, per_point).astype(np.float32) if is_thinned else None,
        error=None if error is None else median_of(error, per_point).astype(np.float32),
        flags=None if flags is None else _joined(flags, per_point),
    )


def joined(columns: list[Column]) -> Column:
    """Columns one after another."""

    def together(name: str) -> np.ndarray | None:
        values = [getattr(column, name) for column in columns]
        return None if values[0] is None else np.concatenate(values)

    middle = together("middle")
    assert middle is not None
    return Column(middle, together("low"), together("high"), together("error"), together("flags"))


def median_of(values: np.ndarray, per_point: int) -> np.ndarray:
    """Median of each bin, shape (point,); NaN where no frame has a value."""
    return values if per_point == 1 else _reduced(np.nanmedian, values, per_point)


def _reduced(function: Callable[..., np.ndarray], values: np.ndarray, per_point: int) -> np.ndarray:
    n_points = -(-len(values) // per_point)
    padded = np.full(n_points * per_point, np.nan)
    padded[: len(values)] = values
    with warnings.catch_warnings():
        # a bin without any value is NaN, which is what is wanted
        warnings.filterwarnings("ignore", message="All-NaN (slice|axis) encountered", category=RuntimeWarning)
        found: np.ndarray = function(padded.reshape(n_points, per_point), axis=1)
    return found


def _joined(flags: np.ndarray, per_point: int) -> np.ndarray:
    if per_point == 1:
        return flags.astype(np.uint32)
    joined_bits: np.ndarray = np.bitwise_or.reduceat(flags, np.arange(0, len(flags), per_point)).astype(np.uint32)
    return joined_bits
