"""Plan of a reduction by submitted jobs: its blocks, their division among jobs, and the state of the run."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import identities, locations
from opticam_dask.api.jobs import job_arrays, planned_run
from opticam_dask.api.jobs.planned_run import MOST_JOBS, PartOfRun, PlannedRun
from opticam_dask.api.repair import stored_setup
from opticam_dask.api.session import Session
from opticam_dask.frames.scanning import Scan
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometer_kinds import photometer_from_record
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.driver import PASSES, Changes, ReductionError, Run, Setup, WrongParameters
from opticam_dask.store import ownership
from opticam_dask.store.camera import Part
from opticam_dask.store.errors import StoreError
from opticam_dask.store.store import Store

#: Without another wish a job has at least this many blocks for each of its workers: a block takes about a second, the
#: start of a job four.
_LEAST_BLOCKS = 64


def plan(
    setup: Setup,
    scan: Scan,
    photometers: Mapping[str, Photometer],
    session: Session,
    *,
    changes: Changes | None = None,
    calibration: Mapping[str, Sequence[str]] | None = None,
    sky: Mapping[str, Any] | None = None,
    frame_timeout: float = 300.0,
    cluster: str = "local",
    n_workers: int = 1,
    blocks_per_job: int | None = None,
) -> PlannedRun | None:
    """Make or take up the store, and plan the jobs that reduce what is not done.

    Parameters
    ----------
    setup : Setup
        Settings of the reduction.
    scan : Scan
        Frames that were found.
    photometers : dict of Photometer
        By label; of this package.
    session : Session
        That of this process on the output directory, which is entered.
    changes : Changes, optional
        What is to be redone, removed or added; by default frames that are new.
    calibration : dict of sequence of path, optional
        Directories of calibration frames by kind.
    sky : dict, optional
        Files by which catalogues are found on the sky: ``sky_catalog``, ``wcs`` and ``sky_epoch``.
    frame_timeout : float
        Seconds for one frame; 0 is no limit.
    cluster : {"local", "none"}
        Whether each job has worker processes of its own or is one process.
    n_workers : int
        Worker processes of each job.
    blocks_per_job : int, optional
        Blocks of each element of an array; by default 64 for each worker, or more where there would be over 1000
        elements.

    Returns
    -------
    PlannedRun or None
        None when everything is done already.

    Raises
    ------
    ReductionError
        When nothing can be reduced.
    """
    if blocks_per_job is not None and blocks_per_job < 1:
        raise WrongParameters(f"blocks_per_job must be at least 1, got {blocks_per_job}")
    if cluster not in ("local", "none"):
        raise WrongParameters(f"each job has workers of its own: --cluster takes local or none here, got {cluster!r}")
    _require_known(setup, photometers)
    was_ended = _prepare(setup, scan, photometers, session, changes or Changes()) and setup.sky is None
    driver.find_places(setup, session.progress)  # in the catalogues that are there
    todo = [part for part in _all_parts(setup) if not _is_done(part, list(photometers))]
    if not todo:
        everything = Run(setup, session.executor, session.progress, photometers)
        PASSES[-1].finish(everything)
        job_arrays.end(everything, writes=not was_ended)
        shutil.rmtree(setup.out_directory / ownership.PLANNED_RUN, ignore_errors=True)
        return None
    n_blocks = sum(part.n_blocks for part in todo)
    default = max(_LEAST_BLOCKS * n_workers, -(-n_blocks // MOST_JOBS))
    run = PlannedRun(
        out_directory=setup.out_directory,
        token=uuid.uuid4().hex,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        parts=tuple(PartOfRun(part.key, part.night, part.uid, part.n_blocks, part.n_frames) for part in todo),
        photometers={label: identities.describe(photometer) for label, photometer in photometers.items()},
        calibration={kind: tuple(_absolute(path) for path in paths) for kind, paths in (calibration or {}).items()},
        sky=_with_absolute_paths(sky or {}),
        frame_timeout=frame_timeout,
        cluster=cluster,
        n_workers=n_workers,
        blocks_per_job=blocks_per_job or default,
    )
    shutil.rmtree(run.directory, ignore_errors=True)
    planned_run.save(run)
    ownership.hand_over(session.owner, run.token)
    return run


def _prepare(
    setup: Setup, scan: Scan, photometers: Mapping[str, Photometer], session: Session, changes: Changes
) -> bool:
    """Make or take up the store; say whether the run before was ended with all its files."""
    is_there = setup.store.exists() and not changes.new
    if is_there and not (changes.redo or changes.rebuild_reference):
        driver.check_parameters(setup)  # what is refused leaves the store as it is
        _require_same_photometry(setup, photometers)
    was_ended = is_there and _was_ended(setup)
    driver.prepare(setup, scan, session.progress, changes)
    _require_same_photometry(setup, photometers)
    return was_ended


def _absolute(path: str) -> str:
    """A directory as a job finds it, whatever directory that works in."""
    return path if locations.is_remote(path) else str(Path(locations.local_path(path)).absolute())


def _with_absolute_paths(sky: Mapping[str, Any]) -> dict[str, Any]:
    places: dict[str, Any] = {"sky_catalog": _absolute, "wcs": lambda files: [_absolute(str(file)) for file in files]}
    return {name: places[name](value) if name in places else value for name, value in sky.items()}


def _was_ended(setup: Setup) -> bool:
    """Whether the last run on a store, planned or not, came to its end."""
    try:
        before = planned_run.find(setup.out_directory)
    except StoreError:
        return False
    return setup.store.is_consolidated and (before is None or before.next_pass is None)


def _require_same_photometry(setup: Setup, photometers: Mapping[str, Photometer]) -> None:
    """Refuse a label under which a night was measured otherwise, before its blocks are shared out.

    Raises
    ------
    WrongParameters
    """
    for label, photometer in photometers.items():
        record = {"photometer": identities.describe(photometer), "reduction": setup.record()}
        expected = identities.parameters_hash(record)
        for part in _all_parts(setup):
            present = part.photometry(label).attributes
            if present.get("complete") and present.get("parameters_hash") != expected:
                raise WrongParameters(
                    f"photometry {label!r} of {part.key} {part.night} is in the store with other parameters "
                    f"({present.get('parameters')}). Give this variant a name of its own with --label NAME."
                )


def _require_known(setup: Setup, photometers: Mapping[str, Photometer]) -> None:
    """Refuse functions of the user, which no record can hold.

    Raises
    ------
    WrongParameters
    """
    own = [name for name in ("background", "finder", "image_filter", "reader") if getattr(setup, name) is not None]
    own += ["aperture_selector"] if setup.aperture_selector is not np.median else []
    own += [label for label, entry in photometers.items() if photometer_from_record(identities.describe(entry)) is None]
    if own:
        raise WrongParameters(f"jobs know no functions of your own ({', '.join(own)}): use reduce for those.")


def _all_parts(setup: Setup) -> list[Part]:
    return setup.store.parts


def _is_done(part: Part, labels: Sequence[str]) -> bool:
    """Whether nothing is left to do of a part: stack, profile, and every label."""
    if not (part.stack.is_whole and part.psf.is_whole):
        return False
    known, catalog = part.labels, part.camera.catalog
    n_sources = len(catalog["source_id"]) if catalog.is_whole else 0
    return all(label in known and len(part.photometry(label)["source_id"]) == n_sources for label in labels) and all(
        part.records(label).done().all() for label in (None, *labels)
    )


def take_up(out_directory: str | Path) -> PlannedRun | None:
    """The run that was planned in a directory before; None when it is finished.

    Raises
    ------
    store.StoreError
        When none was, or its record is damaged.
    ReductionError
        When it was given up.
    """
    run = planned_run.read(out_directory)
    if run.next_pass is None:
        return None
    if not ownership.is_owned_by(out_directory, run.token):
        if _is_all_done(run):
            return None
        raise ReductionError(f"{_given_up(run)} Give DATA to plan again.")
    return run


def _is_all_done(run: PlannedRun) -> bool:
    """Whether another run has finished what was planned."""
    if not Store.at(run.out_directory).exists():
        return False
    try:
        setup = stored_setup(run.out_directory)
    except ReductionError:  # made anew with functions of the user
        return False
    return all(_is_done(part, list(run.photometers)) for part in _all_parts(setup))


def _given_up(run: PlannedRun) -> str:
    return f"The run of job arrays planned on {run.created} was given up: another run took the directory over."


def describe_plan(run: PlannedRun) -> list[str]:
    """The passes of a run and the commands for them, as lines for a person."""
    out = run.out
    n_frames = sum(part.n_frames for part in run.parts)
    lines = [f"Planned: {n_frames} frames of {len(run.parts)} part(s) in {run.n_units(1)} blocks (plan {run.name})."]
    for part in run.parts:
        first = run.first_block(part)
        lines.append(f"  blocks {first}:{first + part.n_blocks}: {part.key} {part.night}, {part.n_frames} frames")
    for number, one in enumerate(PASSES):
        lines.append(f"pass {number}, {one.name}:")
        if run.n_units(number):
            lines.append(f"  opticam-dask work {out} --pass {number} --blocks a:b    within 0:{run.n_units(number)}")
        lines.append(f"  opticam-dask finish {out} --pass {number}")
    return lines


# ---------------------------------------------------------------- where a run stands


def describe_run(out_directory: str | Path) -> list[str]:
    """State of the planned run of a directory and what to do next; nothing where no run is under way.

    Raises
    ------
    store.StoreError
        When its record is damaged.
    """
    run = planned_run.find(out_directory)
    if run is None or run.next_pass is None:
        return []
    if not ownership.is_owned_by(out_directory, run.token):
        return [] if _is_all_done(run) else [_given_up(run)]
    number = run.next_pass
    lines = [f"Run of job arrays, planned on {run.created}:"]
    for done in range(number):
        lines.append(f"  pass {done} ({PASSES[done].name}): finished")
    missing = job_arrays.missing_blocks(run, number)
    if missing:
        ranges = planned_run.ranges_of(missing)
        state = f"{run.n_units(number) - len(missing)} of {run.n_units(number)} blocks done"
        more = " ..." if len(ranges) > planned_run.text_of(ranges).count(":") else ""
        what = f"work {run.out} --pass {number} --blocks {planned_run.text_of(ranges)}{more}"
    else:
        state = "all blocks done" if run.n_units(number) else "to do"
        what = f"finish {run.out} --pass {number}"
    lines.append(f"  pass {number} ({PASSES[number].name}): {state}")
    lines.append(f"  next: opticam-dask {what}")
    lines.append(f"  or submit what is left: opticam-dask plan --out {run.out} --slurm | bash")
    return lines
