"""Positions of a moving target between the times of its ephemeris."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import make_interp_spline

#: Degree of the interpolation where there are places enough.
_DEGREE = 3


def places_on_track(times: np.ndarray, track: np.ndarray) -> np.ndarray:
    """Positions on a track, by a spline through its known points; a straight line through two.

    Parameters
    ----------
    times : ndarray, shape (n,)
        Times, days.
    track : ndarray, shape (m, 3)
        Time (days, increasing), x and y; at least two.

    Returns
    -------
    ndarray, shape (n, 2)
        NaN before the first and after the last known place.
    """
    when = track[:, 0]
    spline = make_interp_spline(when - when[0], track[:, 1:], k=min(_DEGREE, len(track) - 1))
    found: np.ndarray = spline(times - when[0])
    found[~((times >= when[0]) & (times <= when[-1]))] = np.nan
    return found
