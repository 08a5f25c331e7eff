"""Differential light curves: a target against comparison sources of the same camera."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from opticam_dask import results, store
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels import lightcurve


def relative_light_curve(
    out_directory: str | Path, key: str, target: int, comparisons: int | Sequence[int], label: str = "aperture"
) -> xr.Dataset:
    """Differential light curve over all nights.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g``.
    target : int
        Number of the source in the catalogue.
    comparisons : int or sequence of int
        Numbers of the comparison sources; their fluxes are added.
    label : str
        Photometry label.

    Returns
    -------
    xarray.Dataset
        Dim ``frame``; variables ``relative_flux``, ``relative_flux_err`` and ``flags`` (of target and comparisons
        together); coordinates mjd_utc, bmjd_tdb and night.

    Raises
    ------
    ValueError
        When there is no such key, label or source; the message names those there are.
    """
    return compute_relative(results.light_curves(out_directory, key, label), target, comparisons)


def compute_relative(curves: xr.Dataset, target: int, comparisons: int | Sequence[int]) -> xr.Dataset:
    """Differential light curve from the fluxes of all sources; see :func:`relative_light_curve`."""
    chosen = [comparisons] if isinstance(comparisons, (int, np.integer)) else [int(number) for number in comparisons]
    known = curves["source_id"].to_numpy().tolist()
    missing = [number for number in (target, *chosen) if number not in known]
    if missing:
        raise ValueError(
            f"no source {', '.join(map(str, missing))} in the catalogue of {curves.attrs.get('key', 'this key')}; "
            f"it has 1 to {max(known, default=0)}"
        )
    if not chosen or target in chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"comparisons must be other sources than the target, each once, got {chosen} for {target}")
    members = curves.isel(source=[known.index(number) for number in (target, *chosen)])
    flux, error = members["flux"].to_numpy(), members["flux_err"].to_numpy()
    relative, relative_err = lightcurve.relative_flux(flux[:, 0], error[:, 0], flux[:, 1:], error[:, 1:])
    flags = np.bitwise_or.reduce(members["flags"].to_numpy(), axis=1)
    attributes = {"units": "1", "long_name": "flux of the target divided by the summed flux of the comparisons"}
    dataset = xr.Dataset(
        {
            "relative_flux": ("frame", relative, attributes),
            "relative_flux_err": ("frame", relative_err, {"units": "1", "long_name": "1-sigma error"}),
            "flags": ("frame", flags, curves["flags"].attrs),
        },
        coords={name: curves[name] for name in ("mjd_utc", "bmjd_tdb", "night") if name in curves.coords},
    )
    for name in ("key", "label"):
        if name in curves.attrs:
            dataset.attrs[name] = curves.attrs[name]
    return dataset.assign_attrs(target=int(target), comparisons=chosen)


def write_relative_light_curve(curve: xr.Dataset, out_directory: str | Path, prefix: str) -> Path:
    """Write ``relative_light_curves/<label>/<prefix>_<key>_light_curve.csv``.

    Columns are ``BMJD`` (or ``MJD``, UTC, where no barycentric time is known), ``rel_flux``, ``rel_flux_err`` and
    ``flags``; every frame has a row.
    """
    has_bmjd = bool(np.isfinite(curve["bmjd_tdb"]).any())
    time_name, time = ("BMJD", "bmjd_tdb") if has_bmjd else ("MJD", "mjd_utc")
    table = pd.DataFrame(
        {
            time_name: curve[time].to_numpy(),
            "rel_flux": curve["relative_flux"].to_numpy(),
            "rel_flux_err": curve["relative_flux_err"].to_numpy(),
            "flags": curve["flags"].to_numpy() & ~np.uint32(SourceFlag.REDUCED),
        }
    )
    name = f"{prefix}_{store.group_name(curve.attrs['key'])}_light_curve.csv"
    file = Path(out_directory) / "relative_light_curves" / curve.attrs["label"] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    table.to_csv(temporary, index=False)
    os.replace(temporary, file)
    return file


def most_variable(curves: xr.Dataset) -> int:
    """Number of the source that varies most against all others, by reduced chi-squared.

    Raises
    ------
    ValueError
        With fewer than three sources.
    """
    numbers = curves["source_id"].to_numpy().tolist()
    if len(numbers) < 3:
        raise ValueError(f"at least 3 sources are needed to tell which one varies, the catalogue has {len(numbers)}")
    excess = []
    for number in numbers:
        others = [other for other in numbers if other != number]
        curve = compute_relative(curves, number, others)
        excess.append(lightcurve.reduced_chi2(curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()))
    return int(numbers[int(np.nanargmax(excess))])
