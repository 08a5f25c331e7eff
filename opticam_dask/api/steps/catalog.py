"""Catalogues of sources: made from a stack, opened from a reduction, or extended by the user's own positions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.chains import Chain
from opticam_dask.api.steps.frames import (
    CHAIN,
    EVERYTHING,
    STAGES,
    chain_of,
    kept_records,
    logger,
    records_of_aligned,
    reference_star,
    require_same_camera,
)
from opticam_dask.api.steps.persist import computed_and_kept
from opticam_dask.api.steps.stack import median_of
from opticam_dask.cluster import blocks
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.kernels.sources.profiles.profile import Profile, coefficients_of, gaussian_profile
from opticam_dask.kernels.sources.profiles.sampling import sampling_errors
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.passes import catalog as catalog_pass
from opticam_dask.passes import star_profiles
from opticam_dask.pipeline import frozen
from opticam_dask.store.camera import Camera
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store


def catalog(
    deep: xr.Dataset, *, frames: xr.Dataset | None = None, aperture_selector: Callable[[np.ndarray], float] = np.median
) -> xr.Dataset:
    """Sources of a stack, and the star profile of its frames; computed at once, as their number must be known.

    Parameters
    ----------
    deep : Dataset
        Of `stack`.
    frames : Dataset, optional
        Aligned frames whose bright stars give the star profile; by default those that were stacked.
    aperture_selector : callable
        Chooses the FWHM of the catalogue from those of its brightest stars.

    Returns
    -------
    Dataset
        Along ``source``, an index that holds the source id: ``x``, ``y`` on the reference frame, ``flux``, ``fwhm``,
        ...; along ``component`` the star profile, ``coefficient``.

    Raises
    ------
    ValueError
        When this is no stack, or there is nothing above the threshold.
    """
    chain = deep.encoding.get(CHAIN)
    if "coverage" not in deep or not isinstance(chain, Chain):
        raise ValueError("catalog expected a stack that was not stored in between: use stack(ds, ref) first")
    stacked = deep.encoding.get("opticam_frames")
    frames = stacked if frames is None else frames
    if frames is not None:
        chain_of(frames, chains.ALIGNED, "catalog")
        require_same_camera("catalog", "set of frames", frames, deep)
    names = ("image", "coverage", "frame_rms", "transform", "stack_facts")
    image, coverage, rms, transforms, facts = computed_and_kept(stacked, *(deep[name].data for name in names))
    known = transforms[np.isfinite(transforms).all(axis=(1, 2))]
    seeing, saturation, sharpest, stack_rms = (float(fact) for fact in facts)
    night = catalog_pass.StackedNight(image, coverage, np.array([stack_rms]), seeing, known, saturation, sharpest)
    steps = chain.setup.steps(chain.shape, chain.binning)
    try:
        found = catalog_pass.make_catalog(night, steps, chain.parameters.max_catalog_sources, aperture_selector)
    except catalog_pass.NoCatalog as error:
        raise ValueError(f"no catalogue of {deep.attrs.get('key')}: {error}") from error
    for line in (*found.warnings, *found.left_out):
        logger.warning("%s: %s", deep.attrs.get("key"), line)
    arrays = {
        name: (entry.dims, values, entry.all_attributes())
        for name, values in found.arrays.items()
        if (entry := schema.variable("catalog", name))
    }
    dataset = xr.Dataset(arrays, attrs={"key": deep.attrs.get("key"), "fwhm": found.fwhm, "fwhm_units": "pixel"})
    dataset = dataset.set_coords("source_id").assign_attrs(background_rms=median_of(rms))
    if stacked is not None and (star := reference_star(stacked)) is not None:
        dataset = dataset.assign_attrs(reference_star=star)
    dataset = with_indexes(dataset)
    fitted = gaussian_profile() if frames is None else _fit_profile(frames, dataset)
    return _remembering(_with_profile(dataset, fitted))


def _with_profile(cat: xr.Dataset, fitted: Profile) -> xr.Dataset:
    entry = schema.variable("psf", "coefficient")
    cat = cat.assign(coefficient=(entry.dims, fitted.coefficients, entry.all_attributes()))
    return cat.assign_attrs(pixel_area=fitted.pixel_area, total_err=fitted.total_err)


def _remembering(cat: xr.Dataset, stages: Sequence[int] = ()) -> xr.Dataset:
    """A catalogue of which every part knows all sources: neighbours matter also where they are not measured."""
    result = cat.copy()
    result.encoding = {EVERYTHING: cat} | ({STAGES: tuple(stages)} if stages else {})
    return result


def _fit_profile(ds: xr.Dataset, cat: xr.Dataset) -> Profile:
    """Star profile of some frames, in two rounds as in a reduction."""
    chain = chain_of(ds, chains.ALIGNED, "catalog")
    records = kept_records(ds)
    flags = ds["flags"].data if records is None else blocks.picked(records, "flags", (), np.uint32)
    known = np.asarray(blocks.computed(flags)[0])
    chosen = np.array(star_profiles.choose_frames(known, chain.parameters.stack_frames), dtype=int)
    fitted: Profile | None = None
    for frames in (np.array(star_profiles.some_of(chosen.tolist()), dtype=int), chosen):
        if not len(frames):
            break
        sources = sources_of(_with_profile(cat, fitted or gaussian_profile()))
        task = tasks.RingsTask(chain, "profile", sources=sources, has_profile=fitted is not None)
        records = records_of_aligned(task, ds.isel(frame=frames), index=frames)
        (found,) = blocks.computed(blocks.gathered(records, tasks.join, _itself))
        rings = {index: rings for index, (_, rings) in found.ravel()[0].items()}
        fitted = star_profiles.fit(rings)
        if fitted is None:
            break
    if fitted is None:
        logger.warning("%s: too few bright stars to measure their profile; a Gaussian is used", ds.attrs.get("key"))
    return fitted or gaussian_profile()


def _itself(found: Any) -> Any:
    return found


def sources_of(cat: xr.Dataset) -> dict[str, Any]:
    """Positions, fluxes and star profile of a catalogue, as photometry needs them."""
    fitted = Profile(cat["coefficient"].to_numpy(), float(cat.attrs["pixel_area"]), float(cat.attrs["total_err"]))
    return {
        "catalog_xy": np.column_stack([cat["x"].to_numpy(), cat["y"].to_numpy()]),
        "catalog_flux": np.nan_to_num(cat["flux"].to_numpy()),  # a placed source may have none
        "fwhm": float(cat.attrs["fwhm"]),
        **_measured_with(fitted),
    }


def open_catalog(out_directory: str | Path, key: str, *, night: str | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """Reference stars and catalogue that a reduction has frozen, read now for `align` and `photometry`.

    Nothing is written.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of the reduction.
    key : str
        Camera key such as ``1:g``.
    night : str, optional
        Night whose star profile is used for all frames; by default each night has its own, and frames of other nights
        that of the reference night.

    Returns
    -------
    reference, catalog : Dataset
        Datasets as the steps `reference` and `catalog` return them.

    Raises
    ------
    ValueError
        When the reduction has no catalogue of this key, or no star profile of this night.
    """
    store = Store.open(out_directory)
    camera = store.camera(key)
    stars, stored = _read(camera.reference), _read(camera.whole_catalog())
    about, parameters = stars.attrs, _parameters_of(store.attributes)
    facts = [
        about.get(one, np.nan) for one in ("reference_fwhm", "reference_minor_fwhm", "pile_up_adu", "pile_up_gain")
    ]
    found: dict[str, Any] = {f"alignment_{one}": stars[f"alignment_{one}"] for one in ("x", "y", "flux")}
    found["reference_facts"] = ("fact", np.array(facts, dtype=float))
    found["reference_index"] = ((), int(about["reference_index"]))
    chosen = {one: parameters[one] for one in ("n_alignment_sources", "transform_type")}
    ref = xr.Dataset(found, coords={"fact": list(chains.REFERENCE_FACTS)}, attrs={"key": camera.key, **chosen})
    profiles = _stored_profiles(camera)
    chosen_night = night or str(about["reference_night"])
    first = camera.part(about["reference_night"])
    if first is None or chosen_night not in profiles:
        raise ValueError(
            f"open_catalog expected a night with a star profile, one of {', '.join(profiles) or 'none'}, "
            f"got {chosen_night}"
        )
    cat = xr.Dataset({one: stored[one].variable for one in stored.variables}).set_coords("source_id")
    rms = first.frames["background_rms"][stack_selection(first.n_frames, parameters["stack_frames"])]
    cat = with_indexes(cat).assign_attrs(
        key=camera.key, fwhm=float(stored.attrs["fwhm"]), background_rms=median_of(rms)
    )
    cat = _with_profile(cat, profiles[chosen_night]).assign_attrs(reference_star=reference_star(ref))
    if night is None and len(profiles) > 1:
        cat = cat.assign(_of_nights(camera, profiles))
    return ref, _remembering(cat, stored.attrs.get("source_stages", ()))


def _read(group: Group) -> xr.Dataset:
    return xr.open_dataset(**group.for_xarray).load()


def _stored_profiles(camera: Camera) -> dict[str, Profile]:
    """Star profile of each night of a camera of a reduction, by its date; of late frames by that of their part."""
    return {part.night: frozen.read_profile(part) for part in camera.parts if part.psf.is_whole}


def _of_nights(camera: Camera, profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """Variables of a catalogue that hold the star profile of each night, and which frames came late."""
    entry, dim = schema.variable("psf", "coefficient"), "profile_night"
    # frames that came late are a further part of their night, such as 2024-01-01.2: their times tell them
    late = {part.night: part.frames["mjd_utc"] for part in camera.parts if "." in part.night and part.night in profiles}
    numbers = [np.full(len(times), list(profiles).index(name)) for name, times in late.items()]
    return {
        "late_mjd_utc": ("late_frame", np.concatenate([np.empty(0), *late.values()])),
        "late_profile": ("late_frame", np.concatenate([np.empty(0, dtype=np.int64), *numbers])),
        dim: (dim, list(profiles)),
        "night_coefficient": (
            (dim, *entry.dims),
            coefficients_of(profiles.values()),
            entry.all_attributes(),
        ),
        "night_pixel_area": (dim, [one.pixel_area for one in profiles.values()]),
        "night_total_err": (dim, [one.total_err for one in profiles.values()]),
    }


def profiles_of(cat: xr.Dataset, frames: xr.Dataset) -> tuple[tuple[dict[str, Any], ...], np.ndarray]:
    """Star profiles of a catalogue, and the number of the profile that each frame is measured with.

    Frames of nights without one have that of the reference night, the first.
    """
    nights, times = frames["night"].to_numpy().astype(str), frames["mjd_utc"].to_numpy()
    fitted = [Profile(cat["coefficient"].to_numpy(), float(cat.attrs["pixel_area"]), float(cat.attrs["total_err"]))]
    number = np.zeros(len(nights), dtype=np.int64)
    if "profile_night" in cat.dims:
        for index, night in enumerate(cat["profile_night"].to_numpy().astype(str).tolist()):
            of_night = cat.isel(profile_night=index)
            area, error = (float(of_night[f"night_{one}"]) for one in ("pixel_area", "total_err"))
            fitted.append(Profile(of_night["night_coefficient"].to_numpy(), area, error))
            is_late = np.isin(times, cat["late_mjd_utc"].to_numpy()[cat["late_profile"].to_numpy() == index])
            number[is_late if "." in night else nights == night] = index + 1
    return tuple(_measured_with(one) for one in fitted), number


def _measured_with(fitted: Profile) -> dict[str, Any]:
    """What frames are measured with when their stars have this profile."""
    return {"profile": fitted.tables(), "profile_err": fitted.total_err, "sampling": sampling_errors(fitted)}


def _parameters_of(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Parameters of a store, from the attributes of its root."""
    return dict(json.loads(attributes["parameters"]))


