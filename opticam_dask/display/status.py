"""State of an output directory: records for programs, and lines for people made from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import schema
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


def scan_record(scan: Scan) -> dict[str, Any]:
    """Result of a scan, as JSON can hold it: ``frames`` by key and night, ``gaps``, ``repeated_times``, ``notes``."""
    from opticam_dask.frames.scanning import time_gaps  # a reduction is described without tables

    frames = [
        {
            "key": key,
            "night": night,
            "n_frames": len(rows),
            "shapes": [[int(ny), int(nx)] for ny, nx in sorted(set(zip(rows["ny"], rows["nx"], strict=True)))],
            "binnings": sorted(set(rows["binning"].tolist())),
            "exposure_times": sorted(set(rows["exposure_time"].tolist())),
            "mjd_utc": [float(rows["mjd_utc"].min()), float(rows["mjd_utc"].max())],
        }
        for (key, night), rows in scan.table.groupby(["key", "night"])
    ]
    names = ("key", "before", "after", "gap", "median_step")
    repeated = {str(key): int(rows["mjd_utc"].duplicated(keep=False).sum()) for key, rows in scan.table.groupby("key")}
    return {
        "n_usable": len(scan.table),
        "n_set_aside": len(scan.set_aside),
        "frames": frames,
        "gaps": [dict(zip(names, gap, strict=True)) for gap in time_gaps(scan.table)],
        "repeated_times": {key: count for key, count in repeated.items() if count},
        "notes": list(scan.warnings),
        "set_aside": [{"file": file, "reason": reason} for file, reason in scan.set_aside],
    }


def describe_scan(scan: Scan) -> list[str]:
    """Cameras, filters, nights, counts, gaps and notes of a scan."""
    record, lines = scan_record(scan), []
    for part in record["frames"]:
        shapes = ", ".join(f"{ny} x {nx}" for ny, nx in part["shapes"])
        binnings = ", ".join(f"{n}x{n}" for n in part["binnings"])
        exposures = ", ".join(f"{t:g}" for t in part["exposure_times"])
        first, last = part["mjd_utc"]
        lines.append(
            f"{part['key']} {part['night']}: {part['n_frames']} frames of {shapes} pixels, binning {binnings}, "
            f"exposure {exposures} s, MJD (UTC) {first:.6f} to {last:.6f}"
        )
    for gap in record["gaps"]:
        lines.append(
            f"{gap['key']}: gap of {gap['gap']:.1f} s between {os.path.basename(gap['before'])} and "
            f"{os.path.basename(gap['after'])} (the median step is {gap['median_step']:.2f} s)"
        )
    for key, count in record["repeated_times"].items():
        lines.append(f"{key}: {count} frames share their time stamp with another frame")
    lines.extend(f"note: {message}" for message in record["notes"])
    return lines


def reduction_record(out_directory: str | Path) -> dict[str, Any]:
    """State of a reduction, as JSON can hold it.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.

    Returns
    -------
    dict
        ``schema_version``, ``instrument``, ``parameters``, ``cameras`` (each with its catalogue and its ``parts``, and
        these with counts of frames, flags and blocks), and ``problems``: every file that was set aside or flagged, with
        the reason.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    store = Store.open(out_directory)
    problems = []
    for part in store.parts:
        problems += [*flagged_frames(part), *lost_frames(part)]
    if store.set_aside.is_whole:
        listed = store.set_aside.read_all()
        problems += zip(listed["file"].tolist(), listed["reason"].tolist(), strict=True)
    return {
        "schema_version": store.version,
        "instrument": store.attributes.get("instrument"),
        "parameters": json.loads(store.attributes["parameters"]),
        "cameras": [_camera_record(camera) for camera in store.cameras],
        "problems": [{"file": file, "reason": reason} for file, reason in problems],
    }


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
    record, lines = reduction_record(out_directory), []
    for camera in record["cameras"]:
        lines.append(_describe_camera(camera))
        lines.extend(f"  warning: {line}" for line in (camera["catalog"] or {}).get("warnings", ()))
        for part in camera["parts"]:
            lines.extend(_describe_part(part))
    if problems := record["problems"]:
        lines.append(f"{len(problems)} file(s) set aside or flagged:")
        shown = problems if n_problems is None else problems[:n_problems]
        lines.extend(f"  {problem['file']}: {problem['reason']}" for problem in shown)
        if len(shown) < len(problems):
            lines.append(
                f"  ... and {len(problems) - len(shown)} more (opticam-dask status {out_directory} --problems 0)"
            )
    lines.append(_describe_parameters(record["parameters"] | {"instrument": record["instrument"]}))
    return lines


