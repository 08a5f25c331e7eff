"""Reduction of a run by submitted jobs, without a scheduler that lives as long as the run: plan, work, finish.

The steps are those of :mod:`~opticam_dask.pipeline.driver` and so are the bits: ``work`` runs the blocks of its
range on workers of its own, ``finish`` does what needs all blocks of a pass. See
:mod:`~opticam_dask.api.planned_run` for what is numbered how.

What takes long is in blocks: reading frames. A night's stack and its star profile (up to 320 reads of frames) are units
of pass 2, because a serial finish would cost 30 nights ten thousand frames, as long as a hundred workers need for the
whole pass of 10^6. What finishes read are flags and a few numbers a frame.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask import config, locations
from opticam_dask.api import planned_run
from opticam_dask.api.planned_run import LAST_PASS, MOST_JOBS, PASSES, PlannedPart, PlannedRun
from opticam_dask.api.reducer import LOG_NAME, log_to_file
from opticam_dask.api.repair import stored_setup
from opticam_dask.cluster.executors import Executor
from opticam_dask.display import diagnostics, products
from opticam_dask.frames.scanning import Scan
from opticam_dask.kernels.sources.profile import Rings, empty_rings
from opticam_dask.lightcurves import light_curve_files
from opticam_dask.methods.photometer_kinds import photometer_from_record
from opticam_dask.passes.calibration import KINDS, Calibration, find_calibration_frames
from opticam_dask.passes.second_pass import Photometer
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.driver import Changes, Outcome, Progress, ReductionError, Setup, WrongParameters
from opticam_dask.store import layout, ownership

#: Opens the place where blocks run.
Connect = Callable[[], contextlib.AbstractContextManager[Executor]]

#: Without another wish a job has at least so many blocks for each of its workers: a block takes about a second, the
#: start of a job four.
_LEAST_BLOCKS = 64


class Incomplete(ReductionError):
    """A pass cannot be finished, or not begun: something before it is not done; the message says what to run."""


# ---------------------------------------------------------------- plan


def plan(
    setup: Setup,
    scan: Scan,
    photometers: Mapping[str, Photometer],
    owner: ownership.Owner,
    progress: Progress,
    *,
    changes: Changes | None = None,
    calibration: Mapping[str, Sequence[str]] | None = None,
    frame_timeout: float = 300.0,
    cluster: str = "local",
    n_workers: int = 1,
    blocks_per_job: int | None = None,
) -> PlannedRun | None:
    """Make or take up the store, and leave the directory to the jobs that reduce what is not done.

    Parameters
    ----------
    setup : Setup
    scan : Scan
        Frames that were found.
    photometers : dict of Photometer
        By label; of this package.
    owner : Owner
        Hold of this process on the directory.
    progress : Progress
    changes : Changes, optional
    calibration : dict of sequence of path, optional
        Directories of calibration frames by kind.
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
    changes = changes or Changes()
    is_there = layout.exists(setup.out_directory) and not changes.new
    if is_there and not (changes.redo or changes.rebuild_reference):
        driver.check_parameters(setup)  # what is refused leaves the store as it is
        _require_same_photometry(setup, photometers)
    was_ended = is_there and _was_ended(setup)
    with log_to_file(setup.out_directory / LOG_NAME):
        driver.prepare(setup, scan, progress, changes)
    _require_same_photometry(setup, photometers)
    todo = [part for part in _all_parts(setup) if not _is_done(setup, part, list(photometers))]
    if not todo:
        _end(setup, list(photometers), progress, is_new=not was_ended)
        return None
    n_blocks = sum(part.n_blocks for part in todo)
    default = max(_LEAST_BLOCKS * n_workers, -(-n_blocks // MOST_JOBS))
    run = PlannedRun(
        out_directory=setup.out_directory,
        token=uuid.uuid4().hex,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        parts=tuple(PlannedPart(part.key, part.night, part.uid, part.n_blocks, part.n_frames) for part in todo),
        photometers={label: config.describe(photometer) for label, photometer in photometers.items()},
        calibration={kind: tuple(_absolute(path) for path in paths) for kind, paths in (calibration or {}).items()},
        frame_timeout=frame_timeout,
        cluster=cluster,
        n_workers=n_workers,
        blocks_per_job=blocks_per_job or default,
    )
    shutil.rmtree(run.directory, ignore_errors=True)
    planned_run.save(run)
    ownership.hand_over(owner, run.token)
    return run


def _absolute(path: str) -> str:
    """A directory as a job finds it, whatever directory that works in."""
    return path if locations.is_remote(path) else str(Path(locations.local_path(path)).absolute())


def _was_ended(setup: Setup) -> bool:
    """Whether the last run on a store, planned or not, came to its end."""
    try:
        before = planned_run.find(setup.out_directory)
    except layout.StoreError:
        return False
    return layout.is_consolidated(setup.path) and (before is None or before.next_pass is None)


def _end(setup: Setup, labels: Sequence[str], progress: Progress, *, is_new: bool) -> None:
    """Do what belongs to the end of a reduction of which all blocks are done, and forget the plan for it."""
    with log_to_file(setup.out_directory / LOG_NAME):
        driver.measure_quality(setup, progress)
        driver.finish(setup)
        if is_new or not _has_products(setup, labels):
            for file in _write_products(setup.out_directory, labels):
                progress.tell(f"Written: {file.resolve()}")
    shutil.rmtree(setup.out_directory / planned_run.DIRECTORY_NAME, ignore_errors=True)


def _require_same_photometry(setup: Setup, photometers: Mapping[str, Photometer]) -> None:
    """Refuse a label under which a night was measured otherwise, before its blocks are shared out.

    Raises
    ------
    WrongParameters
    """
    for label, photometer in photometers.items():
        record = {"photometer": config.describe(photometer), "reduction": setup.record()}
        expected = config.parameters_hash(record)
        for part in _all_parts(setup):
            present = layout.read_attributes(setup.path, f"{part.group}/photometry/{label}")
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
    own += [label for label, entry in photometers.items() if photometer_from_record(config.describe(entry)) is None]
    if own:
        raise WrongParameters(f"jobs know no functions of your own ({', '.join(own)}): use reduce for those.")


def _all_parts(setup: Setup) -> list[layout.Part]:
    return [part for key in layout.keys(setup.path) for part in layout.parts(setup.path, key)]


def _is_done(setup: Setup, part: layout.Part, labels: Sequence[str]) -> bool:
    """Whether nothing is left to do of a part: stack, profile, and every label."""
    if not (layout.has_product(setup.path, f"{part.group}/stack") and driver.has_profile(setup, part)):
        return False
    known = layout.photometry_labels(setup.path, part)
    return all(label in known for label in labels) and all(
        layout.done_blocks(setup.path, part, label).all() for label in (None, *labels)
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


def require_plan(run: PlannedRun, token: str | None) -> None:
    """Refuse a job that was submitted for another plan than that which is there now.

    Parameters
    ----------
    run : PlannedRun
    token : str, optional
        First characters of the token of the plan that the job belongs to.

    Raises
    ------
    ReductionError
    """
    if token and not run.token.startswith(token):
        raise ReductionError(
            f"{run.out_directory} was planned again on {run.created} (plan {run.name}), and this job belongs to the "
            f"plan {token}: nothing was done."
        )


def _is_all_done(run: PlannedRun) -> bool:
    """Whether another run has finished what was planned."""
    if not layout.exists(run.out_directory):
        return False
    try:
        setup = _setup(run)
    except ReductionError:  # made anew with functions of the user
        return False
    return all(_is_done(setup, part, list(run.photometers)) for part in _all_parts(setup))


def _given_up(run: PlannedRun) -> str:
    return f"The run of job arrays planned on {run.created} was given up: another run took the directory over."


def describe_plan(run: PlannedRun) -> list[str]:
    """What the passes of a run are, and the commands for them, as lines for a person."""
    out = run.out
    n_frames = sum(part.n_frames for part in run.parts)
    lines = [f"Planned: {n_frames} frames of {len(run.parts)} part(s) in {run.n_units(1)} blocks (plan {run.name})."]
    for part in run.parts:
        first = run.first_block(part)
        lines.append(f"  blocks {first}:{first + part.n_blocks}: {part.key} {part.night}, {part.n_frames} frames")
    for number, name in enumerate(PASSES):
        lines.append(f"pass {number}, {name}:")
        if number:
            lines.append(f"  opticam-dask work {out} --pass {number} --blocks a:b    within 0:{run.n_units(number)}")
        lines.append(f"  opticam-dask finish {out} --pass {number}")
    return lines


# ---------------------------------------------------------------- work


def work(
    run: PlannedRun, number: int, chosen: Sequence[range] | None, connect: Connect, progress: Progress
) -> Outcome | None:
    """Do the blocks of a pass that are in some ranges and not done yet.

    Parameters
    ----------
    run : PlannedRun
    number : int
        Of the pass.
    chosen : sequence of range, optional
        By default all blocks.
    connect : callable
        Opens the place where they run; not called when there is nothing to do.
    progress : Progress

    Returns
    -------
    Outcome or None
        None when there was nothing to do.

    Raises
    ------
    WrongParameters
        When there is no such pass or block.
    Incomplete
        When the pass before is not finished.
    ownership.OwnershipLost
        When the directory is not the run's any more.
    """
    _check_pass(number)
    n_units = run.n_units(number)
    if not number:
        raise WrongParameters(f"pass 0 has no blocks: opticam-dask finish {run.out} --pass 0 does all of it.")
    chosen = [range(n_units)] if chosen is None else chosen
    if outside := [one for one in chosen if one.stop > n_units]:
        raise WrongParameters(f"pass {number} has the blocks 0:{n_units}, got {planned_run.text_of(outside)}.")
    if run.is_finished(number):
        return None
    _require_finished(run, number - 1)
    with ownership.join(run.out_directory, run.token):
        setup = _setup(run)
        todo = _Work(run, setup, number, chosen)
        if not todo.n_units:
            return None
        with connect() as executor:
            return todo.run(executor, progress)


def ranges_of_job(run: PlannedRun, number: int, job: int, blocks_per_job: int | None = None) -> list[range]:
    """Blocks of one element of the array of a pass, numbered from 0.

    Raises
    ------
    WrongParameters
        When the array has no such element.
    """
    _check_pass(number)
    size, n_units = run.units_per_job(number) if blocks_per_job is None else blocks_per_job, run.n_units(number)
    if size < 1:
        raise WrongParameters(f"blocks_per_job must be at least 1, got {size}")
    if not 0 <= job * size < n_units:
        raise WrongParameters(
            f"pass {number} has {n_units} blocks, which makes {-(-n_units // size)} job(s) of {size}, numbered from 0; "
            f"got job {job}."
        )
    return [range(job * size, min((job + 1) * size, n_units))]


class _Work:
    """What some ranges of blocks of a pass leave to do."""

    def __init__(self, run: PlannedRun, setup: Setup, number: int, chosen: Sequence[range]) -> None:
        self.run_, self.setup, self.number = run, setup, number
        if number == 2:
            indices = sorted({index for one in chosen for index in one})
            self.parts = [run.parts[index] for index in indices if not run.sums_file(run.parts[index]).is_file()]
            self.n_units = len(self.parts)
            return
        cut = itertools.chain.from_iterable(run.cut(one) for one in _merged(chosen))
        self.blocks = [(part, todo) for part, among in cut for todo in [_undone(run, setup, number, part, among)]]
        self.n_units = sum(len(todo) for _, todo in self.blocks)

    def run(self, executor: Executor, progress: Progress) -> Outcome:
        if self.number == 2:
            return self._run_parts(executor, progress)
        work, n_frames = [], 0
        facts = _PreparedPhotometers(self.run_, self.setup) if self.number == LAST_PASS else None
        for planned, todo in self.blocks:
            if not todo:
                continue
            part = _open(self.setup, planned)
            if facts is None:
                work.append(driver.first_pass_work(self.setup, part, todo))
            else:
                work.append(driver.second_pass_work(self.setup, part, facts.of(part.key), todo))
            n_frames += sum(stop - start for start, stop in map(part.block_range, todo))
        outcome = Outcome()
        name = "Aligning frames" if facts is None else "Performing photometry"
        with driver.stage(progress, name, n_frames):
            for key, summary in executor.run(work):
                ownership.check_owner(self.setup.out_directory)
                outcome.add(key, summary)
                progress.advance(summary.n_frames)
        return outcome

    def _run_parts(self, executor: Executor, progress: Progress) -> Outcome:
        """Do the parts that no other job is doing, and then refuse those that one is."""
        outcome, refused = Outcome(), list[str]()
        for planned in self.parts:
            place = self.run_.place_of(planned)
            place.mkdir(parents=True, exist_ok=True)
            try:
                with ownership.own(place):
                    if not self.run_.sums_file(planned).is_file():
                        self._run_part(planned, place, executor, progress)
                        outcome.n_frames[planned.key] = outcome.n_frames.get(planned.key, 0) + planned.n_frames
            except ownership.OwnedError:
                refused.append(f"{planned.key} {planned.night}")
        if refused:
            raise Incomplete(
                f"another job works on {', '.join(refused)}: it was left to that one. When it ends without having "
                f"finished, run opticam-dask work {self.run_.out} --pass 2 again; a job that died counts as such after "
                f"{ownership.STALE / 60:.0f} minutes."
            )
        return outcome

    def _run_part(self, planned: PlannedPart, place: Path, executor: Executor, progress: Progress) -> None:
        part = _open(self.setup, planned)
        if _key_has(self.setup, part, "reference"):
            driver.finish_stack(self.setup, part, executor)
        found: dict[int, Any] = {}
        if _key_has(self.setup, part, "catalog") and not driver.has_profile(self.setup, part):
            some, frames = driver.profile_frames(self.setup, part)
            name = f"Measuring the star profile of {part.key} {part.night}"
            with driver.stage(progress, name, len(some) + len(frames)):
                found = driver.measure_stars(self.setup, executor, progress, part, some, frames)
        ownership.check_owner(self.setup.out_directory)
        ownership.check_owner(place)
        _write_sums(self.run_.sums_file(planned), found)


class _PreparedPhotometers:
    """Photometers of a run as they are for each key, with what the finish of pass 2 found out about it."""

    def __init__(self, run: PlannedRun, setup: Setup) -> None:
        self.setup, self.photometers = setup, _photometers(run)
        self.background_rms = run.facts_of(2)["background_rms"]
        self.by_key: dict[str, dict[str, Photometer]] = {}

    def of(self, key: str) -> dict[str, Photometer]:
        if key not in self.by_key:
            self.by_key[key] = driver.prepare_for_key(
                self.setup, key, self.photometers, background_rms=self.background_rms[key]
            )
        return self.by_key[key]


def _merged(chosen: Iterable[range]) -> list[range]:
    """Ranges without those that overlap, so that no block is run twice at once."""
    found: list[range] = []
    for one in sorted(chosen, key=lambda entry: entry.start):
        if found and one.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    return found


def _undone(run: PlannedRun, setup: Setup, number: int, planned: PlannedPart, among: range) -> list[int]:
    """Blocks of a part, of those in ``among``, that a pass has not done; none of a key that can go no further."""
    part = _open(setup, planned)
    if not _key_has(setup, part, "reference" if number == 1 else "catalog"):
        return []
    if number == 1:
        return driver.blocks_to_reduce(setup, part, among)
    return driver.blocks_to_measure(setup, part, list(run.photometers), among)


def _open(setup: Setup, planned: PlannedPart) -> layout.Part:
    part = layout.open_part(setup.path, planned.key, planned.night)
    if part is None or part.uid != planned.uid:
        raise ReductionError(
            f"{planned.key} {planned.night} was removed or made anew since the run was planned: plan it again "
            f"(opticam-dask plan DATA --out {setup.out_directory} --break-lock)."
        )
    return part


def _key_has(setup: Setup, part: layout.Part, product: str) -> bool:
    return layout.has_product(setup.path, f"{layout.group_name(part.key)}/{product}")


def _write_sums(file: Path, found: Mapping[int, Rings | None]) -> None:
    """Keep what was found of the stars of a part, exactly, by frame."""
    known = [(index, rings) for index, rings in sorted(found.items()) if rings is not None]
    everything = [rings for _, rings in known] or [empty_rings()]
    arrays: dict[str, Any] = {
        "nothing": np.array([index for index, rings in sorted(found.items()) if rings is None], dtype=np.int64),
        "frame": np.array([index for index, _ in known], dtype=np.int64),
        "n_stars": np.array([len(rings.star) for _, rings in known], dtype=np.int64),
    }
    arrays |= {f.name: np.concatenate([getattr(rings, f.name) for rings in everything]) for f in fields(Rings)}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    os.replace(temporary, file)


def _read_sums(run: PlannedRun, part: PlannedPart) -> dict[int, Rings | None]:
    file = run.sums_file(part)
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        number = run.parts.index(part)
        raise ReductionError(
            f"{file} cannot be read ({error}): remove it, and run opticam-dask work {run.out} --pass 2 "
            f"--blocks {number}:{number + 1} again."
        ) from error
    found: dict[int, Rings | None] = dict.fromkeys(columns["nothing"].tolist())
    ends = np.cumsum(columns["n_stars"])
    for index, end, n_stars in zip(columns["frame"].tolist(), ends.tolist(), columns["n_stars"].tolist(), strict=True):
        found[index] = Rings(*(columns[field.name][end - n_stars : end] for field in fields(Rings)))
    return dict(sorted(found.items()))


# ---------------------------------------------------------------- finish


def finish(
    run: PlannedRun, number: int, connect: Connect, progress: Progress, *, break_lock: bool = False
) -> list[str] | None:
    """Do what needs all blocks of a pass, so that the next one can begin; after the last the run is over.

    Parameters
    ----------
    run : PlannedRun
    number : int
        Of the pass.
    connect : callable
        Opens the place where what is left of it runs.
    progress : Progress
    break_lock : bool
        Take over from another finish that is surely dead.

    Returns
    -------
    list of str or None
        What to tell; None when the pass was finished before.

    Raises
    ------
    WrongParameters
        When there is no such pass.
    Incomplete
        When blocks of it are missing, or the pass before is not finished.
    ownership.OwnershipLost, ownership.OwnedError
        When the directory is not the run's any more; when another finish is under way.
    """
    _check_pass(number)
    if run.is_finished(number):
        if number == LAST_PASS:  # whoever finished it may not have come to say so
            ownership.end_planned(run.out_directory, run.token)
        return None
    if number:
        _require_finished(run, number - 1)
    with (
        ownership.join(run.out_directory, run.token),
        ownership.own(run.directory, break_lock=break_lock),
        log_to_file(run.out_directory / LOG_NAME),
    ):
        setup = _setup(run)
        require_complete(run, number, setup)
        facts = _FINISHES[number](run, setup, connect, progress)
        ownership.check_owner(run.out_directory)
        ownership.check_owner(run.directory)
        run.mark_finished(number, facts)
    if number == LAST_PASS:
        ownership.end_planned(run.out_directory, run.token)
        return [f"The planned run of {run.created} is finished."]
    return [f"Pass {number} ({PASSES[number]}) is finished: pass {number + 1} can begin."]


def require_complete(run: PlannedRun, number: int, setup: Setup | None = None) -> None:
    """Refuse to finish a pass of which blocks are missing.

    Raises
    ------
    Incomplete
    """
    missing = missing_blocks(run, number, setup)
    if not missing:
        return
    ranges = planned_run.ranges_of(missing)
    shown = planned_run.text_of(ranges)
    more = "" if shown.count(":") == len(ranges) else f" and {len(ranges) - shown.count(':')} more ranges"
    command = f"opticam-dask work {run.out} --pass {number} --blocks {shown}"
    raise Incomplete(
        f"pass {number} ({PASSES[number]}) is not complete: {len(missing)} of {run.n_units(number)} blocks are not "
        f"done ({shown}{more}). Run {command.removesuffix(f' --blocks {shown}') if more else command}, or submit what "
        f"is left: opticam-dask plan --out {run.out} --slurm."
    )


def missing_blocks(run: PlannedRun, number: int, setup: Setup | None = None) -> list[int]:
    """Blocks of a pass that are not done, by their number in the run."""
    if not number or run.is_finished(number):
        return []
    if number == 2:
        return [index for index, part in enumerate(run.parts) if not run.sums_file(part).is_file()]
    if not run.is_finished(number - 1):
        return list(range(run.n_units(number)))
    setup = setup or _setup(run)
    missing, first = [], 0
    for part in run.parts:
        missing += [first + block for block in _undone(run, setup, number, part, range(part.n_blocks))]
        first += part.n_blocks
    return missing


def _finish_references(run: PlannedRun, setup: Setup, connect: Connect, progress: Progress) -> dict[str, Any]:
    given = [find_calibration_frames(kind, run.calibration[kind], setup.instrument) for kind in KINDS
             if kind in run.calibration]  # fmt: skip
    setup = replace(setup, calibration=Calibration.of(*given)) if given else setup
    driver.check_parameters(setup)
    with connect() as executor:
        driver.make_masters(setup, executor, progress)
        driver.choose_references(setup, executor, progress)
    if not driver.parts_with_reference(setup):
        raise ReductionError(
            f"no camera has a reference frame, so there is nothing to align to. Plan {run.out} again with a "
            "lower threshold: --break-lock --new --threshold S."
        )
    return {}


def _finish_catalogs(run: PlannedRun, setup: Setup, connect: Connect, progress: Progress) -> dict[str, Any]:
    """Stack the reference nights, which is what catalogues are made from; the others are units of pass 2."""
    planned = {(part.key, part.night) for part in run.parts}
    keys = dict.fromkeys(part.key for part in driver.parts_with_reference(setup))
    with connect() as executor:
        for part in driver.parts_with_reference(setup):
            if (part.key, part.night) in planned:
                driver.tell_of_alignment(setup, part, progress)
        for key in keys:
            driver.finish_stack(setup, driver.frozen_reference_part(setup, key), executor)
    driver.finish_catalogs(setup, progress)
    if not driver.parts_with_catalog(setup):
        raise ReductionError(
            f"{driver.no_catalog(setup)} Plan {run.out} again with other parameters: --break-lock --new."
        )
    return {}


def _finish_profiles(run: PlannedRun, setup: Setup, _: Connect, progress: Progress) -> dict[str, Any]:
    """Write the profiles in the order of the parts, as one may rest on another, and make the arrays of pass 3."""
    planned = {(part.key, part.night): part for part in run.parts}
    for part in driver.parts_with_catalog(setup):
        ours = planned.get((part.key, part.night))
        if ours is not None and not driver.has_profile(setup, part):
            driver.write_profile(setup, part, _read_sums(run, ours), progress)
    photometers = _photometers(run)
    facts = {key: driver.catalog_facts(setup, key) for key in {p.key for p in driver.parts_with_catalog(setup)}}
    for part in driver.parts_with_catalog(setup):
        if (part.key, part.night) in planned:
            background_rms = facts[part.key].background_rms
            prepared = driver.prepare_for_key(
                setup, part.key, photometers, progress=progress, background_rms=background_rms
            )
            driver.add_labels(setup, part, photometers, prepared)
    return {"background_rms": {key: found.background_rms for key, found in facts.items()}}


def _finish_photometry(run: PlannedRun, setup: Setup, connect: Connect, progress: Progress) -> dict[str, Any]:
    # nothing is left of the blocks: this is quality, and whatever else belongs to the end of a reduction
    with connect() as executor:
        driver.measure_frames(setup, _photometers(run), executor, progress)
        driver.finish(setup)
        written = _write_products(setup.out_directory, list(run.photometers), executor, progress)
    for file in written:
        progress.tell(f"Written: {file.resolve()}")
    return {}


_FINISHES = (_finish_references, _finish_catalogs, _finish_profiles, _finish_photometry)


def _has_products(setup: Setup, labels: Sequence[str]) -> bool:
    """Whether each kind of file for people is there."""
    names = [layout.group_name(part.key) for part in driver.parts_with_catalog(setup)]
    expected = [f"cat/{name}_catalog.ecsv" for name in names]
    expected += ["cat/catalogs.pdf", "diag/background.pdf", "diag/alignment.pdf"]
    for label in labels:
        measured = layout.measured_keys(setup.path, label)
        expected += [f"lcs/{label}/{layout.group_name(key)}_source_*.csv" for key in measured]
        expected += [f"diag/{label}_rms_vs_flux.pdf"] if measured else []
    return all(any(setup.out_directory.glob(pattern)) for pattern in dict.fromkeys(expected))


def _write_products(
    out: Path, labels: Sequence[str], executor: Executor | None = None, progress: Progress | None = None
) -> list[Path]:
    """Write the files for people that ``reduce`` writes; by default in this process."""
    written = [*products.write_catalogs(out), products.plot_catalogs(out), *products.plot_frames(out)]
    for label in labels:
        written.append(light_curve_files.write_light_curves(out, label, executor, progress))
        if layout.measured_keys(layout.store_path(out), label):
            written += diagnostics.plot_rms_vs_flux(out, label=label)
    return [file for file in written if file is not None]


# ---------------------------------------------------------------- where a run stands


def describe_run(out_directory: str | Path) -> list[str]:
    """Where the planned run of a directory stands and what to do next; nothing without one that is under way.

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
        lines.append(f"  pass {done} ({PASSES[done]}): finished")
    missing = missing_blocks(run, number)
    if missing:
        ranges = planned_run.ranges_of(missing)
        state = f"{run.n_units(number) - len(missing)} of {run.n_units(number)} blocks done"
        more = " ..." if len(ranges) > planned_run.text_of(ranges).count(":") else ""
        what = f"work {run.out} --pass {number} --blocks {planned_run.text_of(ranges)}{more}"
    else:
        state = "all blocks done" if number else "to do"
        what = f"finish {run.out} --pass {number}"
    lines.append(f"  pass {number} ({PASSES[number]}): {state}")
    lines.append(f"  next: opticam-dask {what}")
    lines.append(f"  or submit what is left: opticam-dask plan --out {run.out} --slurm | bash")
    return lines


# ---------------------------------------------------------------- inside


def _check_pass(number: int) -> None:
    if not 0 <= number <= LAST_PASS:
        names = ", ".join(f"{index} ({name})" for index, name in enumerate(PASSES))
        raise WrongParameters(f"a pass is one of {names}, got {number}.")


def _require_finished(run: PlannedRun, number: int) -> None:
    if not run.is_finished(number):
        raise Incomplete(
            f"pass {number} ({PASSES[number]}) is not finished, and pass {number + 1} goes on from it: run "
            f"opticam-dask finish {run.out} --pass {number} first (opticam-dask status {run.out} "
            "says where the run stands)."
        )


def _setup(run: PlannedRun) -> Setup:
    return stored_setup(run.out_directory)


def _photometers(run: PlannedRun) -> dict[str, Photometer]:
    """Photometers of a run, by label."""
    found = {label: photometer_from_record(record) for label, record in run.photometers.items()}
    return {label: photometer for label, photometer in found.items() if photometer is not None}
