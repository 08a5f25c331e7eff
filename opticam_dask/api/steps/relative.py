"""Differential light curves from any selection of light curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask.lightcurves.differential import compute_relative


def relative(
    lc: xr.Dataset,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"] = "auto",
    **options: Any,
) -> xr.Dataset:
    """Differential light curve from any selection of light curves; computes the fluxes of the sources that it needs.

    Parameters
    ----------
    lc : Dataset
        Of `photometry` or :func:`~opticam_dask.light_curves`, or a part of them by time, night, source or flag.
    target : int
        Id of the target.
    comparisons : int or sequence of int or "auto"
        Ids of the comparisons.
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
    wanted = None if isinstance(comparisons, str) else {int(target), *np.atleast_1d(comparisons).astype(int).tolist()}
    if wanted is not None and wanted <= set(lc["source_id"].to_numpy().tolist()):
        lc = lc.isel(source=np.flatnonzero(np.isin(lc["source_id"].to_numpy(), list(wanted))))
    return compute_relative(lc.load(), target, comparisons, **options)
