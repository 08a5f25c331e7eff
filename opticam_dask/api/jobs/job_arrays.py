"""Reduction by submitted jobs: each job works on a share of a pass, and a last job finishes the pass.

Passes, driver and bits are those of :func:`~opticam_dask.pipeline.driver.drive`: ``work`` takes the units of its range
through one pass on workers of its own, ``finish`` finishes it. See :mod:`~opticam_dask.api.jobs.planned_run` for what
is numbered how, and :mod:`~opticam_dask.api.jobs.planning` for the beginning.

What takes long is in units: reading frames. A night's stack and its star profile (up to 320 reads of frames) are units
of pass 2, because a serial finish would cost 30 nights ten thousand frames, as long as a hundred workers need for the
whole pass of 10^6. What finishes read are flags and a few numbers a frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from opticam_dask.api.arguments import sky_query
from opticam_dask.api.jobs import planned_run
from opticam_dask.api.jobs.planned_run import LAST_PASS, PartOfRun, PlannedRun, RunSums
from opticam_dask.api.repair import stored_setup
from opticam_dask.api.session import LOG_NAME, Session, log_to_file
from opticam_dask.cluster.executors import Executor, InProcess
from opticam_dask.display import run_files
from opticam_dask.lightcurves import light_curve_files
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometer_kinds import photometer_from_record
from opticam_dask.passes.calibration import KINDS, Calibration, find_calibration_frames
from opticam_dask.pipeline import driver, frozen
from opticam_dask.pipeline.driver import PASSES, Outcome, Progress, ReductionError, Run, Setup, Silent, WrongParameters
from opticam_dask.store import ownership
from opticam_dask.store.camera import Part, group_name


class Incomplete(ReductionError):
    """A pass cannot begin or be finished because an earlier part is not done; the message says what to run."""


def require_plan(run: PlannedRun, token: str | None) -> None:
    """Refuse a job that was submitted for a plan other than the present one.

    Parameters
    ----------
    run : PlannedRun
        The planned run.
    token : str, optional
        First characters of the token of the plan that the job belongs to.

    Raises
    ------
    ReductionError
        When the directory was planned again since.
    """
    if token and not run.token.startswith(token):
        raise ReductionError(
            f"{run.out_directory} was planned again on {run.created} (plan {run.name}), and this job belongs to the "
            f"plan {token}: nothing was done."
        )


# ---------------------------------------------------------------- work


def work(run: PlannedRun, number: int, chosen: Sequence[range] | None, session: Session) -> Outcome:
    """Do the units of a pass that lie in some ranges and are not done yet.

    Parameters
    ----------
    run : PlannedRun
        The planned run.
    number : int
        Number of the pass.
    chosen : sequence of range, optional
        By default all units.
    session : Session
        That of one of the jobs that share the run.

    Returns
    -------
    Outcome
        Without frames when there was nothing to do.

    Raises
    ------
    WrongParameters
        When there is no such pass or unit.
    Incomplete
        When the pass before is not finished, or another job works on a part.
    ownership.OwnershipLost
        When the directory is not the run's any more.
    """
    _check_pass(number)
    n_units = run.n_units(number)
    if not n_units:
        raise WrongParameters(
            f"pass {number} has no blocks: opticam-dask finish {run.out} --pass {number} does all of it."
        )
    chosen = [range(n_units)] if chosen is None else chosen
    if outside := [one for one in chosen if one.stop > n_units]:
        raise WrongParameters(f"pass {number} has the blocks 0:{n_units}, got {planned_run.text_of(outside)}.")
    if run.is_finished(number):
        return Outcome()
    _require_finished(run, number - 1)
    with session:
        shared = _shared(run, number, session)
        share = [entry for one in _merged(chosen) for entry in run.cut(number, one)]
        if PASSES[number].unit == "part":
            return _work_on_parts(run, number, shared, [part for part, _ in share])
        return driver.drive(shared, [PASSES[number]], [(_open(shared.setup, part), units) for part, units in share])


def _shared(run: PlannedRun, number: int, session: Session | None = None) -> Run:
    """What a pass of a planned run works with; without a session, to look only."""
    return Run(
        setup=stored_setup(run.out_directory),
        executor=session.executor if session else InProcess(),
        progress=session.progress if session else Silent(),
        photometers=_photometers(run),
        planned={(part.key, part.night) for part in run.parts},
        sums=RunSums(run),
        facts=run.facts_of(number - 1) if number else {},
    )


def _work_on_parts(run: PlannedRun, number: int, shared: Run, parts: Sequence[PartOfRun]) -> Outcome:
    """Work on the parts that no other job holds; raise in the end if some were held by another job."""
    outcome, refused = Outcome(), list[str]()
    for planned in parts:
        chosen = [(_open(shared.setup, planned), range(1))]
        if not any(units for _, units in driver.undone(shared, PASSES[number], chosen)):
            continue
        place = run.place_of(planned)
        place.mkdir(parents=True, exist_ok=True)
        try:
            with ownership.own(place):
                outcome.merge(driver.drive(shared, [PASSES[number]], chosen))
                ownership.check_owner(place)
        except ownership.OwnedError:
            refused.append(f"{planned.key} {planned.night}")
    if refused:
        raise Incomplete(
            f"another job works on {', '.join(refused)}: it was left to that one. When it ends without having "
            f"finished, run opticam-dask work {run.out} --pass {number} again; a job that died counts as such after "
            f"{ownership.STALE / 60:.0f} minutes."
        )
    return outcome


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


def _merged(chosen: Iterable[range]) -> list[range]:
    """Ranges with overlapping ones joined, so that no block is run twice at the same time."""
    found: list[range] = []
    for one in sorted(chosen, key=lambda entry: entry.start):
        if found and one.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    return found


def _open(setup: Setup, planned: PartOfRun) -> Part:
    part = next((part for part in setup.store.parts if (part.key, part.night) == (planned.key, planned.night)), None)
    if part is None or part.uid != planned.uid:
        raise ReductionError(
            f"{planned.key} {planned.night} was removed or made anew since the run was planned: plan it again "
            f"(opticam-dask plan DATA --out {setup.out_directory} --break-lock)."
        )
    return part


# ---------------------------------------------------------------- finish


def finish(run: PlannedRun, number: int, session: Session, *, break_lock: bool = False) -> list[str] | None:
    """Finish a pass once all its blocks are done, so that the next one can begin; the last one ends the run.

    Parameters
    ----------
    run : PlannedRun
        The planned run.
    number : int
        Number of the pass.
    session : Session
        That of one of the jobs that share the run.
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
    _require_finished(run, number - 1)
    with (
        session,
        ownership.own(run.directory, break_lock=break_lock),
        log_to_file(run.out_directory / LOG_NAME),
    ):
        shared = _shared(run, number, session)
        require_complete(run, number, shared)
        if number == 0:  # which makes the masters
            shared.setup = _with_calibration_frames(run, shared.setup)
            driver.check_parameters(shared.setup)
        if number == 1 and run.sky:  # which makes the catalogues
            shared.setup = replace(shared.setup, sky=sky_query(**run.sky))
        driver.drive(shared, [PASSES[number]])
        if why := PASSES[number].dead_end(shared):
            raise ReductionError(f"{why} Plan {run.out} again with other parameters: --break-lock --new.")
        if number == LAST_PASS:
            end(shared)
        ownership.check_owner(run.out_directory)
        ownership.check_owner(run.directory)
        run.mark_finished(number, shared.facts)
    if number == LAST_PASS:
        ownership.end_planned(run.out_directory, run.token)
        return [f"The planned run of {run.created} is finished."]
    return [f"Pass {number} ({PASSES[number].name}) is finished: pass {number + 1} can begin."]


