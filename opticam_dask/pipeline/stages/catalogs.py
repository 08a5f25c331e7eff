"""The catalogue of a camera key: made from the stack of the reference night, once, and frozen."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from opticam_dask import identities
from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.stack import mean_width, stack_selection
from opticam_dask.kernels.robust import finite_median
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.passes import catalog
from opticam_dask.pipeline.frozen import piled_up, reference_part
from opticam_dask.pipeline.preparation import versions
from opticam_dask.pipeline.reduction import Progress, ReductionError, Setup, counted_results
from opticam_dask.pipeline.stages.stacks import stacked_frames
from opticam_dask.store.camera import Camera, Part

#: Frames whose detections are compared with the catalogue.
_COMPARED = 9
#: Share of the sources of either that may be missing in the other; more is told.
_MOST = 0.5


def finish_catalogs(setup: Setup, executor: Executor, progress: Progress) -> None:
    """Make the catalogue of every key that has none, find it on the sky, and place the sources of the observer."""
    todo = [camera for camera in setup.store.cameras if camera.reference.is_whole and not camera.catalog.is_whole]
    make = functools.partial(_make_catalog, setup, tuple(camera.key for camera in todo))
    work = [Work(make, range(len(todo)), "catalog", has_time_limit=False)]
    made = counted_results(executor, work, progress, "Making catalogues of the stacks", len(todo), "cameras")
    for number, camera in enumerate(todo):
        if isinstance(found := made[number], str):
            progress.tell(f"{camera.key}: {found}")
        else:
            _write_catalog(setup, camera, found, progress)
    find_places(setup, progress)


def find_places(setup: Setup, progress: Progress) -> None:
    """Find the catalogues on the sky by the stars or frames that were given, and place the sources of the observer."""
    if setup.sky is not None:
        from opticam_dask.passes.sky_search import find_sky

        find_sky(setup.store, setup.instrument, setup.sky, progress.tell)
    place_sources(setup, progress)


def place_sources(setup: Setup, progress: Progress) -> None:
    """Append to the catalogues what the observer places, as far as they do not have it.

    Raises
    ------
    ReductionError
        When a source has the name of another one, or is on the frame of a camera that is not there.
    """
    if not setup.sources and not setup.store.attributes.get("placed_sources"):
        return
    # half a second of astropy: only where sources are placed
    from opticam_dask.passes import placing

    def box_size(camera: Camera) -> tuple[int, int]:
        part = reference_part(camera)
        return setup.steps(part.shape, part.binning).box_size

    try:
        placing.record_sources(setup.store, setup.sources)
        placing.place_sources(setup.store, box_size, progress.tell)
    except ValueError as error:
        raise ReductionError(str(error)) from error


def _make_catalog(setup: Setup, keys: Sequence[str], number: int) -> tuple[int, catalog.Catalog | str]:
    """Task that detects the catalogue of a key on the stack of its reference night; the reason where there is none."""
    part = reference_part(setup.store.camera(keys[number]))
    night = _stacked_night(setup, part, part.stack.read_all())
    steps, limit = setup.steps(part.shape, part.binning), setup.parameters.max_catalog_sources
    try:
        found = catalog.make_catalog(night, steps, limit, setup.aperture_selector)
    except catalog.NoCatalog as error:
        return number, str(error)
    missing = _missing_sources(setup, part, found, night.image.shape)
    return number, replace(found, warnings=(*found.warnings, *missing))


def _write_catalog(setup: Setup, camera: Camera, found: catalog.Catalog, progress: Progress) -> None:
    """Write the catalogue of a key beside the stack it was made from, once."""
    _keep_checksum(camera, catalog.checksum(found.arrays))
    stack = reference_part(camera).stack
    camera.reference.extend({name: stack[name] for name in ("image", "coverage")})
    for line in (*found.warnings, *found.left_out):
        progress.tell(f"{camera.key}: {line}")
    attributes = {"fwhm": found.fwhm, "fwhm_units": "pixel", "warnings": list(found.warnings)}
    provenance = {"provenance": versions() | {"parameters_hash": identities.parameters_hash(setup.record())}}
    camera.catalog.write(found.arrays | found.neighbours, attributes | provenance)
    # half a second of astropy: once a camera, never on a worker
    from opticam_dask.passes.sky_search import take_from_header

    take_from_header(setup.store, camera.key, setup.instrument, progress.tell)


def _stacked_night(setup: Setup, part: Part, stack: Mapping[str, np.ndarray]) -> catalog.StackedNight:
    """Stack of a part with the noise, seeing, transforms and saturation of the frames that are stacked."""
    chosen = stacked_frames(setup, part)
    widths, minor, sky = (part.frames[name][chosen] for name in ("fwhm", "semiminor_sigma", "background"))
    level, gain = (part.frames[name][chosen] for name in ("saturation", "gain"))
    piled = piled_up(part)
    level = level if piled is None else piled.lowered(level, gain)
    stacked = _stacked(setup, part)
    return catalog.StackedNight(
        stack["image"],
        stack["coverage"],
        part.frames["background_rms"][stacked],
        finite_median(widths),
        _transforms(part, stacked),
        finite_median(level * gain * setup.parameters.rebin_factor**2 - sky),
        SIGMA_TO_FWHM * mean_width(minor),
    )


def _stacked(setup: Setup, part: Part) -> np.ndarray:
    """Indices of the usable frames that are in the stack of a part."""
    transforms, flags = (part.frames[name] for name in ("transform", "flags"))
    chosen = stacked_frames(setup, part)
    usable = ((flags[chosen] & np.uint32(UNUSABLE)) == 0) & np.isfinite(transforms[chosen]).all(axis=(1, 2))
    stacked: np.ndarray = chosen[usable]
    return stacked


def _transforms(part: Part, frames: np.ndarray) -> np.ndarray:
    """Transforms of some frames of a part, shape (frame, 3, 3)."""
    transforms: np.ndarray = part.frames["transform"][frames]
    return transforms


def _missing_sources(setup: Setup, part: Part, found: catalog.Catalog, shape: tuple[int, int]) -> tuple[str, ...]:
    """Tell where catalogue and frames do not show the same stars."""
    frames = _stacked(setup, part)
    frames = frames[stack_selection(len(frames), _COMPARED)] if len(frames) else frames
    border = getattr(setup.steps(part.shape, part.binning).finder, "border_width", 0)
    detections = []
    for frame, transform in zip(frames.tolist(), _transforms(part, frames), strict=True):
        x, y = (part.sources.read(name, frame, frame + 1)[0] for name in ("x", "y"))
        xy = align.apply_transform(align.invert_transform(transform), np.column_stack([x, y])[np.isfinite(x)])
        inside = np.all((xy > border) & (xy < np.array(shape[::-1]) - 1 - border), axis=1)
        detections.append(xy[inside])
    catalog_xy = np.column_stack([found.arrays["x"], found.arrays["y"]])
    limit = setup.parameters.max_catalog_sources
    of_frames, of_catalog = catalog.missing_sources(catalog_xy, detections, found.fwhm, limit)
    where = f"of {part.night} ({len(detections)} frames looked at)"
    warnings = []
    if of_frames > _MOST:
        warnings.append(
            f"{100 * of_frames:.0f} % of the brightest detections in the frames {where} are not in the catalogue of "
            f"{len(catalog_xy)} sources. Frames that are not well aligned smear their stars, and hot pixels do not "
            "move with the field: look at cat/catalogs.pdf; other n_alignment_sources or darks may help."
        )
    if of_catalog > _MOST:
        warnings.append(
            f"{100 * of_catalog:.0f} % of the brightest sources of the catalogue are not among the detections in the "
            f"frames {where}: they may be no stars. Look at cat/catalogs.pdf; a higher threshold or another "
            "reference_night may help."
        )
    return tuple(warnings)


def _keep_checksum(camera: Camera, checksum: str) -> None:
    """Freeze the catalogue: one that is made again must be the same.

    Raises
    ------
    ReductionError
        When it is not.
    """
    before = camera.attributes.get("catalog_checksum")
    if before not in (None, checksum):
        raise ReductionError(
            f"the catalogue of {camera.key} was lost and comes out differently now: its reference night was reduced "
            "again from other frames since. Reduce with --rebuild-reference, so that all nights belong to one "
            "catalogue."
        )
    camera.update({"catalog_checksum": checksum})
