"""Commands about submitted jobs: plan, work, finish, cluster."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from pathlib import Path

from opticam_dask import locations
from opticam_dask.api.jobs import job_arrays, planned_run, planning, submission
from opticam_dask.api.session import Session
from opticam_dask.cli import options as given
from opticam_dask.cli.exit_codes import DONE, UsageError
from opticam_dask.cli.runs.reductions import reducer, sky_files
from opticam_dask.cluster import connections, job_scripts
from opticam_dask.cluster.cluster_settings import SYSTEMS
from opticam_dask.cluster.interruption import raise_if_interrupted
from opticam_dask.console import Console, tell
from opticam_dask.passes.calibration import KINDS, PLURAL
from opticam_dask.pipeline.driver import Changes


def plan(options: argparse.Namespace) -> int:
    """Prepare a reduction by submitted jobs."""
    # what is piped into a shell must be nothing but commands
    with contextlib.redirect_stdout(sys.stderr) if options.slurm else contextlib.nullcontext():
        run = _planned(options)
        if run is None:
            tell("Everything is done already: there is nothing to submit.")
            return DONE
        lines = [] if options.data else planning.describe_run(options.out)
        for line in lines or planning.describe_plan(run):
            tell(line)
    if options.slurm:
        for line in submission.slurm_lines(run, shlex.split(options.slurm_options)):
            tell(line)
    return DONE


def _planned(options: argparse.Namespace) -> planned_run.PlannedRun | None:
    """The run that is planned now, or, without frames, the one that was; None when nothing is left to do."""
    locations.require_local(options.out, "plan")
    if not options.data:
        _refuse_what_only_planning_takes(options)
        return planning.take_up(options.out)
    if options.memory:
        raise UsageError(f"jobs get their memory where they are submitted: --slurm-options=--mem={options.memory}")
    parameters = given.parameters(options)
    photometers = given.photometers(options)
    # the jobs are the user's to submit, whatever batch system the configuration names: each has workers of its own
    options.cluster = options.cluster or "local"
    place = given.settings(options)
    with given.session(options) as session:
        reduction = reducer(options, parameters, session)
        return planning.plan(
            reduction.setup(parameters),
            reduction.scan,
            {options.label or photometer.label: photometer for photometer in photometers},
            session,
            changes=Changes(options.new, options.append, tuple(options.redo), options.rebuild_reference),
            calibration={kind: paths for kind in KINDS if (paths := getattr(options, PLURAL[kind]))},
            sky=sky_files(options),
            cluster=place.cluster,
            n_workers=place.n_workers or 1,
            blocks_per_job=options.blocks_per_job,
            **given.frame_timeout(options),
        )


def _refuse_what_only_planning_takes(options: argparse.Namespace) -> None:
    """Refuse options whose values were fixed when the run was planned."""
    planning_alone = ("blocks_per_job", "frame_timeout", "break_lock", "append", "redo", "rebuild_reference", "new")
    on_sky = ("sources", "moving", *sky_files(options))
    names = [name for name in (*given.PLACE, *planning_alone, *on_sky) if getattr(options, name)]
    if useless := [f"--{name.replace('_', '-')}" for name in names]:
        raise UsageError(
            f"without DATA the run that was planned in {options.out} goes on as it was planned: {', '.join(useless)} "
            "would change nothing. Give DATA to plan again."
        )


def work(options: argparse.Namespace) -> int:
    """Do a share of a pass of a planned run."""
    run, console = planned_run.read(options.out), Console(prefix="")
    number = job_arrays.pass_number(options.number)
    job_arrays.require_plan(run, options.plan)
    chosen = planned_run.parse_ranges(options.blocks) if options.blocks is not None else None
    if options.job is not None:
        chosen = job_arrays.ranges_of_job(run, number, options.job, options.blocks_per_job)
    outcome = job_arrays.work(run, number, chosen, _session_of_job(options, run, console))
    if not outcome.n_frames:
        console.tell("These blocks are done already.")
        return DONE
    for file, message in outcome.problems:
        console.tell(f"Set aside: {Path(file).name}: {message}")
    console.tell(f"Pass {number}: {sum(outcome.n_frames.values())} frames done.")
    return DONE


def finish(options: argparse.Namespace) -> int:
    """Finish a pass of a planned run."""
    run, console = planned_run.read(options.out), Console(prefix="")
    number = job_arrays.pass_number(options.number)
    job_arrays.require_plan(run, options.plan)
    session = _session_of_job(options, run, console)
    lines = job_arrays.finish(run, number, session, break_lock=options.break_lock)
    for line in lines or [f"Pass {number} is finished already."]:
        console.tell(line)
    return DONE


def _session_of_job(options: argparse.Namespace, run: planned_run.PlannedRun, console: Console) -> Session:
    """Session of one of the jobs that share a run, with workers of its own."""
    place = connections.connect(
        options.cluster or run.cluster,
        n_workers=options.n_workers or run.n_workers,
        dashboard=False,
        frame_timeout=run.frame_timeout,
    )
    return Session(options.out, place, console, token=run.token)


def cluster(options: argparse.Namespace) -> int:
    """Open a cluster and keep it, or show its job script."""
    settings = given.settings(options)
    if options.dry_run:
        if not settings.is_batch:
            raise UsageError(f"{settings.cluster!r} submits no jobs: --dry-run is for {', '.join(SYSTEMS)}")
        for line in job_scripts.job_script(settings).splitlines():
            tell(line)
        return DONE
    with connections.connect(settings, tell=tell) as place:
        if place.client is None:
            raise UsageError("there is nothing to keep open without a cluster")
        tell(f"Scheduler: {place.client.scheduler.address} (--cluster takes this address). Ctrl-C closes the cluster.")
        while True:
            time.sleep(1)
            raise_if_interrupted()
            if place.jobs is not None:
                place.jobs.check()


#: Commands of this module by name.
COMMANDS = {"plan": plan, "work": work, "finish": finish, "cluster": cluster}
