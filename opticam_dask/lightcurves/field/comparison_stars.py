"""Comparison stars of a light curve: trends that they share, and how often the errors hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.kernels.series import ensemble
from opticam_dask.kernels.series.comparisons import shared_trends
from opticam_dask.kernels.series.comparisons.coverage import coverage_of
from opticam_dask.kernels.series.lightcurve import relative_flux
from opticam_dask.lightcurves.field.conditions import CONDITIONS
from opticam_dask.lightcurves.reading.columns import CurveArrays

#: Fewer comparisons than this share nothing that could be told from themselves.
_FEWEST_SHARING = 4

#: Fewer comparisons than this are no test of the errors.
_FEWEST_TESTED = 3

#: Comparisons that differ by so many times their errors are none.
_VARY = 2.5

#: Frames of a night that comparisons are held against each other in: shares are known to half a per cent with these.
_MOST_TESTED = 5000
#: The same where each of them is freed of shared trends, which takes a second for a thousand frames of twenty stars.
_MOST_FREED = 1000

#: Time scale on which the red noise of comparisons is told, days: 20 minutes, an ingress.
_RED_NOISE = 20.0 / 1440.0

#: Conditions that may explain a trend, with their squares.
_EXPLAINING = tuple(name for name in CONDITIONS if name != "exposure_time")


class Corrected(NamedTuple):
    """A light curve without the trends that its comparisons share, and the number of trends in each night."""

    flux: np.ndarray
    flux_err: np.ndarray
    n_trends: dict[str, int]


def without_shared_trends(
    members: CurveArrays, relative: np.ndarray, relative_err: np.ndarray, use: np.ndarray | None = None
) -> Corrected:
    """Take off what the comparisons share, night by night; levels of nights stay what they are.

    Parameters
    ----------
    members : CurveArrays or Dataset
        Dims ``(frame, source)``, the target first: flux, flux_err; coordinates night and conditions.
    relative, relative_err : ndarray, shape (frame,)
        Light curve of the target.
    use : ndarray of bool, shape (frame,), optional
        Frames that the trends of the target are fitted to; those out of a transit.

    Returns
    -------
    Corrected

    Raises
    ------
    ValueError
        With fewer than four comparisons.
    """
    n_stars = members.sizes["source"] - 1
    if n_stars < _FEWEST_SHARING:
        raise ValueError(
            f"trends that comparisons share are told from at least {_FEWEST_SHARING} of them, got {n_stars}"
        )
    nights = members["night"].to_numpy().astype(object)
    corrected, corrected_err, numbers = relative.copy(), relative_err.copy(), dict[str, int]()
    for night in dict.fromkeys(nights.tolist()):
        rows = np.flatnonzero(nights == night)
        if np.isfinite(relative[rows]).any():
            night_of = members.isel(frame=rows)
            chosen = None if use is None else use[rows]
            flux, error, numbers[str(night)] = _of_night(night_of, relative[rows], relative_err[rows], chosen)
            corrected[rows], corrected_err[rows] = flux, error
    return Corrected(corrected, corrected_err, numbers)


def _of_night(
    members: CurveArrays, relative: np.ndarray, relative_err: np.ndarray, use: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Light curve of one night without what its comparisons share, and the number of trends."""
    flux, error = members["flux"].to_numpy(), members["flux_err"].to_numpy()
    stars, stars_err = _against_all(flux[:, 1:], error[:, 1:])
    found = shared_trends.shared_trends(stars, stars_err)
    if not found.n_components:
        return relative, relative_err, 0
    effects, effects_err = _explained(members, found)
    models = [
        1.0 + effects @ _coefficients(stars[:, place], stars_err[:, place], effects) for place in range(stars.shape[1])
    ]
    own = np.column_stack(models)
    usable = np.flatnonzero(np.isfinite(stars).any(axis=0))
    # comparisons without their trends make a quieter mean, in which no star counts for less because of its own
    mean = ensemble.combine_stars((flux[:, 1:] / own)[:, usable], (error[:, 1:] / own)[:, usable])
    target = relative_flux(flux[:, 0], error[:, 0], mean.flux[:, None], mean.flux_err[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = float(np.nanmedian(relative / target[0]))
    value, value_err = target[0] * scale, target[1] * scale
    coefficients = _coefficients(value, value_err, effects, use)
    model, model_err = 1.0 + effects @ coefficients, np.sqrt((effects_err**2) @ coefficients**2)
    without = value / model
    return without, np.hypot(value_err, without * model_err) / model, found.n_components


def _coefficients(
    values: np.ndarray, errors: np.ndarray, effects: np.ndarray, use: np.ndarray | None = None
) -> np.ndarray:
    """How much of each effect a star has, beside a dip of its own."""
    deviation, error = shared_trends.relative_to_level(values[:, None], errors[:, None])
    return shared_trends.coefficients_beside_a_dip(deviation[:, 0], error[:, 0], effects, use)[1:]


def _against_all(flux: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes of stars divided by the mean light curve of all; errors without those of the mean, which all share."""
    usable = np.flatnonzero((np.isfinite(flux) & (flux > 0)).any(axis=0))
    mean = ensemble.combine_stars(flux[:, usable], error[:, usable]).flux[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return flux / mean, error / mean


def _explained(members: CurveArrays, found: shared_trends.SharedTrends) -> tuple[np.ndarray, np.ndarray]:
    """Effects without the noise of the stars, where known conditions explain them."""
    columns = []
    for name in _EXPLAINING:
        if name in members.variables:
            values = members[name].to_numpy().astype(float)
            values = values[:, 0] if values.ndim == 2 else values
            if np.isfinite(values).all() and np.ptp(values) > 0:
                scaled = (values - values.mean()) / values.std()
                columns += [scaled, scaled**2]
    if not columns or not found.n_components:
        return found.effects, found.effects_err
    return shared_trends.explained_by(found.effects, found.effects_err, np.column_stack(columns))


def divide(
    flux: np.ndarray, error: np.ndarray, weighting: ensemble.Weighting
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative flux of the first column and its error, and the weights of the others."""
    if weighting == "sum":
        relative, relative_err = relative_flux(flux[:, 0], error[:, 0], flux[:, 1:], error[:, 1:])
        light = np.nansum(flux[:, 1:], axis=0)
        return relative, relative_err, light / light.sum() if light.sum() > 0 else np.full(len(light), np.nan)
    mean = ensemble.combine_stars(flux[:, 1:], error[:, 1:], weighting)
    others, others_err = mean.flux[:, None], mean.flux_err[:, None]
    return *relative_flux(flux[:, 0], error[:, 0], others, others_err), mean.weights


def coverage_card(
    members: CurveArrays, weighting: ensemble.Weighting = "optimal", *, shared_trends: bool = False
) -> dict[str, Any]:
    """Attributes of a light curve that say how often the errors of its comparisons hold.

    Each comparison is a light curve against the others, made as that of the target is, which should be flat but for its
    errors.

    Parameters
    ----------
    members : CurveArrays or Dataset
        Dims ``(frame, source)``, the target first: flux, flux_err; coordinates night and times.
    weighting : {"sum", "optimal"}
        How comparisons are combined.
    shared_trends : bool
        Take off what the others share; a comparison with fewer than four others keeps it.

    Returns
    -------
    dict
        ``coverage_one_sigma`` and ``coverage_two_sigma`` (shares of the points; 0.683 and 0.954 where errors are
        right), ``coverage_error_factor`` (by which errors would have to be multiplied), ``coverage_beta`` (red noise on
        20 minutes), ``coverage_n_stars``, ``coverage_n_points``; empty with fewer than three comparisons.
    """
    n_stars = members.sizes["source"] - 1
    if n_stars < _FEWEST_TESTED:
        return {}
    time = members.isel(source=0)["mjd_utc"].to_numpy()
    nights = members["night"].to_numpy().astype(object)
    most = _MOST_FREED if shared_trends else _MOST_TESTED
    rows_of_nights = [_thinned(np.flatnonzero(nights == night), most) for night in dict.fromkeys(nights.tolist())]
    # each night has a level of its own: gains of stars may change from night to night
    columns = [
        _null_curve(night, star, weighting, shared_trends)
        for night in (members.isel(frame=rows) for rows in rows_of_nights)
        for star in range(1, n_stars + 1)
    ]
    padded = np.full((len(time), len(columns), 2), np.nan)
    for place, column in enumerate(columns):
        padded[rows_of_nights[place // n_stars], place] = column
    found = coverage_of(time, padded[..., 0], padded[..., 1], _RED_NOISE)
    if not found.n_points:
        return {}
    return {
        "coverage_one_sigma": found.within_one,
        "coverage_two_sigma": found.within_two,
        "coverage_error_factor": found.factor,
        "coverage_beta": found.beta,
        "coverage_n_stars": n_stars,
        "coverage_n_points": found.n_points,
    }


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many frames of a night, evenly spaced."""
    return rows[:: -(-len(rows) // most)] if len(rows) else rows


def _null_curve(night: CurveArrays, star: int, weighting: ensemble.Weighting, shared: bool) -> np.ndarray:
    """A comparison against the others as the target is against all, with its error, shape (frame, 2)."""
    flux, error = night["flux"].to_numpy(), night["flux_err"].to_numpy()
    order = [
        star, *(one for one in range(1, flux.shape[1]) if one != star and _has_level(flux[:, one], error[:, one]))
    ]  # fmt: skip
    if len(order) < 2 or not _has_level(flux[:, star], error[:, star]):
        return np.full((len(flux), 2), np.nan)
    relative, relative_err, _ = divide(flux[:, order], error[:, order], weighting)
    if shared and len(order) > _FEWEST_SHARING:
        relative, relative_err, _ = _of_night(night.isel(source=order), relative, relative_err, None)
    return np.column_stack([relative, relative_err])


def _has_level(flux: np.ndarray, error: np.ndarray) -> bool:
    known = np.isfinite(flux) & np.isfinite(error)
    return bool(known.any() and np.median(flux[known]) > 0)


def describe_coverage(attributes: Mapping[str, Any]) -> Sequence[str]:
    """The coverage card in a line for people, and a warning where it is bad; nothing where there is none."""
    if "coverage_one_sigma" not in attributes:
        return []
    factor = attributes["coverage_error_factor"]
    warning = (
        f"warning: comparisons differ from each other {factor:.1f} times as much as their errors say: some of them "
        "vary, or frames do what is not in the errors (flat, form of the stars); look at them, and give --comparisons "
        "of your own"
    )
    return [
        f"{attributes['coverage_n_stars']} comparisons against each other: 1 sigma covers "
        f"{100 * attributes['coverage_one_sigma']:.0f} % of their points (68 % where errors are right), red noise beta "
        f"{attributes['coverage_beta']:.2f}",
        *([warning] if factor > _VARY else []),
    ]
