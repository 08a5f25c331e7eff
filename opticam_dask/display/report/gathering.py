"""Data of a report: a few numbers a frame, photometry a slab of frames at a time, so that memory stays small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.display import status
from opticam_dask.display.report import measurements
from opticam_dask.display.report.records import (
    BesideFile,
    ConditionsNight,
    Count,
    Field,
    NightSummary,
    ProfileNight,
    Report,
    SetAside,
)
from opticam_dask.display.report.thinning import clock_of, column_of, frames_per_point
from opticam_dask.flags import FRAME_SENTENCES, UNUSABLE, FrameFlag, QualityFlag, count_flags
from opticam_dask.kernels.images import align
from opticam_dask.lightcurves import results
from opticam_dask.locations import location
from opticam_dask.passes import quality
from opticam_dask.store import layout
from opticam_dask.store.layout import Part

#: Points of one quantity of one key, over all nights.
_CONDITION_POINTS = 3000
#: A night has at least so many, however many nights there are.
_LEAST_POINTS = 20
#: Frames that are listed one by one.
_LISTED = 500

#: Marks of a point of the observing conditions.
SET_ASIDE, CLOUDY, SUSPECT_TIME = 1, 2, 4

#: Folders beside the store that hold files for people, and how deep each is looked into.
_FOLDERS = ("cat", "diag", "diag/growth_curves", "diag/apertures", "psfs")
_FOLDERS_OF_FOLDERS = ("lcs", "relative_light_curves", "export")
_SUFFIXES = (".pdf", ".ecsv", ".csv", ".fits", ".gif", ".png", ".log")


def gather(out_directory: str | Path, n_sources: int) -> Report:
    """Everything that a report says about a reduction, however far it is.

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
    path = layout.require_store(out_directory)
    keys = layout.keys(path)
    attributes = layout.read_attributes(path)
    parts = {key: layout.parts(path, key) for key in keys}
    listed, n_listed = _set_aside(path, parts)
    relative = measurements.relative_curves(out_directory, keys)
    wanted = {
        key: [number for curve in relative if curve.key == key for number in (curve.target, *curve.comparisons)]
        for key in keys
    }
    return Report(
        instrument=str(attributes.get("instrument", "")),
        keys=keys,
        pixel_scales=_pixel_scales(attributes, path, parts),
        provenance=results.provenance(out_directory),
        nights=[_summary(path, part) for key in keys for part in parts[key]],
        conditions=[entry for key in keys for entry in _conditions(path, parts[key])],
        fields=[field for key in keys if (field := _field(path, key)) is not None],
        curves=measurements.curves(path, parts, wanted, n_sources),
        relative=relative,
        statistics=measurements.statistics(out_directory, path, parts),
        profiles=[profile for key in keys for part in parts[key] for profile in _profile(path, part)],
        set_aside=listed,
        n_set_aside=n_listed,
        unfinished=status.unfinished(path),
        files=_files_beside(location(out_directory)),
    )


def _pixel_scales(attributes: Mapping[str, Any], path: Path, parts: Mapping[str, list[Part]]) -> dict[str, float]:
    """Arcseconds per pixel of the frames of each key, as far as the instrument says them and frames agree."""
    scales = (attributes.get("instrument_definition") or {}).get("pixel_scales") or {}
    found = {}
    for key, some in parts.items():
        camera = str(layout.read_attributes(path, layout.group_name(key)).get("camera", ""))
        binnings = {part.binning for part in some}
        if camera in scales and len(binnings) == 1:
            found[key] = float(scales[camera]) * binnings.pop() * _rebin_factor(path)
    return found


def _rebin_factor(path: Path) -> int:
    return int(json.loads(layout.read_attributes(path)["parameters"]).get("rebin_factor") or 1)


# ---------------------------------------------------------------- frames


def _summary(path: Path, part: Part) -> NightSummary:
    group = f"{part.group}/frames"
    names = ("flags", "exposure_time", "mjd_utc", "airmass", "fwhm")
    facts = {name: layout.read_array(path, group, name) for name in names}
    flags, times = facts["flags"], facts["mjd_utc"]
    is_usable = (flags != 0) & (flags & np.uint32(UNUSABLE) == 0)
    n_clouds = None
    if layout.has_product(path, quality.group_of(part)):
        n_clouds = int(np.count_nonzero(_quality(path, part, "flags") & np.uint32(QualityFlag.CLOUD)))
        facts["airmass"] = _quality(path, part, "airmass")
    steps = np.diff(np.sort(times[np.isfinite(times)])) * 86400.0
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
        fwhm=_middle(facts["fwhm"]),
        photometry=[
            (label, int(done.sum()), part.n_blocks)
            for label in layout.photometry_labels(path, part)
            for done in [layout.done_blocks(path, part, label)]
        ],
        data_root=str(layout.read_attributes(path, part.group).get("data_root", "")),
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))


