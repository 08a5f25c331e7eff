"""A fit of a light curve, written as tables and a figure, and kept in the store beside the light curve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from opticam_dask.display import products
from opticam_dask.lightcurves.fitting.outcome import keep_fit, write_fit
from opticam_dask.store import ownership


def save_fit(fit: xr.Dataset, out_directory: str | Path, name: str, tell: Callable[[str], None] = print) -> list[Path]:
    """Write a fit as tables and as a figure, and keep it in the store with its light curves.

    Parameters
    ----------
    fit : Dataset
        From :func:`~opticam_dask.fit_transit`, :func:`~opticam_dask.fit_eclipse` or
        :func:`~opticam_dask.fit_sinusoid`.
    out_directory : path
        Output directory of the reduction.
    name : str
        Name of the light curves that were fitted, as they are kept in the store; start of the file names.
    tell : callable
        Called with the reason why a fit is not kept in the store: a run works on it, or it has no such light curve.

    Returns
    -------
    list of Path
        ``fits/<name>_<shape>.ecsv`` with the parameters, ``fits/<name>_<shape>_points.csv`` with flux and model, and
        the figure ``fits/<name>_<shape>.pdf``.
    """
    files = [*write_fit(fit, out_directory, name), products.plot_fit(out_directory, fit, name)]
    try:
        with ownership.own(out_directory):
            keep_fit(fit, out_directory, name)
    except (ownership.OwnedError, ValueError) as error:
        tell(f"Not kept in the store: {error}")
    return files
