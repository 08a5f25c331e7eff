"""Light curves prepared for a fit: one series a camera and night, with the vectors of its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from opticam_dask.kernels.fitting.posterior import Series
from opticam_dask.kernels.units import JD_OF_MJD, SECONDS_PER_DAY
from opticam_dask.lightcurves.field.conditions import CONDITIONS

#: What a baseline may depend on.
VECTORS = (*(name for name in CONDITIONS if name != "exposure_time"), "time")

#: Longer series are averaged to this many points: nothing in them is faster than a thousandth of a night.
_MOST_POINTS = 3000

#: A vector that changes by less than this share of itself does not change.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class FitSeries:
    """One camera in one night, ready to be fitted.

    Attributes
    ----------
    key, night : str
        Camera key and night of the series.
    series : Series
        Times are BJD (TDB) less ``origin``.
    vectors : tuple of str
        Names of the vectors of the baseline.
    exposure : float
        Exposure time of a point, days.
    """

    key: str
    night: str
    series: Series
    vectors: tuple[str, ...]
    exposure: float


@dataclass(frozen=True, eq=False)
class FitInput:
    """Input of a fit: the series of all cameras and nights.

    Attributes
    ----------
    series : list of FitSeries
        In the order of the cameras, then of the nights.
    origin : float
        BJD (TDB) that the times of all series are counted from.
    notes : list of str
        What was left out or averaged, in words.
    """

    series: list[FitSeries]
    origin: float
    notes: list[str]

    @property
    def times(self) -> np.ndarray:
        """Times of all points, days since the origin, series after series."""
        return np.concatenate([one.series.time for one in self.series])


def fit_input(curves: xr.Dataset | Mapping[str, xr.Dataset], baseline: Sequence[str]) -> FitInput:
    """Series of light curves.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key, from :func:`~opticam_dask.relative_light_curve`.
    baseline : sequence of str
        Names of conditions and ``time``; one that is not known or does not change in a series is left out there.

    Raises
    ------
    ValueError
        When a name is none of these, or no frame has both a barycentric time and a flux.
    """
    of_key = {str(curves.attrs.get("key", "")): curves} if isinstance(curves, xr.Dataset) else dict(curves)
    if unknown := [name for name in baseline if name not in VECTORS]:
        raise ValueError(f"a baseline is made of {', '.join(VECTORS)}, got {', '.join(unknown)}")
    known = {key: _known(curve) for key, curve in of_key.items()}
    if not any(rows.any() for rows in known.values()):
        if any(np.isfinite([curve["bmjd_tdb"], curve["relative_flux"]]).all(axis=0).any() for curve in of_key.values()):
            raise ValueError("no frame with a flux has an error above 0, so nothing can be fitted")
        raise ValueError(
            "no frame has both a barycentric time and a flux: fits are made in BJD (TDB), which needs the position of "
            "the field (--target-coord of reduce) and the site of the instrument"
        )
    first = min(
        float(curve["bmjd_tdb"].to_numpy()[known[key]].min()) for key, curve in of_key.items() if known[key].any()
    )
    origin = np.floor(first)
    found, notes = list[FitSeries](), list[str]()
    for key, curve in of_key.items():
        if n_lost := int(np.count_nonzero(~known[key])):
            notes.append(f"{key}: {n_lost} of {len(known[key])} frames have no time, flux or error and are not fitted")
        nights = curve["night"].to_numpy().astype(object)
        for night in np.unique(nights[known[key]]).tolist():
            rows = np.flatnonzero(known[key] & (nights == night))
            found.append(_series(key, night, curve.isel(frame=rows), baseline, origin, notes))
    return FitInput(found, origin + JD_OF_MJD, notes)


def _known(curve: xr.Dataset) -> np.ndarray:
    values = [curve[name].to_numpy() for name in ("bmjd_tdb", "relative_flux", "relative_flux_err")]
    known: np.ndarray = np.isfinite(values).all(axis=0) & (values[2] > 0)
    return known


def _series(
    key: str, night: str, curve: xr.Dataset, baseline: Sequence[str], origin: float, notes: list[str]
) -> FitSeries:
    columns = {"time": curve["bmjd_tdb"].to_numpy() - origin}
    columns |= {name: curve[name].to_numpy().astype(float) for name in CONDITIONS if name in curve.coords}
    where = f"{key} {night}".strip()
    names = []
    for name in dict.fromkeys(baseline):
        values = columns.get(name, np.full(1, np.nan))
        if not np.isfinite(values).all():
            notes.append(f"{where}: {name} is not known of all frames, the baseline does not depend on it")
        elif values.std() > _ROUNDING * np.abs(values).max():
            names.append(name)
    order = np.argsort(columns["time"], kind="stable")
    table = np.column_stack([columns["time"], *(columns[name] for name in names)])[order]
    flux, error = (curve[name].to_numpy()[order] for name in ("relative_flux", "relative_flux_err"))
    exposure = float(np.nanmedian(columns.get("exposure_time", np.zeros(1)))) / SECONDS_PER_DAY
    if (size := -(-len(flux) // _MOST_POINTS)) > 1:
        exposure = max(exposure, size * float(np.median(np.diff(table[:, 0]))))
        table, flux, error = _averaged(table, flux, error, size)
        notes.append(f"{where}: averaged over {size} frames for the fit")
    vectors = table[:, 1:]
    scaled = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), np.finfo(float).tiny)
    series = Series(table[:, 0].copy(), flux, error, scaled)
    return FitSeries(key, night, series, tuple(names), exposure if np.isfinite(exposure) else 0.0)


def _averaged(
    table: np.ndarray, flux: np.ndarray, error: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of each ``size`` consecutive points, weighted by their errors."""
    starts = np.arange(0, len(flux), size)
    weight = error**-2.0
    total = np.add.reduceat(weight, starts)
    means = np.add.reduceat(table * weight[:, None], starts, axis=0) / total[:, None]
    return means, np.add.reduceat(flux * weight, starts) / total, total**-0.5
