"""First guess of a dip in light curves, and the depth parameter of each camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from opticam_dask.lightcurves.fitting.series import FitInput, FitSeries

#: One depth for all cameras, or one for each.
Depths = Literal["shared", "each"]

#: Middles of a dip that are tried, spread over the data.
_TRIED_TIMES = 60
#: Middles of a dip that are tried near a time that was given.
_TRIED_NEAR = 21

#: Dips that a fit begins with, one after the other.
_MOST_DIPS = 5

#: Share of itself that a diagonal is made larger by, so that vectors may be the same.
_RIDGE = 1e-9

#: Depth where the search begins when there is no dip.
_SHALLOW = 1e-4


def names_by_camera(name: str, given: FitInput, depths: Depths) -> tuple[list[str], dict[str, int]]:
    """Names of a parameter that cameras share or have each, and which of the names applies to each camera.

    Raises
    ------
    ValueError
        When ``depths`` is neither "shared" nor "each".
    """
    if depths not in ("shared", "each"):
        raise ValueError(f'depths must be "shared" or "each", got {depths!r}')
    keys = list(dict.fromkeys(one.key for one in given.series))
    if depths == "shared" or len(keys) == 1:
        return [name], dict.fromkeys(keys, 0)
    return [f"{name}_{key}" for key in keys], {key: place for place, key in enumerate(keys)}


class Dip(NamedTuple):
    """Middle and relative depth of a dip, and the improvement of chi-square by it."""

    middle: float
    depth: float
    gain: float


def find_dips(given: FitInput, period: float, duration: float, about: float | None = None) -> list[Dip]:
    """Find dips in the data, by a box and the baseline of each series.

    Parameters
    ----------
    given : FitInput
        What is fitted.
    period : float
        Time between dips, days; infinite where there is one dip.
    duration : float
        Length of the box, days.
    about : float, optional
        Time of any dip, counted from the origin: the one next to the data is looked for.

    Returns
    -------
    list of Dip
        Those that explain most first.
    """
    times = given.times
    if about is not None:
        turns = round((float(np.median(times)) - about) / period) if np.isfinite(period) else 0
        tried = about + turns * period + duration * np.linspace(-0.5, 0.5, _TRIED_NEAR)
    else:
        tried = np.linspace(times.min() - 0.25 * duration, times.max() + 0.25 * duration, _TRIED_TIMES)
    found = [_gain_of_box(given.series, float(time), period, duration) for time in tried]
    gains = np.array([-np.inf, *(one.gain for one in found), -np.inf])
    is_peak = (gains[1:-1] >= gains[:-2]) & (gains[1:-1] >= gains[2:])
    order = np.argsort(-gains[1:-1], kind="stable")
    return [found[place] for place in order.tolist() if is_peak[place]][:_MOST_DIPS]


def _gain_of_box(series: Sequence[FitSeries], middle: float, period: float, duration: float) -> Dip:
    """A dip with its depth, and by how much it makes chi-square better; nothing where the flux is higher."""
    gain, weight, depth = 0.0, 0.0, 0.0
    for one in series:
        own = one.series
        away = own.time - middle
        if np.isfinite(period):
            away = (away + period / 2.0) % period - period / 2.0
        box = (np.abs(away) < duration / 2.0).astype(float)
        if not 0 < box.sum() < len(box):
            continue
        design = np.column_stack([np.ones(len(box)), own.vectors, -box]) / own.flux_err[:, None]
        normal = design.T @ design
        normal += _RIDGE * np.diag(np.diag(normal))
        found = np.linalg.solve(normal, design.T @ (own.flux / own.flux_err))
        variance = np.linalg.inv(normal)[-1, -1]
        if found[-1] > 0 and found[0] > 0:
            gain += found[-1] ** 2 / variance
            weight, depth = weight + found[0] ** 2 / variance, depth + found[-1] * found[0] / variance
    relative = depth / weight if weight > 0 else _SHALLOW
    return Dip(middle, float(np.clip(relative, _SHALLOW, 1.0)), float(gain))
