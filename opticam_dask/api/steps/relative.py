"""Differential light curves from any selection of light curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.differential import compute_relative
from opticam_dask.lightcurves.targets import numbers_in


def relative(
    lc: xr.Dataset,
    target: int | str,
    comparisons: int | str | Sequence[int | str] | Literal["auto"] = "auto",
    **options: Any,
) -> xr.Dataset:
    """Differential light curve from any selection of light curves; computes the fluxes of the sources that it needs.

    Parameters
    ----------
    lc : Dataset
        Of `photometry` or :func:`~opticam_dask.light_curves`, or a part of them by time, night, source or flag.
    target : int or str
        Number of the target in the catalogue, or its name where the light curves have names.
    comparisons : int or str, sequence of them, or "auto"
        Numbers or names of the comparisons.
    **options
        ``weighting``, ``detrend``, ``detrend_without``, ``outliers``, ``without`` as of
        :func:`~opticam_dask.relative_light_curve`.

    Returns
    -------
    Dataset
        ``relative_flux``, ``relative_flux_err`` and ``flags`` along ``frame``; ``time`` is an index.

    Raises
    ------
    ValueError
        When these are no light curves, the selection is empty, or a source is not in it.
    """
    if not isinstance(lc, xr.Dataset) or not {"flux", "flux_err", "flags", "source_id"} <= set(lc.variables):
        raise ValueError("relative expected light curves (flux, flux_err, flags): use photometry or light_curves first")
    if not lc.sizes.get("frame") or not lc.sizes.get("source"):
        raise ValueError(
            "relative expected at least one frame and two sources, the selection is empty or of one source"
        )
    known = {name: lc[name].to_numpy() for name in ("source_id", "name") if name in lc.variables}
    key = str(lc.attrs.get("key", "this key"))
    (number,) = numbers_in(known, key, [target])
    if isinstance(comparisons, str) and comparisons == "auto":
        return compute_relative(lc.load(), number, "auto", **options)
    chosen = numbers_in(known, key, comparisons)
    if {number, *chosen} <= set(known["source_id"].tolist()):
        lc = lc.isel(source=np.flatnonzero(np.isin(known["source_id"], [number, *chosen])))
    return compute_relative(lc.load(), number, chosen, **options)
