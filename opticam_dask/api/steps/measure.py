"""Photometry of the sources of a catalogue in every frame of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.catalog import profiles_of, sources_of
from opticam_dask.api.steps.frames import (
    EVERYTHING,
    STAGES,
    chain_of,
    placeholders,
    records_of_aligned,
    require_same_camera,
    require_same_reference,
)
from opticam_dask.cluster import blocks
from opticam_dask.flags import FrameFlag, flag_attributes
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.methods.frame_view import CatalogFacts, Photometer
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.steps.measure import has_common_error, measured_radii, measured_variables


def photometry(ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer | None = None) -> xr.Dataset:
    """Light curves of the sources of a catalogue.

    Parameters
    ----------
    ds : Dataset
        Of `align`; a part of the frames (``ds.sel(time=...)``) gives the same numbers as all of them.
    cat : Dataset
        Of `catalog`; a part of the sources (``cat.sel(source=[2, 3])``) gives the same numbers as all of them.
    photometer : Photometer, optional
        By default `AperturePhotometer`.

    Returns
    -------
    Dataset
        ``flux``, ``flux_err``, ``x``, ``y``, ``flags`` and what else the photometer measures, dims (frame, source) or
        (frame, source, radius); ``time`` and ``source`` are indexes.

    Raises
    ------
    ValueError
        When the frames are not aligned, the catalogue is of another camera or empty, or a radius is to be chosen.
    """
    chain = chain_of(ds, chains.ALIGNED, "photometry")
    photometer = AperturePhotometer() if photometer is None else photometer
    _check(ds, cat, photometer)
    if "source" not in cat.dims:
        cat = cat.expand_dims("source")
    everything = cat.encoding.get(EVERYTHING, cat)
    stages = cat.encoding.get(STAGES, (everything.sizes["source"],))
    sources = sources_of(everything) | {"stages": stages}
    found_flux = sources["catalog_flux"][: stages[0]]
    facts = CatalogFacts(found_flux, sources["fwhm"], float(cat.attrs["background_rms"]), sources["profile"].usual)
    prepared = photometer.prepare(facts) if hasattr(photometer, "prepare") else photometer
    numbers = everything["source_id"].to_numpy().tolist()
    rows = np.array([numbers.index(number) for number in cat["source_id"].to_numpy().tolist()], dtype=int)
    profiles, number = profiles_of(everything, ds)
    task = tasks.MeasureTask(chain, "photometry", prepared, sources, rows, profiles)
    records = records_of_aligned(task, ds, profile=number)
    steps = chain.steps(placeholders(ds, chain))
    is_common = any(has_common_error(steps, profiles[one]["profile_err"]) for one in set(number.tolist()))
    return _labelled(records, ds, cat, photometer, measured_variables(photometer, has_common_error=is_common))


def _check(ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer) -> None:
    """Refuse what cannot be measured."""
    if "coefficient" not in cat or "source_id" not in cat.variables:
        raise ValueError("photometry expected a catalogue: use catalog(stack(ds, ref)) first")
    require_same_camera("photometry", "catalogue", cat, ds)
    require_same_reference("photometry", cat, ds)
    if not cat.sizes.get("source", 1):
        raise ValueError("photometry expected at least one source, the selection is empty")
    if getattr(photometer, "radius", None) == "best":
        raise ValueError('photometry expected a radius: "best" is judged by a whole night, which opticam.reduce does')


def _labelled(
    records: Any, ds: xr.Dataset, cat: xr.Dataset, photometer: Photometer, further: Sequence[str]
) -> xr.Dataset:
    """Light curves from the records of the tasks, with what is known of their frames and sources."""
    radii = measured_radii(photometer)
    kind = "photometry_radii" if radii else "photometry"
    sizes = {"source": cat.sizes["source"], "radius": len(radii)}
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*schema.ALWAYS_MEASURED, *further)):
        entry = schema.variable(kind, name)
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        found[name] = (entry.dims, blocks.picked(records, name, shape, entry.dtype), entry.all_attributes())
    of_frames = ("mjd_utc", "bmjd_tdb", "night", "file", "exposure_time")
    coords: dict[str, Any] = {name: ("frame", ds[name].to_numpy(), ds[name].attrs) for name in of_frames}
    coords["source_id"] = ("source", cat["source_id"].to_numpy(), cat["source_id"].attrs)
    if "name" in cat.coords:
        coords["name"] = ("source", cat["name"].to_numpy())
    coords["frame_flags"] = ("frame", blocks.picked(records, "frame_flags", (), np.uint32), _frame_flags())
    of_fwhm = schema.variable("frames", "fwhm").all_attributes()
    coords["fwhm"] = ("frame", blocks.picked(records, "fwhm", (), float), of_fwhm)
    attributes = {"key": ds.attrs.get("key"), "label": photometer.label}
    if radii:
        coords["radius"] = ("radius", np.array(radii), schema.variable(kind, "radius").all_attributes())
        attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
    return with_indexes(xr.Dataset(found, coords=coords, attrs=attributes))


def _frame_flags() -> dict[str, Any]:
    return {"units": "1", "long_name": "quality of the frame", **flag_attributes(FrameFlag)}
