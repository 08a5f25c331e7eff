"""Fit of a transit to light curves of one or several cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from opticam_dask.kernels.fitting import shapes
from opticam_dask.kernels.fitting.posterior import Curve, FreeValue, fit_shape
from opticam_dask.kernels.units import HOURS_PER_DAY
from opticam_dask.lightcurves.fitting.dips import Depths, find_dips, names_by_camera
from opticam_dask.lightcurves.fitting.outcome import outcome
from opticam_dask.lightcurves.fitting.series import FitInput, fit_input
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import TRANSIT
from opticam_dask.store.camera import group_name

#: A value, or a value with its 1-sigma error.
Known = float | tuple[float, float] | None

#: Coefficients of the quadratic limb darkening of a star like the Sun in visual light (Claret & Bloemen 2011).
LIMB_DARKENING = (0.4, 0.25)

#: Ratios of the radii of planet and star that are looked through.
_RADII = (1e-3, 0.5)
#: Semi-major axes of the orbit, in radii of the star, that are looked through.
_ORBITS = (1.2, 500.0)

#: Where nothing is said about the orbit the search begins with a transit of this length, days: 2.5 hours.
_USUAL_DURATION = 0.1

#: Shortest duration that the search begins with, in steps between frames.
_LEAST_STEPS = 4


class _Orbit(NamedTuple):
    """Orbit and inclination as given: a value, a value with an error, or free."""

    period: float
    a_over_rs: tuple[float, float] | None
    inclination: tuple[float, float] | None


@held_to(TRANSIT)
def fit_transit(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    period: float,
    *,
    mid_time: float | None = None,
    a_over_rs: Known = None,
    inclination: Known = None,
    limb_darkening: Sequence[float] | Mapping[str, Sequence[float]] = LIMB_DARKENING,
    eccentricity: float = 0.0,
    periastron: float = 90.0,
    depths: Depths = "shared",
    baseline: Sequence[str] = ("airmass", "x", "y"),
    n_steps: int = 1500,
    seed: int = 0,
) -> xr.Dataset:
    """Fit a transit, with a linear baseline for each camera and night.

    The flux is the baseline times a transit with quadratic limb darkening (batman: Kreidberg 2015, PASP 127, 1161),
    averaged over the exposure. Errors of the light curves are scaled up where the flux scatters more than they allow;
    red noise makes the errors of the parameters larger, each by what it does on its own time scale. The posterior is
    sampled by emcee (Foreman-Mackey et al. 2013, PASP 125, 306); the coefficients of the baselines are marginalised
    analytically. The same call gives the same numbers.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key, from :func:`~opticam_dask.relative_light_curve`.
    period : float
        Period of the planet. In days.
    mid_time : float, optional
        BJD (TDB) of any transit, where the search begins. By default the deepest dip; it is no prior.
    a_over_rs : float or (float, float), optional
        Semi-major axis in radii of the star, or that and its 1-sigma error. The error is that of a Gaussian prior; by
        default it is free.
    inclination : float or (float, float), optional
        Inclination of the orbit, or that and its 1-sigma error. In degrees.
    limb_darkening : (float, float) or dict
        Coefficients of the quadratic limb darkening, or those of each camera in turn. A dict has them by camera
        key.
    eccentricity : float
        Eccentricity of the orbit.
    periastron : float
        Argument of the periastron. In degrees.
    depths : {"shared", "each"}
        A depth or amplitude for each camera, or one for all of them. It is the radius ratio that is fitted.
    baseline : sequence of str
        What the flux may depend on linearly: airmass, x, y, fwhm, background, transparency, ellipticity, time.
    n_steps : int
        Steps of each walker; 0 takes the posterior as a Gaussian.
    seed : int
        Seed of the sampler.

    Returns
    -------
    Dataset
        Values, errors and samples of ``mid_time`` (BJD TDB), ``radius_ratio``, ``depth`` (its square, percent),
        ``a_over_rs``, ``inclination``, ``impact_parameter`` and ``duration`` (hours); flux, model and baseline of each
        point; reduced chi-square, red noise and baseline in the attributes.

    Raises
    ------
    ValueError
        When a value is out of range, or there are too few frames.
    ImportError
        When the extra ``fits`` is not installed.
    """
    orbit = _Orbit(period, _known("a_over_rs", a_over_rs, _ORBITS), _known("inclination", inclination, (0.0, 90.0)))
    given = fit_input(curves, baseline)
    names, places = names_by_camera("radius_ratio", given, depths)
    darkening = _darkening_of(limb_darkening, list(places))
    models = [
        shapes.Transit(one.series.time, period, darkening[one.key], one.exposure, eccentricity, periastron)
        for one in given.series
    ]
    parameters, starts = _parameters(given, orbit, mid_time, names)
    unpack = _Unpacking([one.name for one in parameters], orbit)
    solution = fit_shape(
        [one.series for one in given.series],
        [_curve(model, unpack, 1 + places[one.key]) for model, one in zip(models, given.series, strict=True)],
        parameters,
        starts,
        unpack.prior,
        lambda values: shapes.ingress_duration(period, float(values[1]), *unpack.orbit(values)),
        n_steps=n_steps,
        seed=seed,
    )
    about: dict[str, Any] = {"period": period, "depths": depths, "n_steps": n_steps, "seed": seed}
    about |= {"eccentricity": eccentricity, "periastron": periastron}
    for key in places:
        about |= dict(zip((f"u1_{group_name(key)}", f"u2_{group_name(key)}"), darkening[key], strict=True))
    for name, known in (("a_over_rs", orbit.a_over_rs), ("inclination", orbit.inclination)):
        if known is not None:
            about |= {f"prior_{name}": known[0], f"prior_{name}_err": known[1]}
    return outcome("transit", given, solution, _told(solution.samples, names, unpack, given.origin), about)


def _known(name: str, given: Known, limits: tuple[float, float]) -> tuple[float, float] | None:
    if given is None:
        return None
    pair = tuple(float(value) for value in np.atleast_1d(np.asarray(given, dtype=float)))
    value, error = pair if len(pair) == 2 else (pair[0], 0.0)
    if len(pair) > 2 or not limits[0] < value <= limits[1] or not error >= 0:
        raise ValueError(
            f"{name} must be a value above {limits[0]:g} and up to {limits[1]:g}, perhaps with its error, got {given}"
        )
    return value, error


def _darkening_of(
    given: Sequence[float] | Mapping[str, Sequence[float]], keys: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Coefficients of each camera."""
    if isinstance(given, Mapping):
        if missing := [key for key in keys if key not in given]:
            raise ValueError(f"limb_darkening must have each camera, {', '.join(missing)} is missing")
        return {key: _pair(given[key]) for key in keys}
    if len(given) == 2 * len(keys):
        return {key: _pair(given[2 * place : 2 * place + 2]) for place, key in enumerate(keys)}
    return dict.fromkeys(keys, _pair(given))


