"""Result of a fit: values with errors, samples, and the fitted points, as a Dataset and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import QTable

from opticam_dask import locations, schema
from opticam_dask.kernels.fitting.posterior import Solution
from opticam_dask.lightcurves.fitting.series import FitInput
from opticam_dask.store.camera import group_name
from opticam_dask.store.store import Store

#: A depth or an amplitude of this many errors is sure to be there.
_SURE = 3.0

#: What is told of a fit whose light curve has changed.
OLD_FIT = "marks have changed the light curve since it was fitted: fit it again"

#: Percentiles of the median and of one sigma.
_PERCENTILES = (15.8655, 50.0, 84.1345)


def outcome(
    shape: str,
    given: FitInput,
    solution: Solution,
    samples: Mapping[str, tuple[str, np.ndarray]],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Result of a fit as a Dataset.

    Parameters
    ----------
    shape : str
        ``transit``, ``eclipse`` or ``sinusoid``.
    given : FitInput
        What was fitted.
    solution : Solution
        Fit of the shape to it.
    samples : dict of (str, ndarray)
        Unit and samples of each parameter that is told.
    attributes : dict
        Numbers and texts to keep with the result.

    Returns
    -------
    Dataset
        Dims ``parameter``, ``sample`` and ``point``: variables of ``schema.FIT``; attributes are numbers and texts.
    """
    names = list(samples)
    drawn = np.column_stack([samples[name][1] for name in names])
    low, middle, high = np.percentile(drawn, _PERCENTILES, axis=0)
    values: dict[str, np.ndarray] = {
        "parameter": np.array(names, dtype=object),
        "unit": np.array([samples[name][0] for name in names], dtype=object),
        "value": middle,
        "error_minus": middle - low,
        "error_plus": high - middle,
        "samples": drawn,
        "bjd": given.times + given.origin,
        "key": _repeated(given, [one.key for one in given.series]),
        "night": _repeated(given, [one.night for one in given.series]),
        "model": np.concatenate(solution.models),
        "baseline": np.concatenate(solution.baselines),
        "is_fitted": np.concatenate(solution.used),
    }
    flux = np.concatenate([one.series.flux for one in given.series])
    values["relative_flux"] = flux / values["baseline"]
    values["relative_flux_err"] = np.concatenate(solution.errors) / np.abs(values["baseline"])
    described = {entry.name: (entry.dims, values[entry.name], entry.all_attributes()) for entry in schema.GROUPS["fit"]}
    dataset = xr.Dataset(described).set_coords(["unit", "bjd", "key", "night"])
    return dataset.assign_attrs(shape=shape, **_told(given, solution, values), **attributes)


def _repeated(given: FitInput, texts: Sequence[str]) -> np.ndarray:
    lengths = [len(one.series.time) for one in given.series]
    return np.repeat(np.array(texts, dtype=object), lengths)


