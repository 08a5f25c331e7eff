"""Summaries of a reduction: HTML for notebooks, and messages at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.console import Console
from opticam_dask.flags import UNUSABLE
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store
from opticam_dask.text import Fold, counted, definitions, table, wrap

#: This many frames are told of, by name.
_MOST_TOLD = 20


def of_reduction(
    out_directory: Path,
    instrument: str,
    camera_files: Mapping[str, Sequence[str]],
    set_aside: Sequence[tuple[str, str]],
    parameters: Mapping[str, Any],
) -> str:
    """Summary of a reduction as HTML: the frames of each camera, and how many of them are in the store.

    Parameters
    ----------
    out_directory : path
        Output directory of the reduction.
    instrument : str
        Name of the instrument.
    camera_files : dict of sequence of str
        Frames of each camera key.
    set_aside : sequence of (str, str)
        Files that cannot be used, and why.
    parameters : dict
        Parameters of the reduction by name.
    """
    facts: list[tuple[str, object]] = [("instrument", instrument), ("results", out_directory)]
    rows: list[tuple[object, ...]] = []
    store = Store.at(out_directory)
    cameras = {camera.key: camera for camera in store.cameras} if store.exists() else {}
    for key, files in camera_files.items():
        rows.append((key, f"{len(files):,}", *(_so_far(cameras[key]) if key in cameras else ("0", "none", "none"))))
    columns = ("camera", "frames", "in the store", "sources", "photometry")
    folds = [Fold("parameters", definitions(sorted(parameters.items())))]
    if set_aside:
        folds.append(Fold(f"{counted(len(set_aside), 'file')} set aside", table(("file", "why"), set_aside)))
    return wrap("Reducer", definitions(facts) + table(columns, rows), folds)


def _so_far(camera: Camera) -> tuple[str, str, str]:
    """Frames, sources and photometry labels of a key that are in the store, from its metadata alone."""
    n_frames = sum(part.n_frames for part in camera.parts)
    n_sources = str(camera.catalog.array("source_id").shape[0]) if camera.catalog.is_whole else "none"
    return f"{n_frames:,}", n_sources, ", ".join(camera.labels) or "none"


def aligned_counts(store: Store) -> dict[str, tuple[int, int]]:
    """Numbers of aligned and of reduced frames, by camera key."""
    counts = {}
    for camera in store.cameras:
        flags = [part.frames["flags"] for part in camera.parts]
        reduced = np.concatenate([values[values != 0] for values in flags] or [np.empty(0, np.uint32)])
        counts[camera.key] = int(np.count_nonzero(reduced & np.uint32(UNUSABLE) == 0)), len(reduced)
    return counts


def tell_of_frames(console: Console, what: str, problems: Sequence[tuple[str, str]], out_directory: Path) -> None:
    """Report problems of frames by name; of many, the first ones and their number."""
    for file, message in problems[:_MOST_TOLD]:
        console.tell(f"{what}: {Path(file).name}: {message}")
    if len(problems) > _MOST_TOLD:
        console.tell(f"... and {len(problems) - _MOST_TOLD} more: opticam-dask status {out_directory}")
