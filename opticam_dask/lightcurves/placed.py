"""Sources placed by the observer, in light curves: their names, and upper limits of their fluxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray
from opticam_dask.store.camera import Camera

#: Below this many errors a flux is no detection, and its upper limit lies this many errors above it.
_SIGMAS = 3.0


def with_placed(curves: CurveArrays, camera: Camera) -> CurveArrays:
    """Light curves with the names of their sources, which of them were placed, and upper limits.

    Parameters
    ----------
    curves : CurveArrays
        With ``flux`` and ``flux_err`` and the coordinate ``source_id`` along ``source``.
    camera : Camera
        Whose they are.

    Returns
    -------
    CurveArrays
        As it was where sources have no names and none was placed.
    """
    catalog = camera.catalog
    if "name" not in catalog or "source" not in curves.dims:
        return curves
    rows = np.searchsorted(catalog["source_id"], curves["source_id"].to_numpy())
    for name in ("name", "is_placed"):
        if name in catalog:
            attributes = schema.variable("catalog", name).all_attributes()
            curves = curves.assign_coords({name: NamedArray.of(["source"], catalog[name][rows], attributes)})
    if "is_placed" not in catalog or not {"flux", "flux_err"} <= set(curves.data_vars):
        return curves
    flux, error = curves["flux"], curves["flux_err"]

    def limit() -> Any:
        return np.where(flux.data < _SIGMAS * error.data, flux.data.clip(0.0) + _SIGMAS * error.data, np.nan)

    return curves.assign(upper_limit=NamedArray(flux.dims, limit, schema.UPPER_LIMIT.all_attributes()))
