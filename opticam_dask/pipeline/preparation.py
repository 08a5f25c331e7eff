"""Before the first pass: make the store or take it up again, and add the frames that are new."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask import identities, text
from opticam_dask.frames import scanning
from opticam_dask.frames.fits.names import file_of
from opticam_dask.kernels import compiled
from opticam_dask.locations import is_remote, twin
from opticam_dask.parameters import ReductionParameters, parameters_from_mapping
from opticam_dask.pipeline import nights, plan
from opticam_dask.pipeline.reduction import Changes, Progress, ReductionError, Setup, Silent, WrongParameters
from opticam_dask.remote_paths import Facts, facts_of
from opticam_dask.store import making
from opticam_dask.store.camera import Part, group_name
from opticam_dask.store.errors import StoreError
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from opticam_dask.frames.instruments import Instrument

_PACKAGES = (
    *("numpy", "scipy", "astropy", "photutils", "opencv-python-headless", "astroscrappy"),
    *("dask", "distributed", "xarray", "zarr"),
)


def prepare(
    setup: Setup, scan: scanning.Scan, progress: Progress | None = None, changes: Changes | None = None
) -> None:
    """Make the store, or take up the one that is there, and add the parts that are new.

    Raises
    ------
    ReductionError
        When there is no usable frame, or the store was made with other parameters or from other files.
    """
    progress, changes = progress or Silent(), changes or Changes()
    if not len(scan.table) and (changes.new or not setup.store.exists()):
        told = text.reasons(scan.set_aside)
        raise ReductionError(f"no usable frame among {len(scan.set_aside)} files. {told}".strip())
    is_kept = setup.store.exists() and not changes.new
    _refuse_equal_names({*scan.table["key"], *(setup.store.keys if is_kept else ())})
    if compiled.form() == compiled.NUMPY:
        progress.tell("NumPy kernels are used: frames take two to three times as long as with compiled ones.")
    begun = changes.new and nights.begin_again(setup, identities.parameters_hash(setup.record()), progress)
    if setup.store.exists():
        check_parameters(setup)
        _tell_other_versions(setup, progress)
        scan = _under_known_names(setup, scan)
        _check_files(setup, scan, changes)
        setup.store.begin_changes()
        given = {str(key): set(rows["night"]) for key, rows in scan.table.groupby("key")}
        nights.prepare_changes(setup, changes, given, progress)
    else:
        pending = {"pending": {"new": True}} if begun else {}
        Store.create(setup.out_directory, _root_attributes(setup) | pending)
    if setup.sources:
        from opticam_dask.passes.placing import record_sources  # half a second of astropy

        record_sources(setup.store, setup.sources)
    refused = _add_parts(setup, _new_rows(setup, scan, progress), progress)
    _write_set_aside(setup, scan, refused)


def _add_parts(setup: Setup, table: pd.DataFrame, progress: Progress) -> list[tuple[str, str]]:
    """Add what is new in parts; return the files of those that do not fit the parameters, with the reason."""
    chosen = setup.parameters
    cameras = setup.store.cameras
    taken = {camera.key: {part.night: part.n_frames for part in camera.parts} for camera in cameras}
    planned_parts = plan.plan_parts(
        table, setup.instrument, taken=taken, barycenter=chosen.barycenter, target_coord=chosen.target_coord
    )
    largest = max(planned_parts, key=lambda planned: len(planned.manifest["file"]), default=None)
    refused: list[tuple[str, str]] = []
    for planned in planned_parts:
        try:
            _add_planned(setup, planned)
        except WrongParameters as error:
            if planned is largest and not any(taken.values()):
                raise
            files = planned.names.tolist()
            refused += [(file, str(error)) for file in files]
            progress.tell(
                f"Set aside: {len(files)} frame(s) of {planned.key} {planned.night}, the first is {files[0]}: {error}"
            )
            continue
        for note in planned.notes:
            progress.tell(note)
    return refused


def _refuse_equal_names(keys: Iterable[str]) -> None:
    """Keys, and cameras by their biases, are groups and files: no two may have one name, on any file system."""
    keys = set(keys)
    for kind, names in (("filters", keys), ("cameras", {key.partition(":")[0] for key in keys})):
        by_name: dict[str, list[str]] = {}
        for name in sorted(names):
            by_name.setdefault(twin(group_name(name)), []).append(name)
        for same in by_name.values():
            if len(same) > 1:
                raise ReductionError(
                    f"{' and '.join(same)} would be one group {group_name(same[0])} of the store: give these "
                    f"{kind} names in the headers that differ in more than capital letters, separators and dots at "
                    "the end, or reduce them with an output directory for each."
                )


def stored_parameters(out_directory: str | Path) -> ReductionParameters:
    """Parameters that a store was made with."""
    record = json.loads(Store.open(out_directory).attributes["parameters"])
    known = {entry.name for entry in fields(ReductionParameters)}
    return parameters_from_mapping({name: value for name, value in record.items() if name in known})


def _root_attributes(setup: Setup) -> dict[str, Any]:
    record = setup.record()
    return {
        **versions(),
        "instrument": setup.instrument.name,
        "instrument_definition": setup.instrument.to_dict(),
        "parameters": identities.parameters_json(record),
        "parameters_hash": identities.parameters_hash(record),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def versions() -> dict[str, Any]:
    """Versions of this package, of Python, and of what the numbers depend on, and the form of the kernels."""
    return {
        "opticam_dask_version": _version_of("opticam-dask"),
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "kernels": compiled.form(),
    }


@functools.cache
def _version_of(package: str) -> str:
    """Version of a package, for which its files are looked through."""
    return metadata.version(package)


def _tell_other_versions(setup: Setup, progress: Progress) -> None:
    """Say when a reduction goes on with other versions than it was begun with."""
    attributes, now = setup.store.attributes, versions()
    now = {name: value for name, value in now.items() if name in attributes}  # older stores do not tell all of it
    before = {name: attributes[name] for name in now}
    if changed := identities.differences(before, now):
        progress.tell(f"Note: the reduction was begun with other versions ({'; '.join(changed)}).")


#: What entries of a definition were where it did not name them, in stores of before schema version 1.5.
_FORMER_DEFAULTS = {
    "time_scale": "utc",
    "filter_keyword": "FILTER",
    "exposure_time_keyword": ["EXPTIME", "EXPOSURE"],
    "gain_keyword": "GAIN",
    "binning_keyword": "BINNING",
    "read_noise_keyword": "RDNOISE",
    "airmass_keyword": "AIRMASS",
    "ra_keyword": "RA",
    "dec_keyword": "DEC",
    "ra_unit": "hourangle",
}


def as_begun(out_directory: str | Path, instrument: Instrument) -> Instrument:
    """The definition with which a reduction goes on: what it leaves to defaults has the meaning of the store.

    Frames that come later are then read like those of before, and the parameters are the same.

    Parameters
    ----------
    out_directory : path
        Output directory of the reduction; without a store in it the instrument is returned as it is.
    instrument : Instrument
        Definition that the user gave now.
    """
    store = Store.at(out_directory)
    before: dict[str, Any] = {}
    with contextlib.suppress(StoreError):  # nothing is known of a damaged store, which a run may begin again
        before = (store.attributes.get("instrument_definition") or {}) if store.exists() else {}
    default = {entry.name: entry.default for entry in fields(instrument)}
    kept: dict[str, Any] = {
        name: value
        for name, value in _FORMER_DEFAULTS.items()
        if before.get(name) == value and getattr(instrument, name) == default[name]
    }
    return replace(instrument, **kept) if kept else instrument


def check_parameters(setup: Setup) -> None:
    """Refuse a store that was made with other parameters.

    Raises
    ------
    WrongParameters
        With the parameters that differ, before and now.
    store.StoreError
        When the store is of an older version.
    """
    store = Store.open(setup.out_directory)
    store.require_present_version()
    attributes = store.attributes
    record = setup.record()
    if attributes.get("parameters_hash") != identities.parameters_hash(record):
        before = json.loads(attributes["parameters"])
        changed = identities.differences(before, json.loads(identities.parameters_json(record)))
        raise WrongParameters(
            f"{setup.out_directory} was reduced with other parameters ({'; '.join(changed)}). "
            "Use the same parameters to go on, --new to begin again with these, or another output directory."
        )


def _known_files(setup: Setup, *, without: Sequence[tuple[str, str]] = ()) -> dict[str, Facts]:
    """What every file of the store was known by, by path; not of (key, night) in ``without``."""
    known: dict[str, Facts] = {}
    for camera in setup.store.cameras:
        for name in camera.part_names:
            # what is to be made anew need not be readable
            part = None if (camera.key, name.partition(".")[0]) in without else camera.part(name)
            if part is None:
                continue
            manifest = part.manifest()
            known |= dict(zip(manifest["file"].tolist(), _facts(manifest), strict=True))
    return known


def _facts(frames: pd.DataFrame | Mapping[str, np.ndarray]) -> Iterator[Facts]:
    columns = (frames[f"file_{name}"].tolist() for name in Facts._fields)
    return map(Facts._make, zip(*columns, strict=True))


def _under_known_names(setup: Setup, scan: scanning.Scan) -> scanning.Scan:
    """The scan with files that the store knows by another path (through a link) under that path."""
    by_name = {_name_and_time(file, facts): file for file, facts in _safely_known(setup).items()}
    names = []
    for file, facts in zip(scan.table["file"], _facts(scan.table), strict=True):
        other = by_name.get(_name_and_time(file, facts), file)
        is_same = other != file and not is_remote(file) and _is_same_file(other, file)
        names.append(other if is_same else file)
    table = scan.table.assign(file=np.array(names, dtype=object))
    return scanning.Scan(table, scan.set_aside, scan.warnings)


def _name_and_time(file: str, facts: Facts) -> tuple[str, int, float]:
    """What a copy has in common with its original, and two files of a camera do not."""
    return os.path.basename(file), facts.size, facts.mtime


def _is_changed(before: Facts | None, now: Facts) -> bool:
    """Whether a file has changed; False for a file that was not known before."""
    if before is None:
        return False
    is_other = 0 != before.checksum != now.checksum != 0
    return is_other or (before.size, before.mtime) != (now.size, now.mtime)


def _is_same_file(known: str, given: str) -> bool:
    """Whether the files of two frames of this machine are one."""
    known_file, given_file = file_of(known), file_of(given)
    return os.path.exists(known_file) and os.path.samefile(known_file, given_file)


def _safely_known(setup: Setup) -> dict[str, Facts]:
    """Known files of the parts that can be read; a damaged part can still be reduced again."""
    try:
        return _known_files(setup)
    except StoreError:
        return {}


def _check_files(setup: Setup, scan: scanning.Scan, changes: Changes) -> None:
    """Refuse files that do not belong to the store, before anything is removed from it."""
    if changes.rebuild_reference:
        _require_all_files(setup, scan)
    is_redone = scan.table["night"].isin(changes.redo).to_numpy(dtype=bool)
    redone = sorted(set(zip(scan.table["key"][is_redone], scan.table["night"][is_redone], strict=True)))
    if changes.redo:
        _ask_again_for_changed(setup, scan.table[is_redone])
    known, table = _known_files(setup, without=redone), scan.table[~is_redone]
    if not known or not len(scan.table):
        return
    if is_redone.any():
        _refuse_other_place(setup, scan.table[is_redone])
    _refuse_moved_files(table, known)
    _refuse_changed_files(table, [known.get(file) for file in table["file"]])
    is_new = np.array([file not in known for file in table["file"]], dtype=bool)
    is_asked = changes.append or changes.new or changes.rebuild_reference or bool(changes.redo)
    if is_new.all() and not is_asked:
        raise ReductionError(
            f"{setup.out_directory} holds a reduction of {len(known)} other frames (the first is {min(known)}), and "
            f"none of the {len(table)} given now. Add --append to take these up as further nights of the same field, "
            "--new to begin again, or use another output directory. When the frames have moved, opticam-dask relocate "
            "OUT DATA tells the reduction where they are."
        )


def _ask_again_for_changed(setup: Setup, table: pd.DataFrame) -> None:
    known = _safely_known(setup)
    is_changed = [_is_changed(known.get(file), facts) for file, facts in zip(table["file"], _facts(table), strict=True)]
    nights.ask_again(setup.store, set(table["night"][is_changed]))


def _refuse_other_place(setup: Setup, table: pd.DataFrame) -> None:
    """Refuse copies of the frames of a night that is to be reduced again, while the originals are there."""
    known = _safely_known(setup)
    files = {name: file_of(name) for name in known}
    remote = facts_of([file for file in files.values() if is_remote(file)])
    originals = {name: facts for name, facts in known.items() if files[name] in remote or os.path.exists(files[name])}
    _refuse_moved_files(table, originals)


def _new_rows(setup: Setup, scan: scanning.Scan, progress: Progress) -> pd.DataFrame:
    """Rows of the scan that the store does not have."""
    known, table = _known_files(setup), scan.table
    is_left_out = table["night"].isin(nights.left_out_nights(setup.store)).to_numpy(dtype=bool)
    if is_left_out.any():
        names = ", ".join(sorted(set(table["night"][is_left_out])))
        progress.tell(f"{is_left_out.sum()} frame(s) of removed nights are left out ({names}); --redo brings one back.")
        table = table[~is_left_out]
    return table[[file not in known for file in table["file"].tolist()]] if known else table


def _refuse_changed_files(table: pd.DataFrame, before: Sequence[Facts | None]) -> None:
    is_changed = np.array([_is_changed(old, new) for old, new in zip(before, _facts(table), strict=True)], dtype=bool)
    if is_changed.any():
        changed = table[is_changed]
        names = sorted(set(changed["night"]))
        raise ReductionError(
            f"{len(changed)} file(s) changed since they were reduced, the first is {changed['file'].iloc[0]}. "
            f"Put the original files back, add --redo {' '.join(names)} to reduce as they are now, or use another "
            "output directory."
        )


def _require_all_files(setup: Setup, scan: scanning.Scan) -> None:
    """Refuse to give up reduced nights whose frames are not among those given."""
    if nights.read_pending(setup.store).get("rebuild_reference"):
        return
    missing = sorted(set(_known_files(setup)) - set(scan.table["file"]))
    if missing:
        raise ReductionError(
            f"--rebuild-reference reduces every night again, but {len(missing)} frame(s) of the store are not among "
            f"those given, the first is {missing[0]}. Give all directories."
        )


def _refuse_moved_files(table: pd.DataFrame, known: Mapping[str, Facts]) -> None:
    """Refuse copies of frames that were reduced from another place: they would be measured twice."""
    before = {_name_and_time(file, facts): file for file, facts in known.items()}
    given = zip(table["file"], _facts(table), strict=True)
    moved = [
        (file, before[_name_and_time(file, facts)])
        for file, facts in given
        if file not in known and _name_and_time(file, facts) in before
    ]
    if moved:
        raise ReductionError(
            f"{len(moved)} file(s) were reduced before from another place: {moved[0][0]} is {moved[0][1]}. "
            "Give the directory that was given before, --new to begin again, or another output directory. When the "
            "frames have moved, opticam-dask relocate OUT DATA tells the reduction where they are."
        )


def _add_planned(setup: Setup, planned: plan.PlannedPart) -> None:
    steps = setup.steps(planned.shape, planned.binning)
    per_block = setup.frames_per_block or plan.frames_per_block(planned.shape, np.dtype(planned.dtype))
    part = Part(
        camera=setup.store.add_camera(planned.key, planned.camera, planned.filter),
        night=planned.night,
        n_frames=len(planned.manifest["file"]),
        frames_per_block=per_block,
        shape=planned.shape,
        binning=planned.binning,
        mesh_shape=steps.mesh_shape,
        n_slots=steps.n_slots,
        uid=uuid.uuid4().hex,
    )
    provenance = versions() | {"parameters_hash": identities.parameters_hash(setup.record())}
    making.create_part(part, planned.manifest, planned.data_root, provenance, site=planned.site)


def _write_set_aside(setup: Setup, scan: scanning.Scan, refused: Sequence[tuple[str, str]]) -> None:
    """Keep the files that could not be used at all, with the reason, over all runs."""
    listed: dict[str, str] = {}
    set_aside = setup.store.set_aside
    if set_aside.is_whole:
        before = set_aside.read_all()
        listed = dict(zip(before["file"].tolist(), before["reason"].tolist(), strict=True))
    listed |= dict(scan.set_aside)
    for file in scan.table["file"].tolist() if listed else ():
        listed.pop(file, None)
    listed |= dict(refused)
    arrays = {
        "file": np.array(sorted(listed), dtype=object),
        "reason": np.array([listed[file] for file in sorted(listed)], dtype=object),
    }
    set_aside.write(arrays, {"long_name": "files that could not be used"})
