"""Open raw frames and reductions as lazy xarray objects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from opticam_dask import text
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.lightcurves import selection
from opticam_dask.lightcurves.indexes import pixel_coordinates, times_of
from opticam_dask.lightcurves.reading import opening
from opticam_dask.store.groups import xarray_options
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from opticam_dask.frames import scanning

logger = logging.getLogger(__name__)

#: Part of a dataset by time, night, source and flag; importing it puts ``.opticam`` on every dataset.
select = selection.select

_FRAME_COORDINATES = {
    "file": "1",
    "mjd_utc": "d",
    "exposure_time": "s",
    "gain": "electron adu-1",
    "dark_current": "electron pixel-1 s-1",
    "airmass": "1",
    "night": "1",
}


def open_observations(
    data_directory: str | Path | Sequence[str | Path],
    *,
    instrument: Instrument | None = None,
    frames_per_chunk: int = 1,
) -> dict[str, xr.DataArray]:
    """Open the frames of a directory lazily: headers are read now, pixels when they are asked for.

    Parameters
    ----------
    data_directory : path or URL, or sequence of them
        Directories (searched with everything below them) or files, of this machine or remote (``s3://...``).
    instrument : Instrument, optional
        What the headers mean; by default ``OPTICAM_MX``.
    frames_per_chunk : int
        Frames in one chunk.

    Returns
    -------
    dict of DataArray
        By camera key such as ``1:g``, each with dims ``(frame, y, x)`` in ADU, in time order, with coordinates
        along ``frame``, among them the index ``time``. Frames of another shape than most of their key are left out,
        with a warning in the log.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    ValueError
        When there is no usable frame.
    """
    from opticam_dask.cluster import blocks

    return {
        key: xr.DataArray(
            blocks.lazy_frames(one.files, one.reader, one.shape, one.dtype, frames_per_chunk),
            dims=("frame", "y", "x"),
            coords=one.coordinates | pixel_coordinates(one.shape),
            attrs=one.attributes,
            name=key,
        ).set_xindex("time")
        for key, one in observed_cameras(data_directory, instrument).items()
    }


@dataclass(frozen=True)
class ObservedCamera:
    """Frames of one camera key before a reduction, in time order.

    Attributes
    ----------
    files : list of str
        Paths of the frames.
    reader : FitsReader
        Reads the frames.
    shape : (int, int)
        Shape ``(ny, nx)`` of a frame.
    dtype : dtype
        Type of its pixels.
    coordinates : dict
        Along ``frame``, as xarray takes them.
    attributes : dict
        units, key, camera, filter, binning, instrument.
    """

    files: list[str]
    reader: scanning.FitsReader
    shape: tuple[int, int]
    dtype: np.dtype
    coordinates: dict[str, Any]
    attributes: dict[str, Any]


def table_of_frames(data_directory: str | Path | Sequence[str | Path], instrument: Instrument) -> pd.DataFrame:
    """The usable frames of a directory, a row a frame.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    ValueError
        When no frame is usable.
    """
    from opticam_dask.frames import scanning

    paths = [data_directory] if isinstance(data_directory, (str, Path)) else list(data_directory)
    scan = scanning.scan(scanning.find_files(paths), instrument)
    if not len(scan.table):
        told = f"no usable frame in {', '.join(map(str, paths))}, {len(scan.set_aside)} file(s) cannot be used"
        raise ValueError(f"{told}. {text.reasons(scan.set_aside)}".strip())
    return scan.table


def observed_cameras(
    data_directory: str | Path | Sequence[str | Path], instrument: Instrument | None = None
) -> dict[str, ObservedCamera]:
    """Frames of a directory by camera key, from their headers; see :func:`open_observations`."""
    from opticam_dask.frames import scanning

    instrument = instrument or OPTICAM_MX()
    found = {}
    for key, rows in table_of_frames(data_directory, instrument).groupby("key", sort=True):
        shape, main = max(rows.groupby(["ny", "nx"]), key=lambda group: len(group[1]))
        if len(main) < len(rows):
            logger.warning("%s: %d frames of another shape than %s are left out", key, len(rows) - len(main), shape)
        first = main.iloc[0]
        attributes = {"units": "adu", "key": key, "camera": first["camera"], "filter": first["filter"]}
        attributes |= {"binning": int(first["binning"]), "instrument": instrument.name}
        found[str(key)] = ObservedCamera(
            files=main["file"].tolist(),
            reader=scanning.reader_of(instrument),
            shape=(int(shape[0]), int(shape[1])),
            dtype=_common_type(main["dtype"]),
            coordinates={
                name: ("frame", main[name].to_numpy(), {"units": unit}) for name, unit in _FRAME_COORDINATES.items()
            }
            | {"time": ("frame", times_of(main["mjd_utc"].to_numpy()), {"long_name": "time of mid-exposure, UTC"})},
            attributes=attributes,
        )
    return found


def _common_type(names: Sequence[str]) -> np.dtype:
    return np.result_type(*(np.dtype(name) for name in sorted(set(names))))


def open_reduction(out_directory: str | Path) -> xr.DataTree:
    """Open everything that a reduction has found, lazily.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.

    Returns
    -------
    xarray.DataTree
        One branch a camera key (``1-g``), in it ``reference``, ``catalog`` and one branch a night.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    store = Store.open(out_directory)
    return xr.open_datatree(str(store.path), consolidated=store.is_consolidated, **xarray_options(store.path))


def light_curves(
    out_directory: str | Path,
    key: str,
    label: str = "aperture",
    *,
    radius: float | None = None,
    scintillation: bool = False,
) -> xr.Dataset:
    """Fluxes of all catalogue sources of a camera over all nights, lazily, in time order.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g`` (``1-g`` works as well).
    label : str
        Photometry label.
    radius : float, optional
        One of the radii of a label that has several.
    scintillation : bool
        Add the scintillation expected for telescope, site, exposure time and airmass (Osborn et al. 2015) to
        ``flux_err`` in quadrature. It is not the same in all stars of a field, so that comparison stars do not take it
        away; it is a median of many nights. The error is NaN in frames of unknown airmass.

    Returns
    -------
    xarray.Dataset
        Dims ``(frame, source)``, with several radii also ``radius``; variables flux, flux_err, x, y, flags, and what
        else the photometer measured; coordinates mjd_utc, bmjd_tdb, night, frame_flags, fwhm, exposure_time and
        background (``frame_background`` where the label has a local background of its own) along ``frame``, source_id
        along ``source``. Where the sources are found on the sky, ``bmjd_tdb`` is that of each of them
        (``(frame, source)``), else that of the pointing; its attribute ``position`` says which. ``time`` (datetime64,
        UTC, mid-exposure) and ``source``, the number of the source in the catalogue, are indexes: ``sel(source=2)`` is
        the source whose id is 2. Where the observer placed sources there are ``is_placed`` and ``name`` along
        ``source``, and ``upper_limit`` beside the flux of every source: 3 sigma, where there is no light. Once a night
        is measured there are also transparency, transparency_err, ellipticity, airmass, scintillation and quality_flags
        along ``frame``; NaN and 0 in nights that have none. What observers have marked as cloud or junk has no flux
        (NaN) and a bit in ``marks`` (:func:`~opticam_dask.mark`).

    Raises
    ------
    store.StoreError
        When there is no store.
    ValueError
        When the store has no such key, label or radius (the message names those it has), or scintillation is asked
        for and not known in any frame.
    """
    measured = Store.open(out_directory).camera(key).measured_parts(label)
    curves = opening.curves_of(measured, label, radius, lazily=True).to_xarray()
    return _with_scintillation(curves, f"{measured[0].key} in {measured[0].path}") if scintillation else curves


def differential_light_curves(out_directory: str | Path, key: str) -> dict[str, xr.Dataset]:
    """Differential light curves that are kept in the store, by name.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    key : str
        Camera key such as ``1:g``.

    Returns
    -------
    dict of Dataset
        As from :func:`~opticam_dask.relative_light_curve`, lazily; empty when none is kept. They are made again when
        marks change; those of older versions, which do not say how (``made_with``), are without what was marked since.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    camera = Store.open(out_directory).camera(key)
    return {name: opening.kept_curve(camera, name, lazily=True).to_xarray() for name in camera.differential_names}


def _with_scintillation(curves: xr.Dataset, where: str) -> xr.Dataset:
    """Light curves with the expected scintillation in their errors."""
    if "scintillation" not in curves.coords or not np.isfinite(curves["scintillation"]).any():
        raise ValueError(
            f"the scintillation of {where} is not known: it needs photometry by this version, the position of the "
            "field, and an instrument with longitude, latitude and diameter"
        )
    error = xr.apply_ufunc(np.hypot, curves["flux_err"], curves["scintillation"] * curves["flux"], dask="allowed")
    attributes = curves["flux_err"].attrs | {"long_name": "1-sigma error of the flux, with the expected scintillation"}
    return curves.assign(flux_err=error.transpose(*curves["flux_err"].dims).assign_attrs(attributes))