def require_complete(run: PlannedRun, number: int, shared: Run | None = None) -> None:
    """Refuse to finish a pass of which blocks are missing.

    Raises
    ------
    Incomplete
        With the blocks that are not done, and the command that does them.
    """
    missing = missing_blocks(run, number, shared)
    if not missing:
        return
    ranges = planned_run.ranges_of(missing)
    shown = planned_run.text_of(ranges)
    more = "" if shown.count(":") == len(ranges) else f" and {len(ranges) - shown.count(':')} more ranges"
    command = f"opticam-dask work {run.out} --pass {number}{'' if more else f' --blocks {shown}'}"
    raise Incomplete(
        f"pass {number} ({PASSES[number].name}) is not complete: {len(missing)} of {run.n_units(number)} blocks are "
        f"not done ({shown}{more}). Run {command}, or submit what is left: opticam-dask plan --out {run.out} --slurm."
    )


def missing_blocks(run: PlannedRun, number: int, shared: Run | None = None) -> list[int]:
    """Blocks of a pass that are not done, by their number in the run."""
    if run.is_finished(number) or not run.n_units(number):
        return []
    if number and not run.is_finished(number - 1):
        return list(range(run.n_units(number)))
    shared = shared or _shared(run, number)
    parts = [(_open(shared.setup, part), units) for part, units in run.cut(number, range(run.n_units(number)))]
    undone = {part.group: units for part, units in driver.undone(shared, PASSES[number], parts)}
    missing, first = [], 0
    for part, units in parts:
        missing += [first + unit for unit in undone.get(part.group, ())]
        first += len(units)
    return missing