def _pair(pair: Sequence[float]) -> tuple[float, float]:
    if len(pair) != 2 or not (0 <= pair[0] + pair[1] <= 1 and pair[0] >= 0):
        raise ValueError(f"limb darkening is two coefficients, u1 >= 0 and 0 <= u1 + u2 <= 1, got {pair}")
    return float(pair[0]), float(pair[1])


class _Unpacking:
    """What the values of a fit mean: some of the orbit may be fixed."""

    def __init__(self, names: Sequence[str], orbit: _Orbit) -> None:
        self._at = {name: place for place, name in enumerate(names)}
        self._orbit, self.period = orbit, orbit.period

    def orbit(self, values: np.ndarray) -> tuple[float, float]:
        """Semi-major axis in radii of the star, and inclination in degrees."""
        told_axis, told_inclination = self._orbit.a_over_rs, self._orbit.inclination
        place = self._at.get("a_over_rs")
        axis = float(values[place]) if place is not None else (told_axis or (0.0, 0.0))[0]
        place = self._at.get("impact_parameter")
        if place is None:
            return axis, (told_inclination or (90.0, 0.0))[0]
        return axis, float(np.degrees(np.arccos(min(1.0, float(values[place]) / axis))))

    def prior(self, values: np.ndarray) -> np.ndarray:
        """Deviations from what is told with an error; infinite where the planet misses the star."""
        place = self._at.get("impact_parameter")
        is_missed = place is not None and values[place] >= 1.0 + values[1]
        found = [np.inf if is_missed else 0.0]
        for value, told in zip(self.orbit(values), (self._orbit.a_over_rs, self._orbit.inclination), strict=True):
            if told is not None and told[1] > 0:
                found.append((value - told[0]) / told[1])
        return np.array(found)