def _camera_record(camera: Camera) -> dict[str, Any]:
    record: dict[str, Any] = {"key": camera.key, "catalog": None, "parts": [_part_record(p) for p in camera.parts]}
    if camera.catalog.is_whole:
        reference = camera.reference.attributes
        record["catalog"] = {
            "n_sources": len(camera.catalog["source_id"]),
            "fwhm": float(camera.catalog.attributes["fwhm"]),
            "warnings": list(camera.catalog.attributes.get("warnings", ())),  # not in older stores
            "reference_file": reference["reference_file"],
            "reference_night": reference["reference_night"],
        }
    return record


def _describe_camera(record: Mapping[str, Any]) -> str:
    if (catalog := record["catalog"]) is None:
        return f"{record['key']}: no catalogue"
    return (
        f"{record['key']}: {catalog['n_sources']} source(s) in the catalogue, FWHM {catalog['fwhm']:.2f} pixels, "
        f"reference frame {catalog['reference_file']} of {catalog['reference_night']}"
    )


def _part_record(part: Part) -> dict[str, Any]:
    flags = part.frames["flags"]
    n_done = int(np.count_nonzero(flags))
    n_usable = int(np.count_nonzero((flags != 0) & (flags & np.uint32(UNUSABLE) == 0)))
    counts = {name: count for name, count in count_flags(flags, FrameFlag).items() if name != "reduced"}
    return {
        "night": part.night,
        "n_frames": part.n_frames,
        "n_done": n_done,
        "n_aligned": n_usable,
        "n_set_aside": n_done - n_usable,
        "flags": counts,
        "n_blocks": part.n_blocks,
        "photometry": {label: _label_record(part, label) for label in part.labels},
    }


def _label_record(part: Part, label: str) -> dict[str, Any]:
    group = part.photometry(label)
    return {
        "n_blocks_done": int(group.done().sum()),
        "aperture_radius": group.attributes.get("aperture_radius"),
        "n_frames_lost": len(group.lost_frames()),
    }


def _describe_part(record: Mapping[str, Any]) -> list[str]:
    lines = [
        f"  {record['night']}: {record['n_frames']} frames, {record['n_done']} done, "
        f"{record['n_frames'] - record['n_done']} to do, {record['n_aligned']} aligned, "
        f"{record['n_set_aside']} set aside"
    ]
    for name, count in record["flags"].items():
        lines.append(f"    {count} {name}: {FRAME_SENTENCES[FrameFlag[name.upper()]]}")
    for label, found in record["photometry"].items():
        lines.append(f"    photometry {label}: {found['n_blocks_done']} of {record['n_blocks']} blocks done")
        if radius := found["aperture_radius"]:
            lines.append(f"    photometry {label}: radius {radius['radius']:g} FWHM, judged by {radius['judged_by']}")
        if n_lost := found["n_frames_lost"]:
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


def _describe_parameters(record: Mapping[str, Any]) -> str:
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
            if store.version == schema.SCHEMA_VERSION:
                lines += [f"{part.group}: {words}" for words in _lost_products(part)]
    return lines


def _lost_products(part: Part) -> Iterator[str]:
    """What the photometry of a part is made with, or is followed by, and is not there."""
    if part.labels and not part.psf.is_whole:
        yield "the star profile is not measured"
    if not part.quality.is_whole and any(part.photometry(label).done().all() for label in part.labels):
        yield "the quality is not measured"