def _with_calibration_frames(run: PlannedRun, setup: Setup) -> Setup:
    """Set-up with the calibration frames that masters are made from."""
    given = [find_calibration_frames(kind, run.calibration[kind], setup.instrument) for kind in KINDS
             if kind in run.calibration]  # fmt: skip
    return replace(setup, calibration=Calibration.of(*given)) if given else setup


def end(shared: Run, *, writes: bool = True) -> None:
    """End a reduction whose passes are all finished: consolidated metadata, and files for people.

    Parameters
    ----------
    shared : Run
        What the passes worked with.
    writes : bool
        Write the files for people also where they are there.
    """
    setup, labels = shared.setup, list(shared.photometers)
    driver.finish(setup)
    if writes or not _has_products(setup, labels):
        for file in _write_products(setup.out_directory, labels, shared.executor, shared.progress):
            shared.progress.tell(f"Written: {file.resolve()}")


def _has_products(setup: Setup, labels: Sequence[str]) -> bool:
    """Whether each kind of file for people is there."""
    names = [part.camera.name for part in frozen.parts_with_catalog(setup)]
    expected = [f"cat/{name}_catalog.ecsv" for name in names]
    expected += ["cat/catalogs.pdf", "diag/background.pdf", "diag/alignment.pdf"]
    for label in labels:
        measured = setup.store.measured_keys(label)
        expected += [f"lcs/{label}/{group_name(key)}_source_*.csv" for key in measured]
        expected += [f"diag/{label}_rms_vs_flux.pdf"] if measured else []
    return all(any(setup.out_directory.glob(pattern)) for pattern in dict.fromkeys(expected))


def _write_products(out: Path, labels: Sequence[str], executor: Executor, progress: Progress) -> list[Path]:
    """Write the files for people that ``reduce`` writes."""
    folders = [light_curve_files.write_light_curves(out, label, executor, progress) for label in labels]
    files = [*run_files.OF_FRAMES, *run_files.of_photometry(out, labels)]
    return [*run_files.write_run_files(out, files, executor, progress), *folders]


# ---------------------------------------------------------------- inside


def pass_number(text: str) -> int:
    """Number of a pass from what a command calls it: the number or a word.

    Raises
    ------
    WrongParameters
        When there is no such pass.
    """
    words = [one.word for one in PASSES]
    if text in words:
        return words.index(text)
    if not text.strip().lstrip("-").isdecimal():
        raise _no_such_pass(text)
    _check_pass(int(text))
    return int(text)


def _check_pass(number: int) -> None:
    if not 0 <= number <= LAST_PASS:
        raise _no_such_pass(number)


def _no_such_pass(given: object) -> WrongParameters:
    names = ", ".join(f"{index} ({one.name})" for index, one in enumerate(PASSES))
    return WrongParameters(f"a pass is one of {names}, got {given}.")


def _require_finished(run: PlannedRun, number: int) -> None:
    if number >= 0 and not run.is_finished(number):
        raise Incomplete(
            f"pass {number} ({PASSES[number].name}) is not finished, and pass {number + 1} goes on from it: run "
            f"opticam-dask finish {run.out} --pass {number} first (opticam-dask status {run.out} "
            "says where the run stands)."
        )


def _photometers(run: PlannedRun) -> dict[str, Photometer]:
    """Photometers of a planned run, by label."""
    found = {label: photometer_from_record(record) for label, record in run.photometers.items()}
    return {label: photometer for label, photometer in found.items() if photometer is not None}
