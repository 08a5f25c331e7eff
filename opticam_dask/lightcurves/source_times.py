"""Barycentric times of each source: for its own position on the sky, and for the moment its row was exposed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.kernels.series import timing
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray
from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store

#: Attribute ``position`` of a time that is for the source's own place on the sky.
OF_SOURCE = "source"
#: Attribute ``position`` of a time that is for the pointing of the telescope.
OF_POINTING = "pointing"


@dataclass(frozen=True, eq=False)
class SourceClock:
    """Barycentric times of the sources of a part, from their sky positions and the site.

    Attributes
    ----------
    ra, dec : ndarray, shape (source,)
        ICRS, degrees; NaN where a source is not found on the sky: its time is that of the pointing.
    site : (float, float, float)
        Longitude and latitude of the observatory (degrees), and its height (metres).
    row_time : float
        Seconds from the exposure of one row of the detector to that of the next; 0 when all are exposed at once.
    rebin_factor : int
        Rows of the file in one row of the reduced frame.
    """

    ra: np.ndarray
    dec: np.ndarray
    site: tuple[float, float, float]
    row_time: float
    rebin_factor: int

    @property
    def position(self) -> str:
        """Whose position the times are for (``source`` or ``pointing``), for the attribute."""
        unknown = np.flatnonzero(~np.isfinite(self.ra * self.dec))
        if len(unknown) == len(self.ra):
            return OF_POINTING
        return OF_SOURCE if not len(unknown) else f"{OF_SOURCE}; {OF_POINTING} for {len(unknown)} of {len(self.ra)}"

    def of_columns(self, columns: Any) -> SourceClock:
        """The clock of some of the sources."""
        return SourceClock(self.ra[columns], self.dec[columns], self.site, self.row_time, self.rebin_factor)

    def times(self, mjd_utc: np.ndarray, bmjd_tdb: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
        """Barycentric times, MJD (TDB).

        Parameters
        ----------
        mjd_utc, bmjd_tdb : ndarray, shape (frame,)
            Times of the first row of each frame, MJD; ``bmjd_tdb`` for the pointing.
        y : ndarray, shape (frame, source), optional
            Where each source is on the frame; needed where rows are exposed one after the other. A source without a
            place has the time of the first row.

        Returns
        -------
        ndarray, shape (frame, source)
        """
        late = np.zeros((len(mjd_utc), len(self.ra)))
        if self.row_time and y is not None:
            late = self.row_time / SECONDS_PER_DAY * np.nan_to_num((y + 0.5) * self.rebin_factor - 0.5)
        known = np.isfinite(self.ra * self.dec)
        found = bmjd_tdb[:, None] + late
        if known.any():
            ra, dec = self.ra[known], self.dec[known]
            if self.row_time:
                when = mjd_utc[:, None] + late[:, known]
                found[:, known] = timing.barycentric_mjd(when, ra, dec, *self.site)
            else:
                found[:, known] = timing.barycentric_mjd_of_sources(mjd_utc, ra, dec, *self.site)
        return found


def clocks_of(parts: Sequence[Part]) -> list[SourceClock] | None:
    """Clocks of the parts of a camera; None where barycentric times are for the pointing, not for each source."""
    store = Store(parts[0].path)
    attributes = store.attributes
    parameters, instrument = json.loads(attributes["parameters"]), attributes.get("instrument_definition", {})
    catalog = parts[0].camera.catalog
    row_time = float(instrument.get("row_time", 0.0))
    if not parameters.get("barycenter", True) or ("ra" not in catalog and not row_time):
        return None
    own_site = [instrument.get(name) for name in ("longitude", "latitude", "height")]
    n_sources = catalog.array("source_id").shape[0]
    ra, dec = (catalog[name] if name in catalog else np.full(n_sources, np.nan) for name in ("ra", "dec"))
    clocks = []
    for part in parts:
        longitude, latitude, height = part.attributes.get("site") or own_site
        if longitude is None or latitude is None:
            return None
        site = float(longitude), float(latitude), float(height or 0.0)
        clocks.append(SourceClock(ra, dec, site, row_time, int(parameters.get("rebin_factor", 1))))
    return clocks


def with_source_times(curves: CurveArrays, clock: SourceClock | None, y: np.ndarray | None = None) -> CurveArrays:
    """Light curves of a part with ``bmjd_tdb`` of each source, lazily where the fluxes are lazy.

    Parameters
    ----------
    curves : CurveArrays
        With ``mjd_utc`` and ``bmjd_tdb`` along ``frame``.
    clock : SourceClock, optional
        Clock of the same sources; without it the times stay those of the pointing.
    y : ndarray, shape (frame, source), optional
        Where the sources are on the frames, where the light curves do not say it.
    """
    stamps = curves["bmjd_tdb"]
    if clock is None:
        pointing = NamedArray(stamps.dims, stamps.get, {**stamps.attrs, "position": OF_POINTING})
        return curves.assign_coords({"bmjd_tdb": pointing})
    own, mjd, places = clock, curves["mjd_utc"], curves["y"].data if clock.row_time and y is None else y

    def times() -> Any:
        given = [mjd.data, stamps.data, *([places] if own.row_time else [])]
        flux = curves["flux"].data if "flux" in curves else None
        if flux is None or isinstance(flux, np.ndarray):
            return own.times(*(np.asarray(one) for one in given))
        return _lazily(own, given, flux.chunks[0])

    attributes = schema.variable("photometry", "bmjd_tdb").all_attributes() | {"position": clock.position}
    return curves.assign_coords({"bmjd_tdb": NamedArray(("frame", "source"), times, attributes)})


def _lazily(clock: SourceClock, given: Sequence[Any], chunks: tuple[int, ...]) -> Any:
    """Times of each source as a Dask array, of the frames that are together in the fluxes."""
    import xarray as xr

    variables = [xr.Variable(("frame", "source")[: one.ndim], one).chunk(frame=chunks) for one in given]
    return xr.apply_ufunc(
        clock.times,
        *variables,
        input_core_dims=[list(one.dims[1:]) for one in variables],
        output_core_dims=[["source"]],
        dask="parallelized",
        output_dtypes=[float],
        dask_gufunc_kwargs={"output_sizes": {"source": len(clock.ra)}},
    ).data
