"""Light curves as objects of other packages: astropy TimeSeries, lightkurve, stingray.

lightkurve and stingray are optional: ``pip install 'opticam-dask[timing]'``.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import xarray as xr
from astropy import units
from astropy.time import Time
from astropy.timeseries import TimeSeries

from opticam_dask.kernels.timing import good_time_intervals

_SECONDS_PER_DAY = 86400.0


def to_timeseries(curve: xr.Dataset) -> TimeSeries:
    """Differential light curve as an astropy ``TimeSeries``.

    Parameters
    ----------
    curve : xarray.Dataset
        From :func:`~opticam_dask.relative_light_curve`.

    Returns
    -------
    astropy.timeseries.TimeSeries
        Columns relative_flux, relative_flux_err and flags; every frame with a time has a row. Times are barycentric
        (TDB) where those of all such frames are known, else UTC at the observatory.
    """
    time, known = _times(curve)
    columns = {name: curve[name].to_numpy()[known] for name in ("relative_flux", "relative_flux_err", "flags")}
    series = TimeSeries(time=time, data=columns, meta=_meta(curve))
    for name in ("relative_flux", "relative_flux_err"):
        series[name].unit = units.dimensionless_unscaled
    return series


def to_lightkurve(curve: xr.Dataset) -> Any:
    """Differential light curve as a ``lightkurve.LightCurve``, whose ``quality`` are the flags.

    Raises
    ------
    ImportError
        When lightkurve is not installed.
    """
    lightkurve = _import("lightkurve")
    time, known = _times(curve)
    flux, error = (curve[name].to_numpy()[known] for name in ("relative_flux", "relative_flux_err"))
    found = lightkurve.LightCurve(time=time, flux=flux, flux_err=error, meta=_meta(curve))
    found["quality"] = curve["flags"].to_numpy()[known]
    return found


def to_stingray(curve: xr.Dataset) -> Any:
    """Differential light curve as a ``stingray.Lightcurve``: seconds since ``mjdref``, Gaussian errors.

    Frames without a flux are left out. A gap longer than 1.5 median steps ends a good time interval.

    Raises
    ------
    ImportError
        When stingray is not installed.
    ValueError
        With fewer than two frames that have a flux.
    """
    stingray = _import("stingray")
    time, known = _times(curve)
    flux, error = (curve[name].to_numpy()[known] for name in ("relative_flux", "relative_flux_err"))
    good = np.isfinite(flux) & np.isfinite(error)
    if np.count_nonzero(good) < 2:
        raise ValueError(f"at least two frames with a flux are needed, got {np.count_nonzero(good)}")
    mjd = time.mjd[good]
    order = np.argsort(mjd, kind="stable")
    reference = float(np.floor(mjd.min()))
    seconds = (mjd[order] - reference) * _SECONDS_PER_DAY
    step = float(np.median(np.diff(seconds)))
    return stingray.Lightcurve(
        seconds,
        flux[good][order],
        err=error[good][order],
        err_dist="gauss",
        input_counts=True,
        dt=step,
        mjdref=reference,
        gti=good_time_intervals(seconds),
        skip_checks=True,
    )


def _times(curve: xr.Dataset) -> tuple[Time, np.ndarray]:
    """Times of the frames that have one, and which these are."""
    barycentric, utc = curve["bmjd_tdb"].to_numpy(), curve["mjd_utc"].to_numpy()
    known = np.isfinite(utc)
    if np.isfinite(barycentric[known]).all() and known.any():
        return Time(barycentric[known], format="mjd", scale="tdb"), known
    return Time(utc[known], format="mjd", scale="utc"), known


def _meta(curve: xr.Dataset) -> dict[str, Any]:
    names = ("key", "label", "target", "comparisons", "weighting", "weights")
    return {name: curve.attrs[name] for name in names if name in curve.attrs}


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed: pip install 'opticam-dask[timing]'") from error
