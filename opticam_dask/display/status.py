"""What a directory holds and how far a reduction is, as lines for a person."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
from opticam_dask.frames.scanning import Scan, time_gaps
from opticam_dask.store import layout


def describe_scan(scan: Scan) -> list[str]:
    """Cameras, filters, nights, counts, gaps and notes of a scan."""
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
    n_problems : int, optional
        How many frames to list by name; None lists all.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    path = layout.require_store(out_directory)
    lines, problems = [], []
    for key in layout.keys(path):
        lines.append(_describe_key(path, key))
        for part in layout.parts(path, key):
            lines.extend(_describe_part(path, part))
            problems.extend(flagged_frames(path, part))
            problems.extend(lost_frames(path, part))
    if layout.has_product(path, "set_aside"):
        listed = layout.read_product(path, "set_aside")
        problems.extend(zip(listed["file"].tolist(), listed["reason"].tolist(), strict=True))
    if problems:
        lines.append(f"{len(problems)} file(s) set aside or flagged:")
        shown = problems if n_problems is None else problems[:n_problems]
        lines.extend(f"  {file}: {reason}" for file, reason in shown)
        if len(shown) < len(problems):
            lines.append(
                f"  ... and {len(problems) - len(shown)} more (opticam-dask status {out_directory} --problems 0)"
            )
    lines.append(_describe_parameters(path))
    return lines


def _describe_key(path: Path, key: str) -> str:
    group = f"{layout.group_name(key)}/catalog"
    if not layout.has_product(path, group):
        return f"{key}: no catalogue"
    n_sources = len(layout.read_array(path, group, "source_id"))
    fwhm = layout.read_attributes(path, group)["fwhm"]
    reference = layout.read_attributes(path, f"{layout.group_name(key)}/reference")
    return (
        f"{key}: {n_sources} source(s) in the catalogue, FWHM {fwhm:.2f} pixels, "
        f"reference frame {reference['reference_file']} of {reference['reference_night']}"
    )


def _describe_part(path: Path, part: layout.Part) -> list[str]:
    flags = layout.read_array(path, f"{part.group}/frames", "flags")
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
    for label in layout.photometry_labels(path, part):
        done = layout.done_blocks(path, part, label)
        lines.append(f"    photometry {label}: {int(done.sum())} of {part.n_blocks} blocks done")
        if radius := layout.read_attributes(path, f"{part.group}/photometry/{label}").get("aperture_radius"):
            lines.append(f"    photometry {label}: radius {radius['radius']:g} FWHM, judged by {radius['judged_by']}")
        if n_lost := len(layout.lost_frames(path, part, label)):
            sentence = SOURCE_SENTENCES[SourceFlag.FRAME_LOST]
            lines.append(f"    photometry {label}: {n_lost} frame_lost: {sentence}")
    return lines


def flagged_frames(path: Path, part: layout.Part) -> list[tuple[str, str]]:
    """Frames that carry a flag, with the message or the names of the flags."""
    flags = layout.read_array(path, f"{part.group}/frames", "flags")
    flagged = np.flatnonzero(flags & ~np.uint32(FrameFlag.REDUCED | FrameFlag.NO_POSITION))
    if not len(flagged):
        return []
    files = layout.read_manifest(path, part)["file"]
    messages = layout.read_array(path, f"{part.group}/frames", "message")
    return [
        (
            files[i],
            str(messages[i])
            or "; ".join(FRAME_SENTENCES[FrameFlag[n.upper()]] for n in flag_names(flags[i], FrameFlag)),
        )
        for i in flagged
    ]


def lost_frames(path: Path, part: layout.Part) -> list[tuple[str, str]]:
    """Frames whose files were gone or changed when they were to be measured, with the labels that miss them."""
    labels: dict[int, list[str]] = {}
    for label in layout.photometry_labels(path, part):
        for index in layout.lost_frames(path, part, label).tolist():
            labels.setdefault(index, []).append(label)
    if not labels:
        return []
    files = layout.read_manifest(path, part)["file"]
    return [
        (files[index], f"not measured ({', '.join(names)}): {SOURCE_SENTENCES[SourceFlag.FRAME_LOST]}")
        for index, names in sorted(labels.items())
    ]


def _describe_parameters(path: Path) -> str:
    record = json.loads(layout.read_attributes(path)["parameters"])
    record["instrument"] = layout.read_attributes(path).get("instrument")
    return "parameters: " + ", ".join(
        f"{name} {_value(value)}" for name, value in record.items() if value is not None and name != "class"
    )


def _value(value: object) -> str:
    if isinstance(value, dict) and "n_files" in value:
        return f"{value['n_files']} frames"
    if isinstance(value, dict):
        return str(value.get("function") or value.get("class") or value.get("name") or "own function")
    return str(value)


def _has_stack(path: Path, part: layout.Part) -> bool:
    # without a reference frame there is nothing to stack on
    has_reference = layout.has_product(path, f"{layout.group_name(part.key)}/reference")
    return not has_reference or layout.has_product(path, f"{part.group}/stack")


def unfinished(path: Path) -> list[str]:
    """Parts of a store that are not done: blocks of the first pass and of each photometry label."""
    lines = []
    if pending := layout.read_attributes(path).get("pending"):
        asked = [name for name in ("new", "redo", "rebuild_reference") if pending.get(name)]
        lines.append(f"a run with --{', --'.join(asked)} was interrupted: run the same command again".replace("_", "-"))
    for key in layout.keys(path):
        night = layout.read_attributes(path, f"{layout.group_name(key)}/reference").get("reference_night")
        if night is not None and night not in layout.part_names(path, key):
            lines.append(f"{key}: the reference night {night} is not in the store: give its frames again")
        for part in layout.parts(path, key):
            for label in (None, *layout.photometry_labels(path, part)):
                if label is None and layout.done_blocks(path, part).all() and not _has_stack(path, part):
                    lines.append(f"{part.group}: the stack is not made")
                missing = np.flatnonzero(~layout.done_blocks(path, part, label))
                if len(missing):
                    name = "first pass" if label is None else f"photometry {label}"
                    lines.append(f"{part.group}: {name}: {len(missing)} of {part.n_blocks} blocks are not done")
    return lines