def add_sources(cat: xr.Dataset, xy: Sequence[tuple[float, float]], name: Sequence[str] | None = None) -> xr.Dataset:
    """A catalogue with further sources at positions of the reference frame.

    Parameters
    ----------
    cat : Dataset
        Of `catalog`.
    xy : sequence of (float, float)
        Positions on the reference frame, pixels.
    name : sequence of str, optional
        Names, one a position; empty for sources that were found.

    Returns
    -------
    Dataset
        The new sources have the next ids; their flux and form are not known (NaN).

    Raises
    ------
    ValueError
        When this is no catalogue, or positions and names do not fit.
    """
    places = np.asarray(xy, dtype=float)
    if "coefficient" not in cat or "source" not in cat.dims:
        raise ValueError("add_sources expected a catalogue: use catalog(stack(ds, ref)) first")
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise ValueError(f"add_sources expected positions [(x, y), ...] in pixels, got {xy!r}")
    names = [""] * len(places) if name is None else [str(one) for one in name]
    if len(names) != len(places):
        raise ValueError(f"add_sources expected a name for each of {len(places)} positions, got {len(names)}")
    everything = cat.encoding.get(EVERYTHING, cat)
    start = int(everything["source_id"].max()) + 1 if everything.sizes["source"] else 1
    numbers = np.arange(start, start + len(places), dtype=np.int32)
    arrays: dict[str, Any] = {}
    for entry in schema.CATALOG:
        if entry.name not in cat.variables:
            continue
        fill = np.full(len(places), np.nan if entry.dtype == "float64" else entry.fill, dtype=entry.dtype)
        arrays[entry.name] = ("source", fill, cat[entry.name].attrs)
    arrays |= {
        "x": ("source", places[:, 0], cat["x"].attrs),
        "y": ("source", places[:, 1], cat["y"].attrs),
        "is_star": ("source", np.ones(len(places), dtype=bool), cat["is_star"].attrs),
        "source_id": ("source", numbers, cat["source_id"].attrs),
    }
    if "is_placed" in cat.variables:
        arrays["is_placed"] = ("source", np.ones(len(places), dtype=bool), cat["is_placed"].attrs)
    new = with_indexes(xr.Dataset(arrays).set_coords("source_id")).assign_coords(
        name=("source", np.array(names, dtype=object))
    )

    def grown(of: xr.Dataset) -> xr.Dataset:
        if "name" not in of.coords:
            of = of.assign_coords(name=("source", np.full(of.sizes["source"], "", dtype=object)))
        along = [str(v) for v in of.data_vars if "source" in of[v].dims]
        joined = xr.concat([of[along], new[along]], dim="source", combine_attrs="override")
        rest = of.drop_vars(along).drop_dims("source")
        return joined.assign({str(v): rest[v] for v in rest.data_vars}).assign_attrs(of.attrs)

    whole, part = grown(everything), grown(cat)
    stages = (*cat.encoding.get(STAGES, (everything.sizes["source"],)), whole.sizes["source"])
    part.encoding = {EVERYTHING: whole, STAGES: stages}
    return part
