"""Fit of a sinusoid to light curves of one or several cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.posterior import Curve, FreeValue, fit_shape
from opticam_dask.kernels.series.lightcurve import fit_sinusoid as fit_one_frequency
from opticam_dask.kernels.series.lightcurve import lomb_scargle_peak
from opticam_dask.lightcurves.fitting.dips import Depths, names_by_camera
from opticam_dask.lightcurves.fitting.outcome import outcome
from opticam_dask.lightcurves.fitting.series import FitInput, FitSeries, fit_input
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import SINUSOID

#: The red noise is looked for on this share of a period.
_QUARTER = 0.25


@held_to(SINUSOID)
def fit_sinusoid(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    period: float | None = None,
    depths: Depths = "each",
    baseline: Sequence[str] = ("airmass",),
    n_steps: int = 1500,
    seed: int = 0,
) -> xr.Dataset:
    """Fit a sinusoid, with a linear baseline for each camera and night.

    Errors, red noise and posterior are as in :func:`~opticam_dask.fit_transit`. Period and phase are those of all
    cameras.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key, from :func:`~opticam_dask.relative_light_curve`.
    period : float, optional
        Period, where the search begins. In days; by default the highest peak of the periodogram of the longest series.
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
        As from :func:`~opticam_dask.fit_transit`, with ``period`` (days), ``maximum_time`` (BJD TDB of a maximum in the
        middle of the data) and ``amplitude`` (percent, half of the whole range).

    Raises
    ------
    ValueError
        When the period is out of range, or there are too few frames.
    ImportError
        When the extra ``fits`` is not installed.
    """
    given = fit_input(curves, baseline)
    names, places = names_by_camera("amplitude", given, depths)
    # in the middle of the data phase and frequency do not depend on each other
    epoch, span = float(given.times.mean()), float(np.ptp(given.times))
    parameters, starts = _parameters(given, period, epoch, span, names)
    solution = fit_shape(
        [one.series for one in given.series],
        [_curve(one, 2 + places[one.key], epoch) for one in given.series],
        parameters,
        starts,
        lambda values: 0.0,
        lambda values: _QUARTER / float(values[0]),
        n_steps=n_steps,
        seed=seed,
    )
    frequency, phase = solution.samples[:, 0], solution.samples[:, 1]
    told = {"period": ("d", 1.0 / frequency)}
    # the sine is highest where its argument is a quarter of a turn
    turns = 0.25 - phase / (2.0 * np.pi)
    turns -= round(float(np.median(turns)))
    told["maximum_time"] = ("BJD (TDB)", given.origin + epoch + turns / frequency)
    told |= {name: ("%", 100.0 * solution.samples[:, place]) for place, name in enumerate(names, start=2)}
    return outcome("sinusoid", given, solution, told, {"depths": depths, "n_steps": n_steps, "seed": seed})


def _curve(one: FitSeries, place: int, epoch: float) -> Curve:
    def flux(values: np.ndarray) -> np.ndarray:
        frequency, phase, amplitude = float(values[0]), float(values[1]), float(values[place])
        return shapes.sinusoid_flux(one.series.time, amplitude, frequency, phase, epoch, one.exposure)

    return flux


def _parameters(
    given: FitInput, period: float | None, epoch: float, span: float, names: Sequence[str]
) -> tuple[list[FreeValue], list[list[float]]]:
    """Parameters of the fit, and where the search begins: at the sinusoid of the series with most points."""
    longest = max((one.series for one in given.series), key=lambda one: len(one.time))
    frequency = 1.0 / period if period else lomb_scargle_peak(longest.time, longest.flux, longest.flux_err).frequency
    first = fit_one_frequency(longest.time - epoch, longest.flux, longest.flux_err, frequency)
    amplitude, phase = float(np.clip(first.amplitude, 1e-5, 0.9)), first.phase
    reach = 0.5 / span
    parameters = [
        FreeValue("frequency", max(frequency - reach, 1e-3 * frequency), frequency + reach, 0.1 * reach),
        FreeValue("phase", phase - np.pi, phase + np.pi, 0.1),
        *(FreeValue(name, 0.0, 1.0, 0.1 * amplitude) for name in names),
    ]
    return parameters, [[frequency, phase, *[amplitude] * len(names)]]