def _curve(model: shapes.Transit, unpack: _Unpacking, place: int) -> Curve:
    def flux(values: np.ndarray) -> np.ndarray:
        return model.flux(float(values[0]), float(values[place]), *unpack.orbit(values))

    return flux


def _parameters(
    given: FitInput, orbit: _Orbit, mid_time: float | None, names: Sequence[str]
) -> tuple[list[FreeValue], list[list[float]]]:
    """Parameters of the fit, and where the search begins: at each dip."""
    step = max(float(np.median(np.diff(one.series.time))) for one in given.series if len(one.series.time) > 1)
    axis, impact = _first_orbit(orbit)
    inclination = float(np.degrees(np.arccos(min(1.0, impact / axis))))
    duration = max(shapes.transit_duration(orbit.period, 0.1, axis, inclination), _LEAST_STEPS * step)
    dips = find_dips(given, orbit.period, duration, None if mid_time is None else mid_time - given.origin)
    reach = min(orbit.period / 2.0, 1.5 * duration)
    middles = [dip.middle for dip in dips]
    found = [FreeValue("mid_time", min(middles) - reach, max(middles) + reach, 0.05 * duration)]
    found += [FreeValue(name, *_RADII, 0.01) for name in names]
    rest = []
    if orbit.a_over_rs is None or orbit.a_over_rs[1] > 0:
        found.append(FreeValue("a_over_rs", *_ORBITS, 0.05 * axis))
        rest.append(axis)
    if orbit.inclination is None or orbit.inclination[1] > 0:
        found.append(FreeValue("impact_parameter", 0.0, 1.0 + _RADII[1], 0.1))
        rest.append(max(impact, 0.05))
    ratios = [float(np.clip(np.sqrt(dip.depth), 0.01, 0.9 * _RADII[1])) for dip in dips]
    return found, [[dip.middle, *[ratio] * len(names), *rest] for dip, ratio in zip(dips, ratios, strict=True)]


def _first_orbit(orbit: _Orbit) -> tuple[float, float]:
    """Semi-major axis in radii of the star and impact parameter that the search begins with."""
    axis = orbit.period / (np.pi * _USUAL_DURATION) if orbit.a_over_rs is None else orbit.a_over_rs[0]
    axis = float(np.clip(axis, 1.01 * _ORBITS[0], 0.99 * _ORBITS[1]))
    if orbit.inclination is None:
        return axis, 0.2
    return axis, min(axis * float(np.cos(np.radians(orbit.inclination[0]))), 0.95)


def _told(
    samples: np.ndarray, names: Sequence[str], unpack: _Unpacking, origin: float
) -> dict[str, tuple[str, np.ndarray]]:
    """Samples of what is told of a transit."""
    orbits = np.array([unpack.orbit(values) for values in samples])
    axis, inclination = orbits.T
    found = {"mid_time": ("BJD (TDB)", samples[:, 0] + origin)}
    for place, name in enumerate(names, start=1):
        ratio = samples[:, place]
        found[name] = ("", ratio)
        found[name.replace("radius_ratio", "depth")] = ("%", 100.0 * ratio**2)
    found |= {"a_over_rs": ("", axis), "inclination": ("deg", inclination)}
    found["impact_parameter"] = ("", axis * np.cos(np.radians(inclination)))
    durations = [
        shapes.transit_duration(unpack.period, *row)
        for row in zip(samples[:, 1].tolist(), axis.tolist(), inclination.tolist(), strict=True)
    ]
    found["duration"] = ("h", HOURS_PER_DAY * np.array(durations))
    return found
