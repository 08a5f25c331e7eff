"""Light curves as objects of other packages: astropy TimeSeries, lightkurve, stingray.

lightkurve and stingray are optional: ``pip install 'opticam-dask[timing]'``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy import units
from astropy.time import Time
from astropy.timeseries import TimeSeries

from opticam_dask.kernels.series.timing import good_time_intervals
from opticam_dask.kernels.units import SECONDS_PER_DAY


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
        (TDB) when those of any frame are known, and frames without one are left out; else UTC at the observatory.
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
    time, known = _times(curve)
    flux, error = (curve[name].to_numpy()[known] for name in ("relative_flux", "relative_flux_err"))
    good = np.isfinite(flux) & np.isfinite(error)
    if np.count_nonzero(good) < 2:
        raise ValueError(f"at least two frames with a flux are needed, got {np.count_nonzero(good)}")
    mjd = time.mjd[good]
    order = np.argsort(mjd, kind="stable")
    reference = float(np.floor(mjd.min()))
    seconds = (mjd[order] - reference) * SECONDS_PER_DAY
    return stingray_light_curve(seconds, flux[good][order], error[good][order], reference)


def stingray_light_curve(seconds: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, mjdref: float) -> Any:
    """``stingray.Lightcurve`` with Gaussian errors; a gap longer than 1.5 median steps ends a good time interval.

    Parameters
    ----------
    seconds : ndarray
        Since ``mjdref``, ascending.
    flux, flux_err : ndarray
        Fluxes and their 1-sigma errors, finite.
    mjdref : float
        Reference epoch, as a modified Julian date.

    Raises
    ------
    ImportError
        When stingray is not installed.
    """
    stingray = _import("stingray")
    return stingray.Lightcurve(
        seconds,
        flux,
        err=flux_err,
        err_dist="gauss",
        input_counts=True,
        dt=float(np.median(np.diff(seconds))),
        mjdref=mjdref,
        gti=good_time_intervals(seconds),
        skip_checks=True,
    )


@dataclass(frozen=True)
class PlainCurve:
    """Light curve as arrays: time in MJD of ``scale`` (``tdb``, ``utc`` or unknown), flux, 1-sigma error, flags."""

    mjd: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    scale: str
    flags: np.ndarray | None = None


def to_plain(curve: Any) -> PlainCurve:
    """Arrays of a light curve of any of the kinds that are met here.

    Parameters
    ----------
    curve : xarray.Dataset, pandas.DataFrame, astropy TimeSeries, lightkurve LightCurve, stingray Lightcurve, or path
        A Dataset is one of :func:`~opticam_dask.relative_light_curve`; a DataFrame or CSV file has columns ``BMJD``
        (TDB) or ``MJD`` (UTC), ``rel_flux``, ``rel_flux_err`` and perhaps ``flags``; a series has ``relative_flux``,
        ``rel_flux`` or ``flux``, the same with ``_err``, and perhaps ``flags``, and masked values are NaN; ``quality``
        are flags in what :func:`to_lightkurve` made alone, as the bits of other telescopes mean other things; times of
        stingray are seconds since its ``mjdref``.

    Returns
    -------
    PlainCurve

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        When columns are missing; the message names those there are.
    """
    if isinstance(curve, (str, Path)):
        return _from_table(pd.read_csv(curve))
    if isinstance(curve, pd.DataFrame):
        return _from_table(curve)
    if isinstance(curve, xr.Dataset):
        return _from_dataset(curve)
    if isinstance(curve, TimeSeries):
        return _from_series(curve)
    if all(hasattr(curve, name) for name in ("time", "counts", "counts_err", "mjdref")):
        mjd = np.asarray(curve.time, float) / SECONDS_PER_DAY + float(curve.mjdref)
        return PlainCurve(mjd, np.asarray(curve.counts, float), np.asarray(curve.counts_err, float), "")
    raise TypeError(
        "a light curve must be an xarray Dataset, pandas DataFrame, astropy TimeSeries, lightkurve LightCurve, "
        f"stingray Lightcurve or the path of a CSV file, got {type(curve).__name__}"
    )


def _from_table(table: pd.DataFrame) -> PlainCurve:
    time = next((name for name in ("BMJD", "MJD") if name in table), None)
    flux = next((name for name in table if str(name).endswith("rel_flux")), None)
    if time is None or flux is None or f"{flux}_err" not in table:
        raise ValueError(
            f"expected columns BMJD or MJD, rel_flux and rel_flux_err, found {', '.join(map(str, table.columns))}"
        )
    mjd, values, errors = (table[name].to_numpy(float) for name in (time, flux, f"{flux}_err"))
    flags = table["flags"].to_numpy() if "flags" in table else None
    return PlainCurve(mjd, values, errors, "tdb" if time == "BMJD" else "utc", flags)


def _from_dataset(curve: xr.Dataset) -> PlainCurve:
    missing = [name for name in ("relative_flux", "relative_flux_err", "bmjd_tdb", "mjd_utc") if name not in curve]
    if missing:
        raise ValueError(f"a light curve needs {', '.join(missing)}; the Dataset has {', '.join(map(str, curve))}")
    time, known = _times(curve)
    flux, error = (curve[name].to_numpy()[known] for name in ("relative_flux", "relative_flux_err"))
    return PlainCurve(time.mjd, flux, error, time.scale, curve["flags"].to_numpy()[known] if "flags" in curve else None)


def _from_series(series: TimeSeries) -> PlainCurve:
    flux = next((name for name in ("relative_flux", "rel_flux", "flux") if name in series.colnames), None)
    flux = flux or next((name for name in series.colnames if name.endswith("_rel_flux")), None)
    if flux is None or f"{flux}_err" not in series.colnames:
        raise ValueError(f"expected columns relative_flux and relative_flux_err, found {', '.join(series.colnames)}")
    mjd, values, errors = (_unmasked(column) for column in (series.time.mjd, series[flux], series[f"{flux}_err"]))
    return PlainCurve(mjd, values, errors, series.time.scale, _flags_of(series))


def _unmasked(column: Any) -> np.ndarray:
    """Numbers of a column of any kind, without unit, NaN where it is masked."""
    column = getattr(column, "value", column)
    values = np.array(getattr(column, "unmasked", column), float)
    return np.where(getattr(column, "mask", False), np.nan, values)


def _flags_of(series: TimeSeries) -> np.ndarray | None:
    """Flags of a series that has some of ours, 0 where they are masked."""
    is_ours = {"target", "comparisons"} <= {str(name).lower() for name in series.meta}
    name = "flags" if "flags" in series.colnames else "quality" if is_ours and "quality" in series.colnames else None
    if name is None:
        return None
    return np.nan_to_num(_unmasked(series[name]), nan=0.0).astype(np.uint32)


def _times(curve: xr.Dataset) -> tuple[Time, np.ndarray]:
    """Times of the frames that have one, and a mask of these frames; barycentric where there are any, else UTC."""
    barycentric, utc = curve["bmjd_tdb"].to_numpy(), curve["mjd_utc"].to_numpy()
    known = np.isfinite(barycentric)
    if known.any():
        return Time(barycentric[known], format="mjd", scale="tdb"), known
    known = np.isfinite(utc)
    return Time(utc[known], format="mjd", scale="utc"), known


def _meta(curve: xr.Dataset) -> dict[str, Any]:
    names = ("key", "label", "target", "comparisons", "weighting", "weights")
    return {name: curve.attrs[name] for name in names if name in curve.attrs}


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed: pip install 'opticam-dask[timing]'") from error
