"""Files for people, beside the store: catalogues, light curves, and the plots of a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opticam_dask import locations, schema
from opticam_dask.display import plotting
from opticam_dask.display.drawn import has_mark, keep_drawn, mark_of
from opticam_dask.lightcurves.reading.columns import CurveArrays, along, together
from opticam_dask.lightcurves.reading.opening import opened
from opticam_dask.locations import file_in
from opticam_dask.store.camera import Camera, Part, group_name
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import QTable

    from opticam_dask.display.plotting import Figure

#: What the plots of frames show.
_PLOTTED = ("mjd_utc", "bmjd_tdb", "background", "background_rms", "transform", "transform_rms", "fwhm", "flags")


def catalog_table(out_directory: str | Path, key: str) -> QTable:
    """Catalogue of a key as an astropy table with units.

    Raises
    ------
    ValueError
        When the key has no catalogue.
    """
    from astropy.table import QTable

    arrays = Store.open(out_directory).camera(key).whole_catalog().read_all()
    table = QTable(meta={"key": key})
    for entry in (*schema.CATALOG, *schema.PLACED, *schema.SKY):
        if entry.name not in arrays or entry.dims != ("source",):
            continue
        values = arrays[entry.name]
        table[entry.name] = values.astype(str) if entry.dtype == "str" else values
        table[entry.name].info.description = entry.long_name
        if entry.units != "1":
            table[entry.name].unit = entry.units.replace("pixel", "pix")
    for column, band in enumerate(arrays.get("band", ())):
        table[f"magnitude_{band}"] = arrays["magnitude"][:, column]
        table[f"magnitude_{band}"].unit = "mag"
    return table


def write_catalogs(out_directory: str | Path) -> list[Path]:
    """Write ``cat/<key>_catalog.ecsv`` for every key that has a catalogue."""
    written = []
    for camera in Store.open(out_directory).cameras:
        if camera.catalog.is_whole:
            file = file_in(out_directory, "cat", f"{camera.name}_catalog.ecsv")
            mark = mark_of(camera.catalog.read_all())
            if not has_mark(file, mark):
                table = catalog_table(out_directory, camera.key)
                table.meta["made_from"] = mark
                with locations.replacing(file) as temporary:
                    table.write(temporary, format="ascii.ecsv", overwrite=True)
            written.append(file)
    return written


def plot_header_times(out_directory: str | Path, times: Mapping[str, np.ndarray], *, show: bool = False) -> Path:
    """Write ``diag/header_times.pdf``."""
    file = file_in(out_directory, "diag", "header_times.pdf")
    return keep_drawn(file, lambda shown: plotting.plot_header_times(shown), dict(times), show=show)


def plot_catalogs(out_directory: str | Path, *, show: bool = False) -> Path | None:
    """Write ``cat/catalogs.pdf``: the stacks with the sources of the catalogues."""
    panels = {
        camera.key: (
            camera.reference["image"],
            along("source", {name: camera.catalog[name] for name in ("source_id", "x", "y", "fwhm")}),
        )
        for camera in Store.open(out_directory).cameras
        if camera.catalog.is_whole
    }
    if not panels:
        return None
    file = file_in(out_directory, "cat", "catalogs.pdf")
    return keep_drawn(file, lambda shown: plotting.plot_catalogs(shown), panels, show=show)


def plot_frames(
    out_directory: str | Path, names: Collection[str] = ("background", "alignment"), *, show: bool = False
) -> list[Path]:
    """Write ``diag/background.pdf`` and ``diag/alignment.pdf``, or one of them."""
    cameras = Store.open(out_directory).cameras
    of_key = {camera.key: frames_of(camera, names=_PLOTTED) for camera in cameras if camera.parts}
    if not of_key:
        return []
    # matplotlib is imported by what is drawn, if anything is
    figures: dict[str, Callable[..., Figure]] = {
        "background": lambda shown: plotting.plot_background(shown),
        "alignment": lambda shown: plotting.plot_alignment(shown),
    }
    return [
        keep_drawn(file_in(out_directory, "diag", f"{name}.pdf"), figures[name], of_key, show=show) for name in names
    ]


def plot_relative_light_curve(
    out_directory: str | Path, curves: Mapping[str, xr.Dataset | CurveArrays], prefix: str, *, show: bool = False
) -> Path:
    """Write ``relative_light_curves/<label>/<prefix>_<keys>_light_curve.pdf``."""
    label = next(iter(curves.values())).attrs["label"]
    keys = "_".join(group_name(key) for key in curves)
    file = file_in(out_directory, "relative_light_curves", label, f"{prefix}_{keys}_light_curve.pdf")
    return _save(plotting.plot_relative_light_curve(dict(curves)), file, show=show)


def plot_comparisons(out_directory: str | Path, curve: xr.Dataset, prefix: str, *, show: bool = False) -> Path:
    """Write ``relative_light_curves/<label>/diag/<prefix>_<key>_comparisons.pdf``.

    The target against each comparison, and each comparison against the sum of the others.
    """
    from opticam_dask.lightcurves import results

    key, label = curve.attrs["key"], curve.attrs["label"]
    curves = results.light_curves(out_directory, key, label, radius=curve.attrs.get("radius"))
    numbers = [curve.attrs["target"], *curve.attrs["comparisons"]]
    known = curves["source_id"].to_numpy().tolist()
    members = curves[["flux", "flux_err"]].isel(source=[known.index(number) for number in numbers]).load()
    file = file_in(out_directory, "relative_light_curves", label, "diag", f"{prefix}_{group_name(key)}_comparisons.pdf")
    return _save(plotting.plot_comparisons(members.assign_attrs(key=key)), file, show=show)


def plot_fit(out_directory: str | Path, fit: xr.Dataset, name: str) -> Path:
    """Write ``fits/<name>_<shape>.pdf``: the light curves without their baselines, the model, and the residuals."""
    file = file_in(out_directory, "fits", f"{name}_{fit.attrs['shape']}.pdf")
    return _save(plotting.plot_fit(fit), file, show=False)


def frames_of(camera: Camera, *, names: Collection[str] | None = None, with_quality: bool = False) -> CurveArrays:
    """Records of all frames of a key, in time order, without the file names.

    Parameters
    ----------
    camera : Camera
        The camera in the store.
    names : collection of str, optional
        Variables that are read, beside the times; by default all.
    with_quality : bool
        Also what was found out from all frames of a night together, where it is there.
    """
    read = [_read_frames(part, names, with_quality) for part in camera.parts]
    times = np.concatenate([frames["mjd_utc"].to_numpy() for frames in read])
    return together(read, np.argsort(times, kind="stable"))


def _read_frames(part: Part, names: Collection[str] | None, with_quality: bool) -> CurveArrays:
    frames = opened(part.frames, lazily=False)
    frames = frames.only(set(frames if names is None else names) - {"file", "message"})
    if not with_quality or not part.quality.directory.is_dir():
        return frames
    quality = opened(part.quality, lazily=False)
    # flags of both have the same name: those of the first pass say whether a frame is usable; the airmass of the
    # header gives way to the computed one
    return frames.assign(**{name: quality[name] for name in quality if name != "flags"})


def _save(figure: Figure, file: Path, *, show: bool) -> Path:
    plotting.save_figure(figure, file)
    if show:
        plotting.show_in_notebook(figure)
    return file
