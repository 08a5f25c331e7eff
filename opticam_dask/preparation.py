"""Before the first pass: make the store or take it up again, and add the frames that are new."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import config, frames, plan, store
from opticam_dask.config import ReductionParameters
from opticam_dask.reduction import Progress, ReductionError, Setup, Silent, WrongParameters

_PACKAGES = ("numpy", "scipy", "astropy", "photutils", "dask", "distributed", "xarray", "zarr", "astroscrappy")


def prepare(setup: Setup, scan: frames.Scan, progress: Progress | None = None) -> None:
    """Make the store, or take up the one that is there, and add the parts that are new.

    Raises
    ------
    ReductionError
        When there is no usable frame, or the store was made with other parameters or from other files.
    """
    progress = progress or Silent()
    if not len(scan.table) and not store.exists(setup.out_directory):
        reasons = "; ".join(f"{os.path.basename(file)}: {reason}" for file, reason in scan.set_aside[:3])
        raise ReductionError(f"no usable frame among {len(scan.set_aside)} files. {reasons}".strip())
    if store.exists(setup.out_directory):
        _check_parameters(setup)
    else:
        store.create_store(setup.out_directory, _root_attributes(setup))
    store.begin_changes(setup.path)
    table = _new_rows(setup, scan)
    taken = {
        key: {part.night: part.n_frames for part in store.parts(setup.path, key)} for key in store.keys(setup.path)
    }
    chosen = setup.parameters
    refused: list[tuple[str, str]] = []
    for planned in plan.plan_parts(
        table, setup.instrument, taken=taken, barycenter=chosen.barycenter, target_coord=chosen.target_coord
    ):
        try:
            _add_planned(setup, planned)
        except WrongParameters as error:
            if not planned.is_odd:
                raise
            files = [os.path.join(planned.data_root, name) for name in planned.manifest["file"]]
            refused += [(file, str(error)) for file in files]
            progress.tell(f"Set aside: {len(files)} frame(s) of {planned.key}, the first is {files[0]}: {error}")
            continue
        for note in planned.notes:
            progress.tell(note)
    _write_set_aside(setup, scan, refused)


def stored_parameters(out_directory: str | Path) -> ReductionParameters:
    """Parameters that a store was made with."""
    record = json.loads(store.read_attributes(store.require_store(out_directory))["parameters"])
    known = {entry.name for entry in fields(ReductionParameters)}
    return config.parameters_from_mapping({name: value for name, value in record.items() if name in known})


def _root_attributes(setup: Setup) -> dict[str, Any]:
    record = setup.record()
    return {
        "opticam_dask_version": metadata.version("opticam-dask"),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "instrument": setup.instrument.name,
        "parameters": config.parameters_json(record),
        "parameters_hash": config.parameters_hash(record),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _check_parameters(setup: Setup) -> None:
    attributes = store.read_attributes(store.require_store(setup.out_directory))
    record = setup.record()
    if attributes.get("parameters_hash") != config.parameters_hash(record):
        before = json.loads(attributes["parameters"])
        changed = config.differences(before, json.loads(config.parameters_json(record)))
        raise WrongParameters(
            f"{setup.out_directory} was reduced with other parameters ({'; '.join(changed)}). "
            "Use the same parameters to resume, or another output directory."
        )


def _new_rows(setup: Setup, scan: frames.Scan) -> Any:
    """Rows of the scan that the store does not have; files that changed since are refused."""
    known: dict[str, tuple[int, float]] = {}
    for key in store.keys(setup.path):
        for part in store.parts(setup.path, key):
            manifest = store.read_manifest(setup.path, part)
            facts = zip(manifest["file_size"].tolist(), manifest["file_mtime"].tolist(), strict=True)
            known |= dict(zip(manifest["file"].tolist(), facts, strict=True))
    table = scan.table
    if not known or not len(table):
        return table
    _refuse_moved_files(table, known)
    before = [known.get(file) for file in table["file"]]
    now = zip(table["file_size"].tolist(), table["file_mtime"].tolist(), strict=True)
    changed = [f for f, old, new in zip(table["file"], before, now, strict=True) if old not in (None, new)]
    if changed:
        raise ReductionError(
            f"{len(changed)} file(s) changed since they were reduced, the first is {changed[0]}. "
            "Put the original files back, or use another output directory."
        )
    return table[[old is None for old in before]]


def _refuse_moved_files(table: Any, known: Mapping[str, tuple[int, float]]) -> None:
    """Refuse copies of frames that were reduced from another place: they would be measured twice."""
    before = {(os.path.basename(file), *facts): file for file, facts in known.items()}
    names = [os.path.basename(file) for file in table["file"]]
    facts = zip(names, table["file_size"].tolist(), table["file_mtime"].tolist(), strict=True)
    moved = [
        (file, before[fact])
        for file, fact in zip(table["file"], facts, strict=True)
        if file not in known and fact in before
    ]
    if moved:
        raise ReductionError(
            f"{len(moved)} file(s) were reduced before from another place: {moved[0][0]} is {moved[0][1]}. "
            "Give the directory that was given before, or use another output directory."
        )


def _add_planned(setup: Setup, planned: plan.PlannedPart) -> None:
    steps = setup.steps(planned.shape, planned.binning)
    store.add_key(setup.path, planned.key, planned.camera, planned.filter)
    per_block = setup.frames_per_block or plan.frames_per_block(planned.shape, np.dtype(planned.dtype))
    part = store.Part(
        key=planned.key,
        night=planned.night,
        n_frames=len(planned.manifest["file"]),
        frames_per_block=per_block,
        shape=planned.shape,
        binning=planned.binning,
        mesh_shape=steps.mesh_shape,
        n_slots=steps.n_slots,
    )
    store.add_part(setup.path, part, planned.manifest, planned.data_root)


def _write_set_aside(setup: Setup, scan: frames.Scan, refused: list[tuple[str, str]]) -> None:
    """Keep the files that could not be used at all, with the reason, over all runs."""
    listed: dict[str, str] = {}
    if store.has_product(setup.path, "set_aside"):
        before = store.read_product(setup.path, "set_aside")
        listed = dict(zip(before["file"].tolist(), before["reason"].tolist(), strict=True))
    listed |= dict(scan.set_aside)
    for file in scan.table["file"]:
        listed.pop(file, None)
    listed |= dict(refused)
    arrays = {
        "file": np.array(sorted(listed), dtype=object),
        "reason": np.array([listed[file] for file in sorted(listed)], dtype=object),
    }
    store.write_product(setup.path, "set_aside", "set_aside", arrays, {"long_name": "files that could not be used"})
