"""Data of a report: a few numbers a frame, photometry a slab of frames at a time, so that memory stays small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.display import status
from opticam_dask.display.report import measurements, target
from opticam_dask.display.report.records import (
    BesideFile,
    ConditionsNight,
    Count,
    Field,
    FieldSky,
    NightSummary,
    ProfileNight,
    Report,
    SetAside,
)
from opticam_dask.display.report.thinning import clock_of, column_of, frames_per_point
from opticam_dask.flags import FRAME_SENTENCES, UNUSABLE, FrameFlag, QualityFlag, count_flags
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.robust import finite_median
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.locations import location
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.provenance import provenance
from opticam_dask.store.store import Store

#: Points of one quantity of one key, over all nights.
_CONDITION_POINTS = 3000
#: A night has at least this many, however many nights there are.
_LEAST_POINTS = 20
#: Frames that are listed one by one.
_LISTED = 500

#: Mark of a point of the observing conditions: a frame was set aside.
SET_ASIDE = 1
#: Mark of a point of the observing conditions: a frame has the flag ``cloud``.
CLOUDY = 2
#: Mark of a point of the observing conditions: a time stamp is suspect.
SUSPECT_TIME = 4

#: Folders beside the store that hold files for people, and how deep each is looked into.
_FOLDERS = ("cat", "fits", "diag", "diag/growth_curves", "diag/apertures", "psfs")
_FOLDERS_OF_FOLDERS = ("lcs", "relative_light_curves", "export")
_SUFFIXES = (".pdf", ".ecsv", ".csv", ".fits", ".gif", ".png", ".log")


def gather(out_directory: str | Path, n_sources: int) -> Report:
    """All data of a report about a reduction, finished or not.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    n_sources : int
        Sources of each key whose light curves are taken, the brightest first; targets and their comparisons of
        differential light curves come before them.

    Raises
    ------
    store.StoreError
        When there is no store, or it is damaged.
    """
    store = Store.open(out_directory)
    cameras, attributes = store.cameras, store.attributes
    keys = [camera.key for camera in cameras]
    parts = {camera.key: camera.parts for camera in cameras}
    rebin = int(json.loads(attributes["parameters"]).get("rebin_factor") or 1)
    listed, n_listed = _set_aside(store, parts)
    relative = measurements.relative_curves(out_directory, keys)
    wanted = {
        key: [number for curve in relative if curve.key == key for number in (curve.target, *curve.comparisons)]
        for key in keys
    }
    return Report(
        instrument=str(attributes.get("instrument", "")),
        keys=keys,
        pixel_scales=_pixel_scales(attributes, cameras, rebin),
        provenance=provenance(out_directory),
        nights=[_summary(part) for key in keys for part in parts[key]],
        conditions=[entry for key in keys for entry in _conditions(parts[key], rebin)],
        fields=[field for camera in cameras if (field := _field(camera)) is not None],
        curves=measurements.curves(parts, wanted, n_sources),
        relative=relative,
        periods=target.periods(out_directory, relative),
        fits=target.fits(out_directory, keys),
        statistics=measurements.statistics(out_directory, parts),
        profiles=[profile for key in keys for part in parts[key] for profile in _profile(part)],
        set_aside=listed,
        n_set_aside=n_listed,
        unfinished=status.unfinished(store.path),
        files=_files_beside(location(out_directory)),
    )


def _pixel_scales(attributes: Mapping[str, Any], cameras: Sequence[Camera], rebin: int) -> dict[str, float]:
    """Arcseconds per pixel of the frames of each key, as far as the instrument says them and frames agree."""
    scales = (attributes.get("instrument_definition") or {}).get("pixel_scales") or {}
    found = {}
    for camera in cameras:
        name = str(camera.attributes.get("camera", ""))
        binnings = {part.binning for part in camera.parts}
        if name in scales and len(binnings) == 1:
            found[camera.key] = float(scales[name]) * binnings.pop() * rebin
    return found


# ---------------------------------------------------------------- frames


def _summary(part: Part) -> NightSummary:
    names = ("flags", "exposure_time", "mjd_utc", "airmass", "fwhm")
    facts = {name: part.frames[name] for name in names}
    flags, times = facts["flags"], facts["mjd_utc"]
    is_usable = (flags != 0) & (flags & np.uint32(UNUSABLE) == 0)
    n_clouds = None
    if part.quality.is_whole:
        n_clouds = int(np.count_nonzero(part.quality["flags"] & np.uint32(QualityFlag.CLOUD)))
        facts["airmass"] = part.quality["airmass"]
    steps = np.diff(np.sort(times[np.isfinite(times)])) * SECONDS_PER_DAY
    return NightSummary(
        key=part.key,
        night=part.night,
        n_frames=part.n_frames,
        n_done=int(np.count_nonzero(flags)),
        n_usable=int(np.count_nonzero(is_usable)),
        n_clouds=n_clouds,
        flags=[
            Count(name.replace("_", " "), FRAME_SENTENCES[FrameFlag[name.upper()]], count)
            for name, count in count_flags(flags, FrameFlag).items()
            if name != "reduced"
        ],
        shape=part.shape,
        binning=part.binning,
        exposure=_range(facts["exposure_time"]),
        mjd_utc=_range(times),
        step=float(np.median(steps)) if len(steps) else float("nan"),
        airmass=_range(facts["airmass"]),
        fwhm=finite_median(facts["fwhm"]),
        photometry=[
            (label, int(done.sum()), part.n_blocks) for label in part.labels for done in [part.photometry(label).done()]
        ],
        data_root=str(part.attributes.get("data_root", "")),
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))


def _conditions(parts: list[Part], rebin: int) -> list[ConditionsNight]:
    total = sum(part.n_frames for part in parts)
    found = []
    for part in parts:
        flags = part.frames["flags"]
        if not flags.any():
            continue  # nothing is known of a night that is not reduced
        n_points = max(_LEAST_POINTS, _CONDITION_POINTS * part.n_frames // total)
        found.append(_conditions_of_part(part, flags, frames_per_point(part.n_frames, n_points), rebin))
    return found


def _conditions_of_part(part: Part, flags: np.ndarray, per_point: int, rebin: int) -> ConditionsNight:
    frames = part.frames
    times = frames["mjd_utc"]
    values = {name: frames[name] for name in ("fwhm", "background", "background_rms", "airmass", "transform_rms")}
    values["n_sources"] = np.where(flags != 0, frames["n_sources"].astype(float), np.nan)
    values["ellipticity"] = _ellipticity(part)
    values |= _displacement(part, rebin)
    marks = np.zeros(part.n_frames, dtype=np.uint32)
    marks[flags & np.uint32(UNUSABLE) != 0] |= SET_ASIDE
    marks[flags & np.uint32(FrameFlag.SUSPECT_TIME) != 0] |= SUSPECT_TIME
    if part.quality.is_whole:
        values["airmass"] = part.quality["airmass"]
        values |= {name: part.quality[name] for name in ("transparency", "clear_transparency")}
        marks[part.quality["flags"] & np.uint32(QualityFlag.CLOUD) != 0] |= CLOUDY
    columns = {name: column_of(array, per_point) for name, array in sorted(values.items()) if np.isfinite(array).any()}
    thinned = column_of(np.zeros(part.n_frames), per_point, flags=marks).flags
    assert thinned is not None
    return ConditionsNight(part.key, clock_of(part.night.split(".")[0], times, per_point), columns, thinned)


def _ellipticity(part: Part) -> np.ndarray:
    if part.quality.is_whole:
        return part.quality["ellipticity"]
    if "semimajor_sigma" not in part.frames:  # of a store of schema 1.0
        return np.full(part.n_frames, np.nan)
    major, minor = (part.frames[f"semi{axis}_sigma"] for axis in ("major", "minor"))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: np.ndarray = 1.0 - minor / major
    return ratio


def _displacement(part: Part, rebin: int) -> dict[str, np.ndarray]:
    """Where the centre of the reference frame lies on each frame, and how each frame is turned."""
    transforms = part.frames["transform"]
    ny, nx = (length // rebin for length in part.shape)
    centre = np.array([[(nx - 1) / 2.0, (ny - 1) / 2.0]])
    shift = align.apply_transform(transforms, centre)[..., 0, :] - centre
    turned = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
    return {"shift_x": shift[:, 0], "shift_y": shift[:, 1], "rotation": turned}


def _set_aside(store: Store, parts: Mapping[str, list[Part]]) -> tuple[list[SetAside], int]:
    """The first frames that were set aside or flagged, and how many there are."""
    listed: list[SetAside] = []
    total = 0
    for some in parts.values():
        for part in some:
            found = [*status.flagged_frames(part), *status.lost_frames(part)]
            total += len(found)
            listed += [
                SetAside(part.key, part.night, file, reason) for file, reason in found[: max(0, _LISTED - len(listed))]
            ]
    if store.set_aside.is_whole:
        product = store.set_aside.read_all()
        rows = list(zip(product["file"].tolist(), product["reason"].tolist(), strict=True))
        total += len(rows)
        listed += [SetAside("", "", file, reason) for file, reason in rows[: max(0, _LISTED - len(listed))]]
    return listed, total


# ---------------------------------------------------------------- field and profile


def _field(camera: Camera) -> Field | None:
    reference, catalog = camera.reference, camera.catalog
    if not reference.is_whole or not catalog.is_whole:
        return None
    about, told = reference.attributes, catalog.attributes
    beside = [name for name in ("ra", "dec", "name") if name in catalog]
    image = reference["image"]
    return Field(
        key=camera.key,
        image=image,
        largest_coverage=int(reference["coverage"].max(initial=0)),
        fwhm=float(told["fwhm"]),
        reference_file=str(about["reference_file"]),
        reference_night=str(about["reference_night"]),
        catalog={name: catalog[name] for name in (*(entry.name for entry in schema.CATALOG), *beside)},
        warnings=[str(line) for line in told.get("warnings", ())],  # not in older stores
        placed=list(told.get("placed", {}).values()),
        sky=_sky_of(told["wcs"], image.shape) if "wcs" in told else None,
    )


def _sky_of(cards: Mapping[str, Any], shape: Sequence[int]) -> FieldSky:
    from opticam_dask.frames import sky_coordinates  # a third of a second of astropy

    wcs = sky_coordinates.read_wcs(cards)
    north, east = sky_coordinates.north_and_east(wcs, (shape[1] - 1) / 2, (shape[0] - 1) / 2)
    return FieldSky((float(north[0]), float(north[1])), (float(east[0]), float(east[1])), sky_coordinates.scale_of(wcs))


def _profile(part: Part) -> list[ProfileNight]:
    if not part.psf.is_whole:
        return []
    about, arrays = part.psf.attributes, part.psf.read_all()
    if not np.isfinite(arrays.get("profile", np.empty(0))).any():
        return []
    return [ProfileNight(part.key, part.night, about.get("n_frames", 0), about.get("n_stars", 0), arrays)]


# ---------------------------------------------------------------- files beside it


def _files_beside(out: Path) -> list[BesideFile]:
    """Files for people below the output directory, by their paths from there; folders of many with their number."""
    found = []
    for folder in _FOLDERS:
        if (out / folder).is_dir():
            found += [BesideFile(f"{folder}/{name}") for name in _names(out / folder)]
    for top in _FOLDERS_OF_FOLDERS:
        if (out / top).is_dir():
            folders = sorted(entry for entry in (out / top).iterdir() if entry.is_dir())
            found += [BesideFile(f"{top}/{entry.name}/", n) for entry in folders if (n := len(_names(entry)))]
    found += [BesideFile(name) for name in _names(out)]
    return found


def _names(folder: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_file() and entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")
    )
