"""Shapes of transits, eclipses and sinusoids: the relative flux of a star against time, 1 outside of an event."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opticam_dask.kernels.units import SECONDS_PER_DAY

#: A change of brightness is averaged over the exposure at this many times.
_SAMPLES_OF_EXPOSURE = 5

#: Exposures shorter than this need no averaging: nothing in a transit changes in ten seconds.
_SHORT_EXPOSURE = 10.0 / SECONDS_PER_DAY


@dataclass(eq=False)
class Transit:
    """Transits of a planet before a star with quadratic limb darkening (Mandel & Agol 2002; Kreidberg 2015).

    Parameters
    ----------
    time : ndarray, shape (frame,)
        Times of mid-exposure, days.
    period : float
        Orbital period, days.
    limb_darkening : (float, float)
        Coefficients of the quadratic law.
    exposure : float
        Exposure time, days: the light is averaged over it.
    eccentricity, periastron : float
        Eccentricity of the orbit, and argument of its periastron in degrees.

    Raises
    ------
    ImportError
        When batman is not installed.
    """

    time: np.ndarray
    period: float
    limb_darkening: tuple[float, float] = (0.4, 0.25)
    exposure: float = 0.0
    eccentricity: float = 0.0
    periastron: float = 90.0
    _parameters: Any = field(init=False, repr=False)
    _model: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        batman = required("batman", "batman-package")
        parameters = batman.TransitParams()
        parameters.t0, parameters.rp, parameters.a, parameters.inc = float(np.median(self.time)), 0.1, 10.0, 89.0
        parameters.per, parameters.ecc, parameters.w = self.period, self.eccentricity, self.periastron
        parameters.limb_dark, parameters.u = "quadratic", list(self.limb_darkening)
        options: dict[str, Any] = {}
        if self.exposure > _SHORT_EXPOSURE:
            options = {"supersample_factor": _SAMPLES_OF_EXPOSURE, "exp_time": self.exposure}
        self._parameters = parameters
        self._model = batman.TransitModel(parameters, np.ascontiguousarray(self.time, dtype=float), **options)

    def flux(self, mid_time: float, radius_ratio: float, a_over_rs: float, inclination: float) -> np.ndarray:
        """Relative flux.

        Parameters
        ----------
        mid_time : float
            Middle of one transit, in the scale of ``time``.
        radius_ratio : float
            Radius of the planet in radii of the star.
        a_over_rs : float
            Semi-major axis of the orbit in radii of the star.
        inclination : float
            Degrees; 90 is a central transit.

        Returns
        -------
        ndarray, shape (frame,)
        """
        own = self._parameters
        own.t0, own.rp, own.a, own.inc = mid_time, radius_ratio, a_over_rs, inclination
        flux: np.ndarray = self._model.light_curve(own)
        return flux


def required(module: str, package: str) -> Any:
    """Import a package of the extra ``fits``.

    Raises
    ------
    ImportError
        When it cannot be imported; the message says why, and how it is installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = "is not installed" if error.name == module else f"cannot be imported ({error})"
        raise ImportError(f"{package} {why}: pip install 'opticam-dask[fits]'") from error


def transit_duration(period: float, radius_ratio: float, a_over_rs: float, inclination: float) -> float:
    """Time from first to last contact on a circular orbit, in the unit of the period (Winn 2010, eq. 14).

    Returns
    -------
    float
        0 where the planet misses the star.
    """
    sine, impact = np.sin(np.radians(inclination)), a_over_rs * np.cos(np.radians(inclination))
    chord = (1.0 + radius_ratio) ** 2 - impact**2
    if chord <= 0:
        return 0.0
    return float(period / np.pi * np.arcsin(min(1.0, np.sqrt(chord) / (a_over_rs * sine))))


def ingress_duration(period: float, radius_ratio: float, a_over_rs: float, inclination: float) -> float:
    """Time from first to second contact on a circular orbit; half of the transit where it is grazing."""
    total = transit_duration(period, radius_ratio, a_over_rs, inclination)
    inner = transit_duration(period, -radius_ratio, a_over_rs, inclination)
    return (total - inner) / 2.0


def eclipse_flux(
    time: np.ndarray,
    mid_time: float,
    depth: float,
    duration: float,
    ingress: float,
    period: float | None = None,
    exposure: float = 0.0,
) -> np.ndarray:
    """Relative flux in an eclipse with straight ingress and egress of equal length.

    Parameters
    ----------
    time : ndarray, shape (frame,)
        Times of mid-exposure, days.
    mid_time : float
        Middle of one eclipse.
    depth : float
        Share of the light that is lost in the middle.
    duration : float
        From first to last contact.
    ingress : float
        From first to second contact, at most half of the duration.
    period : float, optional
        Where there are several eclipses.
    exposure : float
        The light is averaged over it. All are in the unit of ``time``.

    Returns
    -------
    ndarray, shape (frame,)
    """
    steps = (np.arange(_SAMPLES_OF_EXPOSURE) + 0.5) / _SAMPLES_OF_EXPOSURE - 0.5
    lost = np.zeros(len(time))
    for step in steps if exposure > 0 else np.zeros(1):
        away = time + step * exposure - mid_time
        if period is not None:
            away = (away + period / 2.0) % period - period / 2.0
        lost += np.clip((duration / 2.0 - np.abs(away)) / ingress, 0.0, 1.0)
    return 1.0 - depth * lost / (len(steps) if exposure > 0 else 1)


def sinusoid_flux(
    time: np.ndarray, amplitude: float, frequency: float, phase: float, epoch: float = 0.0, exposure: float = 0.0
) -> np.ndarray:
    """``1 + amplitude sin(2 pi frequency (time - epoch) + phase)``, averaged over the exposure.

    Parameters
    ----------
    time : ndarray, shape (frame,)
        Times of mid-exposure, days.
    amplitude : float
        Relative to the mean.
    frequency : float
        Cycles per unit of ``time``.
    phase : float
        Radians, at ``epoch``.
    epoch, exposure : float
        In the unit of ``time``.

    Returns
    -------
    ndarray, shape (frame,)
    """
    seen = amplitude * np.sinc(frequency * exposure)
    return 1.0 + seen * np.sin(2.0 * np.pi * frequency * (time - epoch) + phase)
