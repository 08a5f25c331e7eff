"""Light curves of a camera over all nights, from the groups of the store, lazy or in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.lightcurves.curation.marks import Marks
from opticam_dask.lightcurves.field.conditions import CONDITIONS
from opticam_dask.lightcurves.indexes import plain_attributes
from opticam_dask.lightcurves.placed import with_placed
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray, together
from opticam_dask.lightcurves.source_times import clocks_of, with_source_times
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

#: Bytes of light curves that are read at a time where all of them are needed one after the other.
_BYTES_AT_ONCE = 2**29

#: Coordinates that come from the quality of a night, by their names there.
_QUALITY_COORDINATES = {
    **{name: name for name in ("transparency", "transparency_err", "ellipticity", "airmass", "scintillation")},
    "quality_flags": "flags",
}


def curves_to_read(out_directory: str | Path, key: str, label: str, radius: float | None = None) -> CurveArrays:
    """Light curves of :func:`~opticam_dask.light_curves`, of which some are read at once.

    Without Dask where all of them fit into memory with ease: it takes longer to import than a night to read.
    """
    measured = Store.open(out_directory).camera(key).measured_parts(label)
    is_large = _n_bytes(measured, label) > _BYTES_AT_ONCE
    return curves_of(measured, label, radius, lazily=is_large)


def _n_bytes(parts: Sequence[Part], label: str, names: Collection[str] | None = None) -> int:
    """Bytes in memory of variables of all parts together, while the largest is joined from its parts."""
    of_names = Counter[str]()
    for part in parts:
        group = part.photometry(label)
        for name in group.array_names:
            array = group.array(name)
            if names is None or name in names:
                of_names[name] += math.prod(array.shape) * array.dtype.itemsize
    return of_names.total() + max(of_names.values(), default=0)


def curves_of(measured: Sequence[Part], label: str, radius: float | None = None, *, lazily: bool) -> CurveArrays:
    """Light curves of parts of a camera in time order, with what is known of their nights, marks and placed sources.

    Parameters
    ----------
    measured : sequence of Part
        Parts that have photometry of the label.
    label : str
        Photometry label.
    radius : float, optional
        One of the radii of a label that has several.
    lazily : bool
        As Dask arrays; else each array is read when it is asked for.

    Raises
    ------
    ValueError
        When the label has no such radius.
    """
    nights = _of_all(measured, label, lazily=lazily)
    merged = _in_time_order(_with_quality(measured, _at_source_times(nights, measured, label), lazily=lazily))
    merged = Marks.of(Store(measured[0].path), measured[0].key, label).apply(merged)
    merged = with_placed(merged, measured[0].camera)
    if radius is not None:
        merged = _at_radius(merged, radius, label)
    merged = merged.assign_attrs({"key": measured[0].key, "label": label})
    return merged.with_attrs(plain_attributes(merged.attrs))


def curves_of_source_groups(
    out_directory: str | Path,
    key: str,
    label: str,
    names: Collection[str] | None = None,
    columns: np.ndarray | None = None,
) -> Iterator[CurveArrays]:
    """Light curves of all sources of a camera over all nights, loaded a group of sources at a time.

    For those who need all of them once: every chunk is read by this process, with no Dask task for it.

    Parameters
    ----------
    out_directory, key, label
        Reduction, camera key and photometry label, as :func:`~opticam_dask.light_curves` takes them.
    names : collection of str, optional
        Variables that are read, where the label has them; by default all.
    columns : ndarray of int, optional
        Places of the sources that are wanted along ``source``; by default all.

    Yields
    ------
    CurveArrays
        As from :func:`~opticam_dask.light_curves`, without what is known of whole nights.

    Raises
    ------
    store.StoreError, ValueError
        When the store has no such key or label.
    """
    store = Store.open(out_directory)
    measured = store.camera(key).measured_parts(label)
    marks = Marks.of(store, measured[0].key, label)
    n_sources = measured[0].photometry(label).array("source_id").shape[0]
    at_once = max(1, n_sources * _BYTES_AT_ONCE // max(1, _n_bytes(measured, label, names)))
    for start in range(0, n_sources if columns is None else len(columns), at_once):
        chosen: Any = slice(start, start + at_once)
        chosen = chosen if columns is None else columns[chosen]
        group = _of_all(measured, label, lazily=False, columns=chosen)
        group = [one if names is None else one.only(names) for one in group]
        group = _at_source_times(group, measured, label, chosen)
        curves = with_placed(marks.apply(_in_time_order(group)), measured[0].camera)
        yield curves.assign_attrs({"key": measured[0].key, "label": label})


def kept_curve(camera: Camera, name: str, *, lazily: bool) -> CurveArrays:
    """One differential light curve that is kept in the store, without what has been marked since."""
    curve = opened(camera.differential(name), lazily=lazily)
    coords = [name for name in ("mjd_utc", "bmjd_tdb", "night", *CONDITIONS) if name in curve]
    curve = curve.assign_coords({name: curve[name] for name in coords}).with_attrs(plain_attributes(curve.attrs))
    marks = Marks.of(Store(camera.path), camera.key, str(curve.attrs.get("label", "")))
    return marks.apply_to_relative(curve)


def opened(group: Group, *, lazily: bool, columns: slice | np.ndarray = slice(None)) -> CurveArrays:
    """A group of the store, as Dask arrays if ``lazily``; else of some ``columns`` along ``source``."""
    if lazily:
        import xarray as xr

        try:
            return CurveArrays.of(xr.open_dataset(**group.for_xarray, chunks={}))
        except KeyError as error:
            if "dimension_names" not in str(error):
                raise
            raise StoreError(
                f"{group.path / group.name} holds an array without names of its dimensions, which opticam-dask did not "
                "write. Move that array out of the store, or write it with dimension_names."
            ) from error
    found, sizes = dict[str, NamedArray](), dict[str, int]()
    for name, about in group.described().items():
        dims = tuple(about["dimension_names"])
        chosen = columns if "source" in dims else slice(None)
        sizes.update(zip(dims, about["shape"], strict=True))
        found[name] = NamedArray(dims, _reader(group, name, dims, chosen), about.get("attributes", {}))
    attributes = group.attributes
    coords = tuple(name for name in attributes.pop("coordinates", "").split() if name in found)
    return CurveArrays(found, coords, sizes, attributes)


def _reader(group: Group, name: str, dims: Sequence[str], columns: Any) -> Any:
    if dims[:1] == ("source",):
        return lambda: group.read(name)[columns]
    return lambda: group.read(name, columns=columns)


def _of_all(
    parts: Sequence[Part], label: str, *, lazily: bool, columns: slice | np.ndarray = slice(None)
) -> list[CurveArrays]:
    """Photometry of parts, as Dask arrays if ``lazily``, with what is known of their frames."""
    found = [opened(part.photometry(label), lazily=lazily, columns=columns) for part in parts]
    of_frames = {name: name for name in ("fwhm", "exposure_time")} | {
        "frame_flags": "flags",
        ("frame_background" if any("background" in curves for curves in found) else "background"): "background",
    }
    return [
        _with_frames(part, curves, of_frames, lazily=lazily, columns=columns)
        for part, curves in zip(parts, found, strict=True)
    ]


def _with_frames(
    part: Part, curves: CurveArrays, of_frames: Mapping[str, str], *, lazily: bool, columns: slice | np.ndarray
) -> CurveArrays:
    """Photometry of a part with coordinates from its frames; ``of_frames`` maps their names to those in the store."""
    if "source" in curves.sizes:
        n_chosen = len(np.arange(curves.sizes["source"])[columns])
        curves = curves.with_sizes(source=n_chosen)
    frames = opened(part.frames, lazily=lazily)
    # coordinates are small, and in memory
    own = {name: NamedArray.of(one.dims, one.to_numpy(), one.attrs) for name, one in curves.columns.items()
           if name in curves.coords}  # fmt: skip
    night = np.full(part.n_frames, part.night.split(".")[0], dtype=object)
    own["night"] = NamedArray.of(["frame"], night, {"long_name": "night"})
    return curves.assign_coords(own | {new: frames[old] for new, old in of_frames.items()})


def _with_quality(parts: Sequence[Part], curves: Sequence[CurveArrays], *, lazily: bool) -> list[CurveArrays]:
    """Add the quantities that take all frames of a night, such as transparency; fill values where a night has none."""
    found = [opened(part.quality, lazily=lazily) if part.quality.is_whole else None for part in parts]
    if all(entry is None for entry in found):
        return list(curves)
    return [
        one.assign_coords({new: _quality_of(entry, old, part) for new, old in _QUALITY_COORDINATES.items()})
        for one, entry, part in zip(curves, found, parts, strict=True)
    ]


def _quality_of(found: CurveArrays | None, name: str, part: Part) -> NamedArray:
    if found is not None:
        return found[name]
    entry = schema.variable("quality", name)
    return NamedArray.of(["frame"], np.full(part.n_frames, entry.fill, dtype=entry.dtype), entry.all_attributes())


def _at_source_times(
    curves: Sequence[CurveArrays], parts: Sequence[Part], label: str, columns: slice | np.ndarray = slice(None)
) -> list[CurveArrays]:
    """Light curves of parts with the barycentric times of their sources, which are in some ``columns``."""
    clocks = clocks_of(parts)
    if clocks is None:
        return [with_source_times(one, None) for one in curves]
    rows = np.arange(parts[0].camera.catalog.array("source_id").shape[0])[columns]
    found = []
    for one, part, clock in zip(curves, parts, clocks, strict=True):
        own = clock.of_columns(rows[: one.sizes["source"]])
        is_needed = clock.row_time and "y" not in one
        y = part.photometry(label).read("y", columns=columns) if is_needed else None
        found.append(with_source_times(one, own, y))
    return found


def _in_time_order(nights: list[CurveArrays]) -> CurveArrays:
    order = np.argsort(np.concatenate([one["mjd_utc"].to_numpy() for one in nights]), kind="stable")
    return together(nights, order if np.any(np.diff(order) != 1) else None)


def _at_radius(curves: CurveArrays, radius: float, label: str) -> CurveArrays:
    radii = curves["radius"].to_numpy() if "radius" in curves.dims else np.empty(0)
    same = np.flatnonzero(np.isclose(radii, radius, rtol=1e-6))
    if not len(same):
        has = f"it has {', '.join(f'{value:g}' for value in radii)}" if len(radii) else "it has one aperture"
        raise ValueError(f"no radius {radius:g} in photometry {label!r}: {has}")
    return curves.isel(radius=int(same[0])).assign_attrs({"radius": radius})
