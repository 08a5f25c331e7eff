"""What a directory holds and how far a reduction is, as lines for a person."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opticam_dask.flags import (
    FRAME_SENTENCES,
    SOURCE_SENTENCES,
    UNUSABLE,
    FrameFlag,
    SourceFlag,
    count_flags,
    flag_names,
)
from opticam_dask.store.camera import Camera, Part
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    from opticam_dask.frames.scanning import Scan


def describe_scan(scan: Scan) -> list[str]:
    """Cameras, filters, nights, counts, gaps and notes of a scan."""
    from opticam_dask.frames.scanning import time_gaps  # a reduction is described without tables

    lines = []
    for (key, night), rows in scan.table.groupby(["key", "night"]):
        shapes = ", ".join(f"{ny} x {nx}" for ny, nx in sorted(set(zip(rows["ny"], rows["nx"], strict=True))))
        binnings = ", ".join(f"{n}x{n}" for n in sorted(set(rows["binning"])))
        exposures = ", ".join(f"{t:g}" for t in sorted(set(rows["exposure_time"])))
        lines.append(
            f"{key} {night}: {len(rows)} frames of {shapes} pixels, binning {binnings}, exposure {exposures} s, "
            f"MJD (UTC) {rows['mjd_utc'].min():.6f} to {rows['mjd_utc'].max():.6f}"
        )
    for key, before, after, gap, median in time_gaps(scan.table):
        lines.append(
            f"{key}: gap of {gap:.1f} s between {os.path.basename(before)} and {os.path.basename(after)} "
            f"(the median step is {median:.2f} s)"
        )
    for key, rows in scan.table.groupby("key"):
        if n_repeated := int(rows["mjd_utc"].duplicated(keep=False).sum()):
            lines.append(f"{key}: {n_repeated} frames share their time stamp with another frame")
    lines.extend(f"note: {message}" for message in scan.warnings)
    return lines


def describe_reduction(out_directory: str | Path, n_problems: int | None = 20) -> list[str]:
    """Frames done, to do and set aside (with reasons), catalogues, photometry and parameters of a reduction.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    n_problems : int, optional
        How many frames to list by name; None lists all.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    store = Store.open(out_directory)
    lines, problems = [], []
    for camera in store.cameras:
        lines.append(_describe_camera(camera))
        for part in camera.parts:
            lines.extend(_describe_part(part))
            problems.extend(flagged_frames(part))
            problems.extend(lost_frames(part))
    if store.set_aside.is_whole:
        listed = store.set_aside.read_all()
        problems.extend(zip(listed["file"].tolist(), listed["reason"].tolist(), strict=True))
    if problems:
        lines.append(f"{len(problems)} file(s) set aside or flagged:")
        shown = problems if n_problems is None else problems[:n_problems]
        lines.extend(f"  {file}: {reason}" for file, reason in shown)
        if len(shown) < len(problems):
            lines.append(
                f"  ... and {len(problems) - len(shown)} more (opticam-dask status {out_directory} --problems 0)"
            )
    lines.append(_describe_parameters(store))
    return lines


def _describe_camera(camera: Camera) -> str:
    if not camera.catalog.is_whole:
        return f"{camera.key}: no catalogue"
    n_sources = len(camera.catalog["source_id"])
    fwhm = camera.catalog.attributes["fwhm"]
    reference = camera.reference.attributes
    return (
        f"{camera.key}: {n_sources} source(s) in the catalogue, FWHM {fwhm:.2f} pixels, "
        f"reference frame {reference['reference_file']} of {reference['reference_night']}"
    )