def _told(given: FitInput, solution: Solution, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    used = values["is_fitted"]
    residual = (values["relative_flux"] - values["model"])[used]
    told: dict[str, Any] = {
        "n_points": len(used),
        "n_outliers": int(np.count_nonzero(~used)),
        "scatter": float(np.std(residual)),
        "autocorrelation_time": solution.autocorrelation,
    }
    for one, chi2, beta, found in zip(
        given.series, solution.reduced_chi2, solution.beta, solution.coefficients, strict=True
    ):
        name = f"{group_name(one.key)}_{one.night}".strip("_")
        told |= {f"reduced_chi2_{name}": float(chi2), f"red_noise_beta_{name}": float(beta)}
        for vector, coefficient in zip(one.vectors, found[1:], strict=True):
            # relative to the level, for one standard deviation of the vector
            told[f"baseline_{vector}_{name}"] = float(coefficient / found[0])
    notes = [*given.notes, *solution.warnings, *_not_seen(values)]
    if notes:
        told["notes"] = "\n".join(notes)
    return told


def _not_seen(values: Mapping[str, np.ndarray]) -> list[str]:
    """A line for each depth or amplitude that is less than three times its error."""
    rows = zip(*(values[name].tolist() for name in ("parameter", "value", "error_minus", "error_plus")), strict=True)
    return [
        f"{name} is {'negative' if value < 0 else f'{value / max(low, high):.1f} times its error'}: it is not sure "
        "that there is any"
        for name, value, low, high in rows
        if name.startswith(("depth", "amplitude")) and value < _SURE * max(low, high)
    ]


def value_of(fit: xr.Dataset, parameter: str) -> tuple[float, float]:
    """Value of a parameter and its error, the larger of both sides.

    Raises
    ------
    KeyError
        When the fit has no such parameter.
    """
    names = fit["parameter"].to_numpy().tolist()
    if parameter not in names:
        raise KeyError(f"the fit has no parameter {parameter!r}; it has {', '.join(names)}")
    row = names.index(parameter)
    error = max(float(fit["error_minus"][row]), float(fit["error_plus"][row]))
    return float(fit["value"][row]), error


def describe(fit: xr.Dataset) -> list[str]:
    """Result of a fit in lines for people."""
    lines = []
    for name in fit["parameter"].to_numpy().tolist():
        value, error = value_of(fit, name)
        unit = str(fit["unit"].to_numpy()[fit["parameter"].to_numpy().tolist().index(name)])
        lines.append(f"{name}: {rounded(value, error)}{f' {unit}' if unit else ''}")
    betas = [value for name, value in fit.attrs.items() if str(name).startswith("red_noise_beta_")]
    lines.append(
        f"scatter about the fit {100 * fit.attrs['scatter']:.3f} % of {fit.attrs['n_points']} points, "
        f"{fit.attrs['n_outliers']} outlier(s) left out, red noise beta {', '.join(f'{beta:.2f}' for beta in betas)}"
    )
    return [*lines, *str(fit.attrs.get("notes", "")).splitlines()]


def rounded(value: float, error: float) -> str:
    """A value with its error, to two digits of the error."""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.8g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def fit_table(fit: xr.Dataset) -> QTable:
    """Parameters of a fit as an astropy table."""
    table = QTable(meta={str(name): value for name, value in fit.attrs.items()})
    for name in ("parameter", "unit", "value", "error_minus", "error_plus"):
        values = fit[name].to_numpy()
        table[name] = values.astype(str) if values.dtype == object else values
        table[name].info.description = fit[name].attrs["long_name"]
    return table


def points_table(fit: xr.Dataset) -> QTable:
    """Points of a fit as an astropy table: the light curve without its baseline, and the model."""
    table = QTable(meta={"shape": fit.attrs["shape"]})
    for name in ("bjd", "key", "night", "relative_flux", "relative_flux_err", "model", "baseline", "is_fitted"):
        values = fit[name].to_numpy()
        table[name] = values.astype(str) if values.dtype == object else values
    return table


def write_fit(fit: xr.Dataset, out_directory: str | Path, name: str) -> list[Path]:
    """Write ``fits/<name>_<shape>.ecsv``, the parameters, and ``fits/<name>_<shape>_points.csv``.

    Parameters
    ----------
    fit : Dataset
        From :func:`~opticam_dask.fit_transit` or its like.
    out_directory : path
        Output directory of the reduction.
    name : str
        Start of the file names.

    Returns
    -------
    list of Path
        The files, which are complete or were not touched.
    """
    written = []
    for ending, table, form in (
        (".ecsv", fit_table(fit), "ascii.ecsv"),
        ("_points.csv", points_table(fit), "ascii.csv"),
    ):
        file = locations.file_in(out_directory, "fits", f"{name}_{fit.attrs['shape']}{ending}")
        with locations.replacing(file) as temporary:
            table.write(temporary, format=form, overwrite=True)
        written.append(file)
    return written


def keep_fit(fit: xr.Dataset, out_directory: str | Path, name: str) -> None:
    """Keep a fit in the store with the light curves of this name that it was made to.

    Parameters
    ----------
    fit : Dataset
        The fit.
    out_directory : path
        Output directory of the reduction.
    name : str
        Name of the light curves (:func:`~opticam_dask.relative_light_curve` kept by name).

    Raises
    ------
    ValueError
        When a camera of the fit keeps no light curve of this name.
    """
    store = Store.open(out_directory)
    cameras = [store.camera(key) for key in dict.fromkeys(fit["key"].to_numpy().tolist())]
    for camera in cameras:
        if name not in camera.differential_names:
            has = ", ".join(camera.differential_names) or "none"
            raise ValueError(f"a fit is kept with its light curve: {camera.key} keeps no {name!r}, it keeps {has}")
    store.begin_changes()
    arrays = {entry.name: fit[entry.name].to_numpy() for entry in schema.GROUPS["fit"]}
    for camera in cameras:
        camera.fit(name).write(arrays, fit.attrs)
    store.finish_changes()


def fits_in_store(out_directory: str | Path, key: str) -> dict[str, xr.Dataset]:
    """Fits that are kept in the store with the light curves of a camera, by the names of these.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g``.

    Returns
    -------
    dict of Dataset
        Empty when none is kept.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    camera = Store.open(out_directory).camera(key)
    found = {}
    for name in camera.differential_names:
        group = camera.fit(name)
        if group.is_whole:
            opened = xr.open_dataset(**group.for_xarray).load()
            texts = {one: opened[one].astype(object) for one in ("parameter", "unit", "key", "night")}
            found[name] = opened.assign(texts).set_coords(["unit", "bjd", "key", "night"])
    return found
