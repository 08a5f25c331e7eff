"""Light curves as tables for other programs: CSV, ECSV and FITS, a file a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from opticam_dask import locations
from opticam_dask.lightcurves.reading import opening
from opticam_dask.lightcurves.reading.columns import CurveArrays
from opticam_dask.lightcurves.reading.tables import as_csv
from opticam_dask.lightcurves.targets import Target, rows_of_sources, source_numbers
from opticam_dask.store.camera import Camera, file_start, group_name
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    from astropy.table import Table

Format = Literal["csv", "ecsv", "fits"]

#: Format of a table by the name that astropy knows it by.
_ASTROPY = {"ecsv": "ascii.ecsv", "fits": "fits"}

#: Formats of the files.
_FORMATS = ("csv", *_ASTROPY)

#: Units of the store in the words of the FITS standard.
_UNITS = {"electron": "electron", "pixel": "pix", "electron pixel-1": "electron / pix", "d": "d"}

#: Columns in order, as far as a photometry has them; those after the first three are of the source.
_OF_FRAME = ("mjd_utc", "bmjd_tdb", "night", "frame_flags")
_OF_SOURCE = (
    *("flux", "flux_err", "flux_err_sys", "aperture_correction", "background", "background_err"),
    *("x", "y", "flags", "upper_limit"),
)


#: Columns of a differential light curve.
_OF_DIFFERENTIAL = ("mjd_utc", "bmjd_tdb", "night", "relative_flux", "relative_flux_err", "flags")


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
    if form not in _FORMATS:
        raise ValueError(f"format must be {', '.join(_FORMATS)}, got {form!r}")
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
            known = store.camera(measured_key).measured_parts(name)[0].photometry(name)["source_id"]
            columns = _columns_of(known, _numbers(out_directory, measured_key, sources), measured_key)
            directory = locations.folder_in(out_directory, "export", name)
            for curves in opening.curves_of_source_groups(out_directory, measured_key, name, columns=columns):
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
    store = Store.open(out_directory)
    for camera in _cameras(store, key):
        for name in camera.differential_names:
            curve = opening.kept_curve(camera, name, lazily=False)
            start = file_start(camera.key, name, store.keys)
            file = locations.file_in(out_directory, "export", "differential", f"{start}.{form}")
            _replace(curve, _OF_DIFFERENTIAL, _differential_meta(curve), file, form)
            written.append(file)
    return written


def _differential_meta(curve: CurveArrays) -> dict[str, object]:
    numbers = " ".join(map(str, curve.attrs["comparisons"]))
    meta = _times_meta(curve) | {"TARGET": curve.attrs["target"], "COMPARIS": numbers}
    return {"CAMERA": curve.attrs["key"], "LABEL": curve.attrs["label"], **meta}


def _cameras(store: Store, key: str | None) -> list[Camera]:
    """Cameras that were asked for."""
    return store.cameras if key is None else [store.camera(key)]


def _numbers(out_directory: str | Path, key: str, sources: Any) -> list[int] | None:
    return None if sources is None else source_numbers(out_directory, key, sources)


def _columns_of(known: np.ndarray, sources: Sequence[int] | None, key: str) -> np.ndarray:
    if sources is None:
        return np.arange(len(known))
    return np.unique(rows_of_sources(known, list(sources), key))


def _export(curves: CurveArrays, directory: Path, form: Format) -> list[Path]:
    written = []
    for position in range(curves.sizes["source"]):
        one = curves.isel(source=position)
        file = directory / f"{group_name(curves.attrs['key'])}_source_{int(one['source_id'].to_numpy())}.{form}"
        _replace(one, (*_OF_FRAME, *_OF_SOURCE), _meta(one), file, form)
        written.append(file)
    return written


def _replace(one: CurveArrays, names: Sequence[str], meta: Mapping[str, object], file: Path, form: Format) -> None:
    """Write a file that is complete or not touched."""
    with locations.replacing(file) as temporary:
        if form == "csv":
            temporary.write_bytes(_csv(one, names))
        else:
            _write(_table(one, names, meta), temporary, form)


def _csv(one: CurveArrays, names: Sequence[str]) -> bytes:
    """Variables as text, where each radius has a column of its own, named as in ``lcs/`` (``flux_r2.5``)."""
    columns: dict[str, np.ndarray] = {}
    for name in names:
        if name in one:
            values = one[name].to_numpy()
            radii = one["radius"].to_numpy().tolist() if values.ndim > 1 else []
            columns |= {f"{name}_r{radius:g}": values[:, place] for place, radius in enumerate(radii)}
            columns |= {} if radii else {name: values}
    cells = (map(str, values.tolist()) for values in columns.values())
    return as_csv([list(columns), *zip(*cells, strict=True)])


def _write(table: Table, file: Path, form: Format) -> None:
    from astropy.io import fits

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


def _table(one: CurveArrays, names: Sequence[str], meta: Mapping[str, object]) -> Table:
    """Variables as a table, with units where they have one; variables of several radii have a second dimension."""
    from astropy import units
    from astropy.table import Column, Table

    table = Table(meta=dict(meta))
    for name in names:
        if name in one:
            values = one[name].to_numpy()
            text = np.array(values.tolist(), dtype=str) if values.dtype.kind in "OT" else values
            column = Column(text, name=name, description=one[name].attrs.get("long_name"))
            if unit := _UNITS.get(one[name].attrs.get("units", "")):
                column.unit = units.Unit(unit)
            table[name] = column
    return table


def _meta(one: CurveArrays) -> dict[str, object]:
    """Header of a table: names of at most eight letters, as FITS has them."""
    own = {"CAMERA": one.attrs["key"], "LABEL": one.attrs["label"], "SOURCE": int(one["source_id"].to_numpy())}
    meta: dict[str, object] = own | _times_meta(one)
    if position := one["bmjd_tdb"].attrs.get("position"):
        meta["TIMEPOS"] = position
    if name := str(one["name"].to_numpy().item() if "name" in one.coords else ""):
        meta["OBJECT"] = name
    if "radius" in one.dims:
        meta["RADII"] = ", ".join(f"{radius:g}" for radius in one["radius"].to_numpy())
    return meta


def _times_meta(one: CurveArrays) -> dict[str, object]:
    """Column of times for timing, and its scale; names of time columns say their scale."""
    has_bmjd = bool(np.isfinite(one["bmjd_tdb"].to_numpy()).any())
    return {
        "TIMESYS": "TDB" if has_bmjd else "UTC",
        "TIMEUNIT": "d",
        "TIMECOL": "bmjd_tdb" if has_bmjd else "mjd_utc",
    }
