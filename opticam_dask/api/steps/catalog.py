"""Catalogues of sources: made from a stack, opened from a reduction, or extended by the user's own positions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains, tasks
from opticam_dask.api.steps.chains import Chain
from opticam_dask.api.steps.frames import (
    CHAIN,
    DATASET,
    EVERYTHING,
    STAGES,
    SURVEY,
    KeptRecords,
    chain_of,
    reference_star,
    require_same_camera,
)
from opticam_dask.api.steps.stack import stack
from opticam_dask.cluster import blocks
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.kernels.robust import finite_median
from opticam_dask.kernels.sources.profiles.profile import MOST_COMPONENTS, Profile, coefficients_of, gaussian_profile
from opticam_dask.kernels.sources.profiles.sampling import sampling_errors
from opticam_dask.lightcurves.indexes import with_indexes
from opticam_dask.passes import catalog as catalog_pass
from opticam_dask.passes import sampled_frames, star_profiles
from opticam_dask.pipeline import frozen
from opticam_dask.steps.frame_steps import FrameSteps
from opticam_dask.steps.view import Measuring, neighbours_of
from opticam_dask.store.camera import Camera
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

logger = logging.getLogger(__name__)


def catalog(
    deep: xr.Dataset, *, frames: xr.Dataset | None = None, aperture_selector: Callable[[np.ndarray], float] = np.median
) -> xr.Dataset:
    """Sources of a stack, and the star profile of its frames: lazily where the stack is lazy.

    How many sources there are is known from the pixels alone. A lazy catalogue has a slot for each of the
    ``max_catalog_sources`` that there may be, brightest first; those behind the first ``n_sources`` stay empty (NaN),
    in the catalogue and in light curves. Of a stack in memory (``deep.load()``) it has exactly those that are there.

    Parameters
    ----------
    deep : Dataset
        Stack of aligned frames, as `stack` returns it.
    frames : Dataset, optional
        Aligned frames whose bright stars give the star profile; by default those that were stacked.
    aperture_selector : callable
        Chooses the FWHM of the catalogue from those of its brightest stars.

    Returns
    -------
    Dataset
        Along ``source``, an index that holds the source id: ``x``, ``y`` on the reference frame, ``flux``, ``fwhm``,
        ...; ``n_sources``; along ``component`` the star profile, ``coefficient``; and ``catalog_facts``: FWHM (pixels)
        of the stars, sky noise (electrons) of the frames, area of a pixel in units of sigma squared and relative error
        of the total light, both of the profile.

    Raises
    ------
    ValueError
        When this is no stack, or there is nothing above the threshold.
    """
    deep = deep.encoding.get(DATASET, deep) if isinstance(deep, xr.DataArray) else deep
    if not isinstance(deep, xr.Dataset):
        raise ValueError("catalog expected a stack: use stack(ds, ref) first")
    chain, survey = deep.encoding.get(CHAIN), deep.encoding.get(SURVEY)
    if "coverage" not in deep or not isinstance(chain, Chain) or survey is None:
        raise ValueError("catalog expected a stack that was not stored in between: use stack(ds, ref) first")
    sampled, bad = survey, deep["bad_pixel"]
    if frames is not None:
        chain_of(frames, chains.ALIGNED, "catalog")
        require_same_camera("catalog", "set of frames", frames, deep)
        of_frames = stack(frames, stack_frames=chain.parameters.stack_frames)
        sampled, bad = of_frames.encoding[SURVEY], of_frames["bad_pixel"]
    names = ("image", "coverage", "frame_rms", "transform", "stack_facts")
    arrays = [*(deep[name].data for name in names), bad.data]
    surveys, is_lazy = [survey.surveyed, sampled.surveyed], any(map(blocks.is_lazy, arrays))
    if not is_lazy:
        surveys = list(blocks.computed(*surveys))
    of_sampled = sampled.frames.encoding[CHAIN]
    masters = [sampled.frames[f"master_{name}"].data for name in of_sampled.masters]
    n_frames, key = sampled.frames.sizes["frame"], str(deep.attrs["key"])
    task = CatalogTask(chain, of_sampled, n_frames, sampled.stack_frames, aperture_selector, key, is_lazy)
    record = blocks.whole(task, *arrays, *surveys, *masters)
    n_slots, n_components = chain.parameters.max_catalog_sources, MOST_COMPONENTS
    n_neighbours = catalog_pass.MOST_NEIGHBOURS
    if not is_lazy:
        (record,) = blocks.computed(record)
        n_slots, n_components, n_neighbours = (len(record[0][name]) for name in ("x", "coefficient", "neighbour_x"))
    sizes, variables = {"source": n_slots, "neighbour": n_neighbours}, dict[str, Any]()
    for entry in (*schema.CATALOG[1:], *schema.NEIGHBOURS):
        values = blocks.picked_one(record, entry.name, (sizes[entry.dims[0]],), entry.dtype)
        variables[entry.name] = (entry.dims, values, entry.all_attributes())
    variables["bad_pixel"] = (bad.dims, blocks.picked_one(record, "bad_pixel", bad.shape, bad.dtype))
    variables["n_sources"] = ((), blocks.picked_one(record, "n_sources", (), np.int64), _COUNT)
    coefficients = blocks.picked_one(record, "coefficient", (n_components,), float)
    facts = blocks.picked_one(record, "catalog_facts", (len(FACTS),), float)
    cat = _catalogue(variables, np.arange(1, n_slots + 1, dtype=np.int32), coefficients, facts)
    cat = cat.assign_attrs(key=key)
    if (star := reference_star(survey.frames)) is not None:
        cat = cat.assign_attrs(reference_star=star)
    is_kept = is_lazy and survey.keeps
    kept = KeptRecords(chain, blocks.picked_one(record, "kept", (), object)) if is_kept else None
    return _remembering(cat, survey=kept)


_COUNT = {"units": "1", "long_name": "number of sources that were found"}

#: Numbers of a catalogue beside its sources, in the order in which tasks get them.
FACTS = ("fwhm", "background_rms", "pixel_area", "total_err")


@dataclass(frozen=True)
class CatalogTask:
    """Makes the catalogue of a stack, and fits the star profile to the stars of some frames.

    Attributes
    ----------
    chain, of_sampled : Chain
        Steps of the frames that were stacked, and of the frames that the star profile is fitted to.
    n_frames, stack_frames : int
        Number of frames that the star profile is fitted to, and the most that are stacked of them.
    aperture_selector : callable
        Chooses the FWHM.
    key : str
        Camera key.
    has_slots : bool
        Whether the catalogue has room for as many sources as there may be, or for those that there are.
    """

    chain: Chain
    of_sampled: Chain
    n_frames: int
    stack_frames: int
    aperture_selector: Callable[[np.ndarray], float]
    key: str
    has_slots: bool
    name: ClassVar[str] = "catalog"

    def __call__(
        self,
        image: np.ndarray,
        coverage: np.ndarray,
        frame_rms: np.ndarray,
        transforms: np.ndarray,
        facts: np.ndarray,
        bad: np.ndarray,
        survey: np.ndarray,
        stars: np.ndarray,
        *masters: np.ndarray,
    ) -> dict[str, Any]:
        """The record of the catalogue."""
        known = transforms[np.isfinite(transforms).all(axis=(1, 2))]
        seeing, saturation, sharpest, stack_rms = facts.tolist()
        night = catalog_pass.StackedNight(image, coverage, np.array([stack_rms]), seeing, known, saturation, sharpest)
        steps, most = (
            self.chain.setup.steps(self.chain.shape, self.chain.binning),
            self.chain.parameters.max_catalog_sources,
        )
        try:
            found = catalog_pass.make_catalog(night, steps, most, self.aperture_selector)
        except catalog_pass.NoCatalog as error:
            raise ValueError(f"no catalogue of {self.key}: {error}") from error
        for line in (*found.warnings, *found.left_out):
            logger.warning("%s: %s", self.key, line)
        fitted = self._profile(found, stars.item(), bad, self.of_sampled.steps([np.ravel(one) for one in masters]))
        n_sources, coefficients = len(found.arrays["x"]), fitted.coefficients
        arrays: dict[str, Any] = dict(found.arrays)
        neighbours = {entry.name: found.neighbours.get(entry.name, np.empty(0)) for entry in schema.NEIGHBOURS}
        if self.has_slots:
            arrays = {name: _filled(values, most) for name, values in arrays.items()}
            neighbours = {name: _filled(values, catalog_pass.MOST_NEIGHBOURS) for name, values in neighbours.items()}
            coefficients = _filled(coefficients, MOST_COMPONENTS, 0.0)
        about = [found.fwhm, finite_median(frame_rms), fitted.pixel_area, fitted.total_err]
        more = {"n_sources": n_sources, "bad_pixel": bad, "kept": survey.item().kept}
        return arrays | neighbours | more | {"coefficient": coefficients, "catalog_facts": about}

    def _profile(
        self, found: catalog_pass.Catalog, stars: tasks.Surveyed, bad: np.ndarray, steps: FrameSteps
    ) -> Profile:
        """Star profile of the frames, in two rounds as in a reduction."""
        flags = np.zeros(self.n_frames, dtype=np.uint32)
        for index, facts in stars.facts.items():
            flags[index] = facts["flags"]
        chosen = star_profiles.choose_frames(flags, self.stack_frames)
        measuring = Measuring(
            steps=steps,
            photometers={},
            catalog_xy=np.column_stack([found.arrays["x"], found.arrays["y"]]),
            catalog_flux=np.nan_to_num(found.arrays["flux"]),
            neighbours=neighbours_of(found.neighbours),
            fwhm=found.fwhm,
            **measured_with(gaussian_profile(), bad),
        )
        fitted: Profile | None = None
        for frames in (star_profiles.some_of(chosen), chosen):
            measure = star_profiles.star_rings if fitted else star_profiles.first_rings
            measuring = replace(measuring, **measured_with(fitted, bad)) if fitted else measuring
            rings = {one: sampled_frames.measure_frame(measuring, measure, *stars.sampled[one]) for one in frames}
            fitted = star_profiles.fit(rings)
            if fitted is None:
                logger.warning("%s: too few bright stars to measure their profile; a Gaussian is used", self.key)
                return gaussian_profile()
        return fitted or gaussian_profile()


def _filled(values: np.ndarray, size: int, fill: float = np.nan) -> np.ndarray:
    """Values padded to the largest number of sources; padding of truth values and counts is 0."""
    empty = np.full(size - len(values), fill if values.dtype.kind == "f" or fill < 0 else 0, dtype=values.dtype)
    return np.concatenate([values, empty])


def _catalogue(variables: Mapping[str, Any], numbers: np.ndarray, coefficients: Any, facts: Any) -> xr.Dataset:
    """A catalogue of its variables along ``source`` and the numbers of these, a star profile and the other facts."""
    source_id, profile = schema.variable("catalog", "source_id"), schema.variable("psf", "coefficient")
    dataset = xr.Dataset(
        {
            **variables,
            "coefficient": (profile.dims, coefficients, profile.all_attributes()),
            "catalog_facts": ("catalog_fact", facts, {"long_name": "what is known of the stars beside their places"}),
        },
        coords={
            "source_id": (source_id.dims, numbers, source_id.all_attributes()),
            "catalog_fact": list(FACTS),
        },
    )
    return with_indexes(dataset)


def _remembering(cat: xr.Dataset, stages: Sequence[int] = (), survey: KeptRecords | None = None) -> xr.Dataset:
    """A catalogue of which every part knows all sources: neighbours matter also where they are not measured."""
    cat.encoding = {EVERYTHING: cat, STAGES: tuple(stages) or (cat.sizes["source"],), SURVEY: survey}
    return cat


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
    rms = first.frames["background_rms"][stack_selection(first.n_frames, parameters["stack_frames"])]
    fitted, fwhm = profiles[chosen_night], float(stored.attrs["fwhm"])
    stages = tuple(stored.attrs.get("source_stages", ()))
    variables = {str(one): stored[one].variable for one in stored.variables if one != "source_id"}
    bad = {part.night: frozen.bad_pixels_of(part) for part in camera.parts if part.night in profiles}
    variables["bad_pixel"] = xr.Variable("bad", bad[chosen_night])
    known_facts = np.array([fwhm, finite_median(rms), fitted.pixel_area, fitted.total_err])
    cat = _catalogue(
        variables | {"n_sources": ((), (*stages, stored.sizes["source"])[0], _COUNT)},
        stored["source_id"].to_numpy(),
        fitted.coefficients,
        known_facts,
    )
    cat = cat.assign_attrs(key=camera.key, reference_star=reference_star(ref))
    if night is None and len(profiles) > 1:
        cat = cat.assign(_of_nights(camera, profiles, bad))
    return ref, _remembering(cat, stages)


def _read(group: Group) -> xr.Dataset:
    return xr.open_dataset(**group.for_xarray).load()


def _stored_profiles(camera: Camera) -> dict[str, Profile]:
    """Star profile of each night of a camera of a reduction, by its date; of late frames by that of their part."""
    return {part.night: frozen.read_profile(part) for part in camera.parts if part.psf.is_whole}


def _of_nights(camera: Camera, profiles: Mapping[str, Profile], bad: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of a catalogue with the star profile and bad pixels of each night, and which frames came late."""
    entry, dim = schema.variable("psf", "coefficient"), "profile_night"
    # frames that came late are a further part of their night, such as 2024-01-01.2: their times tell them
    late = {part.night: part.frames["mjd_utc"] for part in camera.parts if "." in part.night and part.night in profiles}
    numbers = [np.full(len(times), list(profiles).index(name)) for name, times in late.items()]
    most = max(map(len, bad.values()))
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
        "night_bad_pixel": ((dim, "bad_of_night"), [_filled(bad[one], most, -1) for one in profiles]),
    }


