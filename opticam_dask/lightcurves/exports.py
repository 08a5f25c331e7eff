"""Light curves as tables for other programs: CSV, ECSV and FITS, a file a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy import units
from astropy.io import fits
from astropy.table import Column, Table

from opticam_dask import locations
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.targets import Target, rows_of_sources, source_numbers
from opticam_dask.store.camera import Camera, group_name
from opticam_dask.store.store import Store

Format = Literal["csv", "ecsv", "fits"]

#: Format of a table by the name that astropy knows it by.
_ASTROPY = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits"}

#: Units of the store in the words of the FITS standard.
_UNITS = {"electron": "electron", "pixel": "pix", "electron pixel-1": "electron / pix", "d": "d"}

#: Columns in order, as far as a photometry has them; those after the first three are of the source.
_OF_FRAME = ("mjd_utc", "bmjd_tdb", "night", "frame_flags")
_OF_SOURCE = (
    *("flux", "flux_err", "flux_err_sys", "aperture_correction", "background", "background_err"),
    *("x", "y", "flags", "upper_limit"),
)


def export_light_curves(
    out_directory: str | Path,
    form: Format,
    *,
    key: str | None = None,
    label: str | None = None,
    sources: Target | Sequence[Target] | None = None,
) -> list[Path]:
    """Write ``export/<label>/<key>_source_<N>.<form>``: every measurement of every frame, with units.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    form : {"csv", "ecsv", "fits"}
        Format of the files.
    key : str, optional
        Camera key such as ``1:g`` (``1-g`` works as well); by default all.
    label : str, optional
        Photometry label; by default all that the cameras have.
    sources : int or str, or sequence of them, optional
        Numbers of sources in the catalogue, names or places; by default all.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        When the format, key, label or a source does not exist; the message names those that do.
    """
    if form not in _ASTROPY:
        raise ValueError(f"format must be {', '.join(_ASTROPY)}, got {form!r}")
    store = Store.open(out_directory)
    cameras = _cameras(store, key)
    labels = [label] if label else sorted({name for camera in cameras for name in camera.labels})
    if not labels:
        raise ValueError(f"there is no photometry {f'of {key} ' if key else ''}in {out_directory}")
    written = []
    for name in labels:
        # without any, the first camera says which labels it has
        measured = [camera.key for camera in cameras if name in camera.labels]
        for measured_key in measured or [camera.key for camera in cameras]:
            columns = _columns_of(
                results.light_curves_to_read(out_directory, measured_key, name),
                _numbers(out_directory, measured_key, sources),
            )
            directory = locations.folder_in(out_directory, "export", name)
            for curves in results.source_groups(out_directory, measured_key, name, columns=columns):
                written += _export(curves, directory, form)
    return written


def export_differential(out_directory: str | Path, form: Format, *, key: str | None = None) -> list[Path]:
    """Write ``export/differential/<key>_<name>.<form>``: the differential light curves that are kept in the store.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    form : {"csv", "ecsv", "fits"}
        Format of the files.
    key : str, optional
        Camera key such as ``1:g`` (``1-g`` works as well); by default all.

    Returns
    -------
    list of Path
        Empty when none is kept.

    Raises
    ------
    ValueError
        When there is no such key.
    """
    written = []
    for camera in _cameras(Store.open(out_directory), key):
        for name, curve in results.kept_curves(camera, lazily=False).items():
            file = locations.file_in(out_directory, "export", "differential", f"{camera.name}_{name}.{form}")
            _replace(_differential_table(curve.load()), file, form)
            written.append(file)
    return written


def _differential_table(curve: xr.Dataset) -> Table:
    numbers = " ".join(map(str, curve.attrs["comparisons"]))
    meta = _times_meta(curve) | {"TARGET": curve.attrs["target"], "COMPARIS": numbers}
    table = Table(meta={"CAMERA": curve.attrs["key"], "LABEL": curve.attrs["label"], **meta})
    _add_columns(table, curve, ("mjd_utc", "bmjd_tdb", "night", "relative_flux", "relative_flux_err", "flags"))
    return table


def _cameras(store: Store, key: str | None) -> list[Camera]:
    """Cameras that were asked for."""
    return store.cameras if key is None else [store.camera(key)]


def _numbers(out_directory: str | Path, key: str, sources: Any) -> list[int] | None:
    return None if sources is None else source_numbers(out_directory, key, sources)


def _columns_of(curves: xr.Dataset, sources: Sequence[int] | None) -> np.ndarray:
    known = curves["source_id"].to_numpy()
    if sources is None:
        return np.arange(len(known))
    return np.unique(rows_of_sources(known, list(sources), curves.attrs["key"]))


def _export(curves: xr.Dataset, directory: Path, form: Format) -> list[Path]:
    written = []
    for position in range(curves.sizes["source"]):
        one = curves.isel(source=position)
        file = directory / f"{group_name(curves.attrs['key'])}_source_{int(one['source_id'])}.{form}"
        table = light_curve_table(one)
        _replace(_without_vectors(table, one) if form == "csv" else table, file, form)
        written.append(file)
    return written


def _without_vectors(table: Table, one: xr.Dataset) -> Table:
    """Table in which each radius of a column has a column of its own, named as in ``lcs/`` (``flux_r2.5``)."""
    flat = Table(meta=table.meta)
    for name in table.colnames:
        if table[name].ndim == 1:
            flat[name] = table[name]
        else:
            for number, radius in enumerate(one["radius"].to_numpy()):
                flat[f"{name}_r{radius:g}"] = table[name][:, number]
    return flat


def _replace(table: Table, file: Path, form: Format) -> None:
    """Write a file that is complete or not touched."""
    with locations.replacing(file) as temporary:
        _write(table, temporary, form)


def _write(table: Table, file: Path, form: Format) -> None:
    if form != "fits":
        table.write(file, format=_ASTROPY[form], overwrite=True)
        return
    names = {name: str(table[name].unit) for name in table.colnames if table[name].unit is not None}
    bare = table.copy(copy_data=False)
    for name in names:
        bare[name].unit = None
    hdu = fits.table_to_hdu(bare)
    for name, unit in names.items():
        # as the archives of Kepler and TESS have it: the FITS standard knows no electrons
        hdu.columns[name].unit = unit
    hdu.writeto(file, overwrite=True)


def light_curve_table(one: xr.Dataset) -> Table:
    """Light curve of one source as an astropy table with units.

    Parameters
    ----------
    one : xarray.Dataset
        One source of :func:`results.light_curves`, loaded; with several radii their columns have a second dimension.

    Returns
    -------
    astropy.table.Table
        Times are MJD: ``mjd_utc`` (UTC, mid-exposure at the observatory) and ``bmjd_tdb`` (TDB, at the barycentre).
    """
    table = Table(meta=_meta(one))
    _add_columns(table, one, (*_OF_FRAME, *_OF_SOURCE))
    return table


def _add_columns(table: Table, one: xr.Dataset, names: Sequence[str]) -> None:
    """Add variables of a dataset to a table, as far as it has them."""
    for name in names:
        if name in one.variables:
            values = one[name].to_numpy()
            text = np.array(values.tolist(), dtype=str) if values.dtype.kind in "OT" else values
            column = Column(text, name=name, description=one[name].attrs.get("long_name"))
            if unit := _UNITS.get(one[name].attrs.get("units", "")):
                column.unit = units.Unit(unit)
            table[name] = column


def _meta(one: xr.Dataset) -> dict[str, object]:
    """Header of a table: names of at most eight letters, as FITS has them."""
    own = {"CAMERA": one.attrs["key"], "LABEL": one.attrs["label"], "SOURCE": int(one["source_id"])}
    meta: dict[str, object] = own | _times_meta(one)
    if position := one["bmjd_tdb"].attrs.get("position"):
        meta["TIMEPOS"] = position
    if name := str(one["name"].item() if "name" in one.coords else ""):
        meta["OBJECT"] = name
    if "radius" in one.dims:
        meta["RADII"] = ", ".join(f"{radius:g}" for radius in one["radius"].to_numpy())
    return meta


def _times_meta(one: xr.Dataset) -> dict[str, object]:
    """The column that is meant for timing, and its scale; the names of both time columns say theirs."""
    has_bmjd = bool(np.isfinite(one["bmjd_tdb"]).any())
    return {
        "TIMESYS": "TDB" if has_bmjd else "UTC",
        "TIMEUNIT": "d",
        "TIMECOL": "bmjd_tdb" if has_bmjd else "mjd_utc",
    }
