"""Light curves, relative curves, and the durable run of the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.reducer import Reducer
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.cataloged import sources_of
from opticam_dask.api.steps.frames import (
    EVERYTHING,
    FOUND_ONES,
    chain_of,
    placeholders,
    records_over,
    require_same_camera,
)
from opticam_dask.cluster import blocks, connections
from opticam_dask.flags import FrameFlag, flag_attributes
from opticam_dask.lightcurves.differential import compute_relative
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.lightcurves.results import open_reduction
from opticam_dask.methods.frame_view import CatalogFacts
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import parameter_names
from opticam_dask.passes import second_pass
from opticam_dask.passes.second_pass import Photometer


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
    if "coefficient" not in cat or "source_id" not in cat.variables:
        raise ValueError("photometry expected a catalogue: use catalog(stack(ds, ref)) first")
    require_same_camera("photometry", "catalogue", cat, ds)
    if "source" not in cat.dims:
        cat = cat.expand_dims("source")
    if not cat.sizes["source"]:
        raise ValueError("photometry expected at least one source, the selection is empty")
    if getattr(photometer, "radius", None) == "best":
        raise ValueError('photometry expected a radius: "best" is judged by a whole night, which opticam.reduce does')
    everything = cat.encoding.get(EVERYTHING, cat)
    found_ones = cat.encoding.get(FOUND_ONES, everything)
    sources = sources_of(found_ones)
    facts = CatalogFacts(
        sources["catalog_flux"], sources["fwhm"], float(cat.attrs["background_rms"]), sources["profile"]
    )
    prepared = photometer.prepare(facts) if hasattr(photometer, "prepare") else photometer
    numbers = everything["source_id"].to_numpy().tolist()
    rows = np.array([numbers.index(number) for number in cat["source_id"].to_numpy().tolist()], dtype=int)
    with_added = None if everything is found_ones else sources_of(everything)
    task = chains.MeasureTask(chain, "photometry", prepared, sources, rows, with_added)
    records = records_over(task, ds)
    radii = second_pass.measured_radii(photometer)
    steps = chain.steps(placeholders(ds, chain))
    is_common = second_pass.has_common_error(steps, sources["profile_err"])
    names = (*schema.ALWAYS_MEASURED, *second_pass.measured_variables(photometer, has_common_error=is_common))
    kind = "photometry_radii" if radii else "photometry"
    sizes = {"source": len(rows), "radius": len(radii)}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        entry = schema.variable(kind, name)
        shape = tuple(sizes[dim] for dim in entry.dims[1:])
        found[name] = (entry.dims, blocks.picked(records, name, shape, entry.dtype), entry.all_attributes())
    coords: dict[str, Any] = {
        name: ("frame", ds[name].to_numpy(), ds[name].attrs) for name in ("mjd_utc", "bmjd_tdb", "night", "file")
    }
    coords["source_id"] = ("source", cat["source_id"].to_numpy(), cat["source_id"].attrs)
    if "name" in cat.coords:
        coords["name"] = ("source", cat["name"].to_numpy())
    coords["frame_flags"] = ("frame", blocks.picked(records, "frame_flags", (), np.uint32), _frame_flags())
    coords["fwhm"] = (
        "frame",
        blocks.picked(records, "fwhm", (), float),
        schema.variable("frames", "fwhm").all_attributes(),
    )
    if radii:
        coords["radius"] = ("radius", np.array(radii), schema.variable(kind, "radius").all_attributes())
    attributes = {"key": ds.attrs.get("key"), "label": photometer.label}
    if radii:
        attributes["radius_unit"] = getattr(photometer, "radius_unit", "pixel")
    return with_indexes(xr.Dataset(found, coords=coords, attrs=attributes))


def _frame_flags() -> dict[str, Any]:
    return {"units": "1", "long_name": "quality of the frame", **flag_attributes(FrameFlag)}


def relative(
    lc: xr.Dataset,
    target: int,
    comparisons: int | Sequence[int] | Literal["auto"] = "auto",
    **options: Any,
) -> xr.Dataset:
    """Differential light curve from any selection of light curves; it reads the sources that it needs.

    Parameters
    ----------
    lc : Dataset
        Of `photometry` or :func:`~opticam_dask.light_curves`, or a part of them by time, night, source or flag.
    target : int
        Id of the target.
    comparisons : int or sequence of int or "auto"
        Ids of the comparisons.
    **options
        ``weighting``, ``detrend``, ``detrend_without``, ``outliers`` as of
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


def reduce(ds: xr.Dataset, to: str | Path, *photometers: Photometer, client: Any = None, **options: Any) -> xr.DataTree:
    """The durable reduction of the frames of a dataset with the parameters of its steps.

    Parameters
    ----------
    ds : Dataset
        Frames that steps have been through, or just opened ones; they are read from their files again.
    to : path
        Output directory.
    *photometers : Photometer
        By default `AperturePhotometer`.
    client : Client or str, optional
        As of :class:`~opticam_dask.Reducer`; by default the ``Client`` that you have connected, if there is one.
    **options
        Further arguments of :class:`~opticam_dask.Reducer`.

    Returns
    -------
    DataTree
        The reduction, opened.

    Raises
    ------
    ValueError
        When the frames are not from files, or calibrated with master frames: the Reducer takes their directories.
    """
    chain = chain_of(ds, 0, "reduce")
    if chain.masters:
        raise ValueError(
            "reduce expected frames without masters: give Reducer the directories of biases, darks and flats"
        )
    chosen = chain.parameters
    usual = type(chosen)()
    given = {name: value for name in parameter_names() if (value := getattr(chosen, name)) != getattr(usual, name)}
    if chain.setup.image_filter is not None:
        given["image_filter"] = chain.setup.image_filter
    reducer = Reducer(
        to,
        list(ds["file"].to_numpy()),
        instrument=chain.setup.instrument,
        background=chain.setup.background,
        finder=chain.setup.finder,
        client=connections.current_client() if client is None else client,
        **{**given, **options},
    )
    reducer.create_catalogs()
    reducer.photometry(list(photometers) or [AperturePhotometer()])
    return open_reduction(to)
