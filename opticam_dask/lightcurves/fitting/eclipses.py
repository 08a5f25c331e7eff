"""Fit of an eclipse to light curves of one or several cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.posterior import Curve, FreeValue, fit_shape
from opticam_dask.kernels.units import HOURS_PER_DAY
from opticam_dask.lightcurves.fitting.dips import Depths, find_dips, names_by_camera
from opticam_dask.lightcurves.fitting.outcome import outcome
from opticam_dask.lightcurves.fitting.series import FitInput, FitSeries, fit_input
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import ECLIPSE

#: Durations that the search begins with, as shares of the length of the data.
_TRIED_DURATIONS = (0.02, 0.05, 0.1, 0.2, 0.35)

#: Boxes that a fit begins with, one after the other.
_MOST_STARTS = 5

#: Share of the duration that ingress and egress take each, to begin with.
_FIRST_INGRESS = 0.25

#: Nothing is shorter than this share of the duration: a step has no slope that could be searched.
_LEAST_INGRESS = 1e-3


@held_to(ECLIPSE)
def fit_eclipse(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    mid_time: float | None = None,
    duration: float | None = None,
    period: float | None = None,
    depths: Depths = "each",
    baseline: Sequence[str] = ("airmass",),
    n_steps: int = 1500,
    seed: int = 0,
) -> xr.Dataset:
    """Fit an eclipse with straight ingress and egress, with a linear baseline for each camera and night.

    Errors, red noise and posterior are as in :func:`~opticam_dask.fit_transit`.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key, from :func:`~opticam_dask.relative_light_curve`.
    mid_time : float, optional
        BJD (TDB) of any eclipse, where the search begins. By default the deepest dip.
    duration : float, optional
        From first to last contact, where the search begins. In days; by default several are tried.
    period : float, optional
        Time between eclipses, where there is more than one. In days.
    depths : {"each", "shared"}
        A depth or amplitude for each camera, or one for all of them.
    baseline : sequence of str
        What the flux may depend on linearly: airmass, x, y, fwhm, background, transparency, ellipticity, time.
    n_steps : int
        Steps of each walker; 0 takes the posterior as a Gaussian.
    seed : int
        Seed of the sampler.

    Returns
    -------
    Dataset
        As from :func:`~opticam_dask.fit_transit`, with ``mid_time`` (BJD TDB), ``depth`` (percent), ``duration`` and
        ``ingress`` (hours).

    Raises
    ------
    ValueError
        When a value is out of range, or there are too few frames.
    ImportError
        When the extra ``fits`` is not installed.
    """
    given = fit_input(curves, baseline)
    names, places = names_by_camera("depth", given, depths)
    parameters, starts = _parameters(given, mid_time, duration, period, names)
    solution = fit_shape(
        [one.series for one in given.series],
        [_curve(one, 3 + places[one.key], period) for one in given.series],
        parameters,
        starts,
        lambda values: 0.0,
        lambda values: float(values[1] * values[2]),
        n_steps=n_steps,
        seed=seed,
    )
    samples = solution.samples
    told = {"mid_time": ("BJD (TDB)", samples[:, 0] + given.origin)}
    told |= {name: ("%", 100.0 * samples[:, place]) for place, name in enumerate(names, start=3)}
    told |= {
        "duration": ("h", HOURS_PER_DAY * samples[:, 1]),
        "ingress": ("h", HOURS_PER_DAY * samples[:, 1] * samples[:, 2]),
    }
    about = {"depths": depths, "n_steps": n_steps, "seed": seed} | ({"period": period} if period else {})
    return outcome("eclipse", given, solution, told, about)


def _curve(one: FitSeries, place: int, period: float | None) -> Curve:
    def flux(values: np.ndarray) -> np.ndarray:
        length = float(values[1])
        ingress = max(float(values[2]), _LEAST_INGRESS) * length
        return shapes.eclipse_flux(
            one.series.time, float(values[0]), float(values[place]), length, ingress, period, one.exposure
        )

    return flux


def _parameters(
    given: FitInput, mid_time: float | None, duration: float | None, period: float | None, names: Sequence[str]
) -> tuple[list[FreeValue], list[list[float]]]:
    """Parameters of the fit, and where the search begins: at the boxes that explain most."""
    span = min(float(np.ptp(given.times)), period or np.inf)
    tried = [duration] if duration else [share * span for share in _TRIED_DURATIONS]
    about = None if mid_time is None else mid_time - given.origin
    found = [(dip, length) for length in tried for dip in find_dips(given, period or np.inf, length, about)]
    found = sorted(found, key=lambda one: -one[0].gain)[:_MOST_STARTS]
    lengths = [length for _, length in found]
    reach = min(1.5 * max(lengths), (period or np.inf) / 2.0)
    middles = [dip.middle for dip, _ in found]
    width = 0.1 * lengths[0]
    parameters = [
        FreeValue("mid_time", min(middles) - reach, max(middles) + reach, width),
        FreeValue("duration", 0.05 * min(lengths), min(5.0 * max(lengths), 2.0 * span), width),
        FreeValue("ingress", _LEAST_INGRESS, 0.5, 0.05),
        *(FreeValue(name, -0.1, 1.0, 0.01) for name in names),
    ]
    depths = [min(dip.depth, 0.95) for dip, _ in found]
    return parameters, [
        [dip.middle, length, _FIRST_INGRESS, *[depth] * len(names)]
        for (dip, length), depth in zip(found, depths, strict=True)
    ]