def everything_of(cat: xr.Dataset) -> xr.Dataset:
    """The whole catalogue of selected sources: neighbours matter also where they are not measured."""
    everything: xr.Dataset = cat.encoding.get(EVERYTHING, cat)
    mine, known = (one["source_id"].to_numpy() for one in (cat, everything))
    if np.array_equal(np.sort(mine), np.sort(known)):  # all of them, perhaps computed since, or in another order
        everything = cat if np.all(np.diff(mine) > 0) else cat.isel(source=np.argsort(mine))
    return everything if STAGES in everything.encoding else _remembering(everything.copy())


def without_empty_slots(cat: xr.Dataset) -> xr.Dataset:
    """A catalogue, or a part of one, without its empty slots; a lazy one keeps them all."""
    if blocks.is_lazy(cat["x"].data):
        return cat
    everything = everything_of(cat)
    part = cat.isel(source=np.flatnonzero(np.isfinite(cat["x"].to_numpy())))
    part.encoding = {**everything.encoding, EVERYTHING: everything}
    return part


def measured_with(fitted: Profile, bad: np.ndarray) -> dict[str, Any]:
    """Settings to measure frames whose stars have this profile and in which these pixels (-1 for none) are bad."""
    of_profile = {"profile": fitted.tables(), "profile_err": fitted.total_err, "sampling": sampling_errors(fitted)}
    return of_profile | {"bad_pixels": bad[bad >= 0]}


def _parameters_of(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Parameters of a store, from the attributes of its root."""
    return dict(json.loads(attributes["parameters"]))


def add_sources(cat: xr.Dataset, xy: Sequence[tuple[float, float]], name: Sequence[str] | None = None) -> xr.Dataset:
    """A catalogue with further sources at positions of the reference frame.

    Parameters
    ----------
    cat : Dataset
        Catalogue, as `catalog` returns it.
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
    everything = everything_of(cat)
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
        joined = xr.concat([of[along], new[along]], dim="source", coords="minimal", combine_attrs="override")
        rest = of.drop_vars(along).drop_dims("source")
        return joined.assign({str(v): rest[v] for v in rest.data_vars}).assign_attrs(of.attrs)

    whole, part = grown(everything), grown(cat)
    stages = (*everything.encoding[STAGES], whole.sizes["source"])
    whole = _remembering(whole, stages, cat.encoding.get(SURVEY))
    part.encoding = dict(whole.encoding)
    return part