def _describe_part(part: Part) -> list[str]:
    flags = part.frames["flags"]
    n_done, n_usable = (
        int(np.count_nonzero(flags)),
        int(np.count_nonzero((flags != 0) & (flags & np.uint32(UNUSABLE) == 0))),
    )
    lines = [
        f"  {part.night}: {part.n_frames} frames, {n_done} done, {part.n_frames - n_done} to do, "
        f"{n_usable} aligned, {n_done - n_usable} set aside"
    ]
    counts = count_flags(flags, FrameFlag)
    for name, count in counts.items():
        if name != "reduced":
            lines.append(f"    {count} {name}: {FRAME_SENTENCES[FrameFlag[name.upper()]]}")
    for label in part.labels:
        group = part.photometry(label)
        done = group.done()
        lines.append(f"    photometry {label}: {int(done.sum())} of {part.n_blocks} blocks done")
        if radius := group.attributes.get("aperture_radius"):
            lines.append(f"    photometry {label}: radius {radius['radius']:g} FWHM, judged by {radius['judged_by']}")
        if n_lost := len(group.lost_frames()):
            sentence = SOURCE_SENTENCES[SourceFlag.FRAME_LOST]
            lines.append(f"    photometry {label}: {n_lost} frame_lost: {sentence}")
    return lines


def flagged_frames(part: Part) -> list[tuple[str, str]]:
    """Frames that carry a flag, with the message or the names of the flags."""
    flags = part.frames["flags"]
    flagged = np.flatnonzero(flags & ~np.uint32(FrameFlag.REDUCED | FrameFlag.NO_POSITION))
    if not len(flagged):
        return []
    files = part.manifest()["file"]
    messages = part.frames["message"]
    return [
        (
            files[i],
            str(messages[i])
            or "; ".join(FRAME_SENTENCES[FrameFlag[n.upper()]] for n in flag_names(flags[i], FrameFlag)),
        )
        for i in flagged
    ]


def lost_frames(part: Part) -> list[tuple[str, str]]:
    """Frames whose files were gone or changed when they were to be measured, with the labels that miss them."""
    labels: dict[int, list[str]] = {}
    for label in part.labels:
        for index in part.photometry(label).lost_frames().tolist():
            labels.setdefault(index, []).append(label)
    if not labels:
        return []
    files = part.manifest()["file"]
    return [
        (files[index], f"not measured ({', '.join(names)}): {SOURCE_SENTENCES[SourceFlag.FRAME_LOST]}")
        for index, names in sorted(labels.items())
    ]


def _describe_parameters(store: Store) -> str:
    attributes = store.attributes
    record = json.loads(attributes["parameters"])
    record["instrument"] = attributes.get("instrument")
    return "parameters: " + ", ".join(
        f"{name} {_value(value)}" for name, value in record.items() if value is not None and name != "class"
    )


def _value(value: object) -> str:
    if isinstance(value, dict) and "n_files" in value:
        return f"{value['n_files']} frames"
    if isinstance(value, dict):
        return str(value.get("function") or value.get("class") or value.get("name") or "own function")
    return str(value)


def _has_stack(part: Part) -> bool:
    # without a reference frame there is nothing to stack on
    return not part.camera.reference.is_whole or part.stack.is_whole


def unfinished(path: Path) -> list[str]:
    """Parts of a store that are not done: blocks of the first pass and of each photometry label."""
    store, lines = Store(path), []
    if pending := store.attributes.get("pending"):
        asked = [name for name in ("new", "redo", "rebuild_reference") if pending.get(name)]
        lines.append(f"a run with --{', --'.join(asked)} was interrupted: run the same command again".replace("_", "-"))
    for camera in store.cameras:
        night = camera.reference.attributes.get("reference_night")
        if night is not None and night not in camera.part_names:
            lines.append(f"{camera.key}: the reference night {night} is not in the store: give its frames again")
        for part in camera.parts:
            for label in (None, *part.labels):
                done = part.records(label).done()
                if label is None and done.all() and not _has_stack(part):
                    lines.append(f"{part.group}: the stack is not made")
                missing = np.flatnonzero(~done)
                if len(missing):
                    name = "first pass" if label is None else f"photometry {label}"
                    lines.append(f"{part.group}: {name}: {len(missing)} of {part.n_blocks} blocks are not done")
    return lines