def _middle(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _quality(path: Path, part: Part, name: str) -> np.ndarray:
    return layout.read_array(path, quality.group_of(part), name)


def _conditions(path: Path, parts: list[Part]) -> list[ConditionsNight]:
    total = sum(part.n_frames for part in parts)
    found = []
    for part in parts:
        flags = layout.read_array(path, f"{part.group}/frames", "flags")
        if not flags.any():
            continue  # nothing is known of a night that is not reduced
        n_points = max(_LEAST_POINTS, _CONDITION_POINTS * part.n_frames // total)
        found.append(_conditions_of_part(path, part, flags, frames_per_point(part.n_frames, n_points)))
    return found


def _conditions_of_part(path: Path, part: Part, flags: np.ndarray, per_point: int) -> ConditionsNight:
    group = f"{part.group}/frames"
    times = layout.read_array(path, group, "mjd_utc")
    values = {
        name: layout.read_array(path, group, name)
        for name in ("fwhm", "background", "background_rms", "airmass", "transform_rms")
    }
    values["n_sources"] = np.where(flags != 0, layout.read_array(path, group, "n_sources").astype(float), np.nan)
    values["ellipticity"] = _ellipticity(path, part)
    values |= _displacement(path, part)
    marks = np.zeros(part.n_frames, dtype=np.uint32)
    marks[flags & np.uint32(UNUSABLE) != 0] |= SET_ASIDE
    marks[flags & np.uint32(FrameFlag.SUSPECT_TIME) != 0] |= SUSPECT_TIME
    if layout.has_product(path, quality.group_of(part)):
        values["airmass"] = _quality(path, part, "airmass")
        values |= {name: _quality(path, part, name) for name in ("transparency", "clear_transparency")}
        marks[_quality(path, part, "flags") & np.uint32(QualityFlag.CLOUD) != 0] |= CLOUDY
    columns = {name: column_of(array, per_point) for name, array in sorted(values.items()) if np.isfinite(array).any()}
    thinned = column_of(np.zeros(part.n_frames), per_point, flags=marks).flags
    assert thinned is not None
    return ConditionsNight(part.key, clock_of(part.night.split(".")[0], times, per_point), columns, thinned)


def _ellipticity(path: Path, part: Part) -> np.ndarray:
    if layout.has_product(path, quality.group_of(part)):
        return _quality(path, part, "ellipticity")
    if layout.schema_version(path) < "1.1":
        return np.full(part.n_frames, np.nan)
    major, minor = (layout.read_array(path, f"{part.group}/frames", f"semi{axis}_sigma") for axis in ("major", "minor"))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: np.ndarray = 1.0 - minor / major
    return ratio


def _displacement(path: Path, part: Part) -> dict[str, np.ndarray]:
    """Where the centre of the reference frame lies on each frame, and how each frame is turned."""
    transforms = layout.read_array(path, f"{part.group}/frames", "transform")
    ny, nx = (length // _rebin_factor(path) for length in part.shape)
    centre = np.array([[(nx - 1) / 2.0, (ny - 1) / 2.0]])
    shift = align.apply_transform(transforms, centre)[..., 0, :] - centre
    turned = np.degrees(np.arctan2(transforms[:, 1, 0], transforms[:, 0, 0]))
    return {"shift_x": shift[:, 0], "shift_y": shift[:, 1], "rotation": turned}


def _set_aside(path: Path, parts: Mapping[str, list[Part]]) -> tuple[list[SetAside], int]:
    """The first frames that were set aside or flagged, and how many there are."""
    listed: list[SetAside] = []
    total = 0
    for some in parts.values():
        for part in some:
            found = [*status.flagged_frames(path, part), *status.lost_frames(path, part)]
            total += len(found)
            listed += [
                SetAside(part.key, part.night, file, reason) for file, reason in found[: max(0, _LISTED - len(listed))]
            ]
    if layout.has_product(path, "set_aside"):
        product = layout.read_product(path, "set_aside")
        rows = list(zip(product["file"].tolist(), product["reason"].tolist(), strict=True))
        total += len(rows)
        listed += [SetAside("", "", file, reason) for file, reason in rows[: max(0, _LISTED - len(listed))]]
    return listed, total


# ---------------------------------------------------------------- field and profile


def _field(path: Path, key: str) -> Field | None:
    name = layout.group_name(key)
    if not layout.has_product(path, f"{name}/reference") or not layout.has_product(path, f"{name}/catalog"):
        return None
    image = layout.read_array(path, f"{name}/reference", "image")
    about = layout.read_attributes(path, f"{name}/reference")
    catalog = {entry.name: layout.read_array(path, f"{name}/catalog", entry.name) for entry in schema.CATALOG}
    return Field(
        key=key,
        image=image,
        largest_coverage=int(layout.read_array(path, f"{name}/reference", "coverage").max(initial=0)),
        fwhm=float(layout.read_attributes(path, f"{name}/catalog")["fwhm"]),
        reference_file=str(about["reference_file"]),
        reference_night=str(about["reference_night"]),
        catalog=catalog,
    )


def _profile(path: Path, part: Part) -> list[ProfileNight]:
    group = f"{part.group}/psf"
    if not layout.has_product(path, group):
        return []
    about, arrays = layout.read_attributes(path, group), layout.read_product(path, group)
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
