"""Lines for SLURM that submit the rest of a planned run, with the dependencies between its passes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from opticam_dask.api.jobs import job_arrays, planned_run
from opticam_dask.api.jobs.planned_run import LAST_PASS, PlannedRun
from opticam_dask.cluster.cluster_settings import import_environment


def slurm_lines(run: PlannedRun, options: Sequence[str] = ()) -> list[str]:
    """Lines for ``bash`` that submit what is left: a job for each finish, an array for each pass, one after another.

    A finish starts when all elements of its array have ended, well or not: it names what is missing. What follows a
    finish that failed leaves the queue. The lines are in a subshell that stops at the first refusal, so that they can
    be pasted into a terminal.

    Parameters
    ----------
    run : PlannedRun
        The planned run.
    options : sequence of str
        Further options of every ``sbatch`` (account, partition, time, memory).

    Raises
    ------
    ReductionError
        When the run cannot be looked through.
    """
    number = run.next_pass
    if number is None:
        return []
    lines = ["(", "set -e", f"mkdir -p {shlex.quote(str(_logs(run)))}"]
    before = ""
    for current in range(number, LAST_PASS + 1):
        waits = [before] if before else []
        if elements := _elements(run, current, is_under_way=current == number):
            lines += _submit(run, f"work_{current}", waits, options, array=elements)
            waits.append(f"afterany:${{work_{current}%%;*}}")
        lines += _submit(run, f"finish_{current}", waits, options)
        before = f"afterok:${{finish_{current}%%;*}}"
    names = [f"${name.partition('=')[0]}" for name in lines if name.startswith(("work_", "finish_"))]
    return [*lines, f'echo "submitted: {" ".join(names)}"', ")"]


def _logs(run: PlannedRun) -> str:
    return str((run.directory / "logs").resolve())


def _elements(run: PlannedRun, number: int, *, is_under_way: bool) -> str:
    """Elements of the array of a pass that have something to do, as ``--array`` takes them."""
    size = run.units_per_job(number)
    n_jobs = -(-run.n_units(number) // size)
    jobs: Sequence[int] = range(n_jobs)
    if is_under_way:
        jobs = sorted({unit // size for unit in job_arrays.missing_blocks(run, number)})
    pieces = [f"{one.start}" if len(one) == 1 else f"{one.start}-{one.stop - 1}" for one in planned_run.ranges_of(jobs)]
    return ",".join(pieces)


def _submit(run: PlannedRun, name: str, waits: Sequence[str], options: Sequence[str], array: str = "") -> list[str]:
    """One ``sbatch`` whose job number is kept in a variable."""
    kind, _, number = name.partition("_")
    log = f"{_logs(run)}/{kind}-{number}-%{'A_%a' if array else 'j'}.log"
    words = [
        *("sbatch", "--parsable", f"--job-name={shlex.quote(f'opticam-{kind}-{number}')}"),
        f"--cpus-per-task={run.n_workers}",
        f"--output={shlex.quote(log)}",
    ]
    words += [f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"] if waits else []
    words += [f"--array={array}"] if array else []
    words += map(shlex.quote, options)
    return [f"{name}=$({' '.join(words)} \\", f"  --wrap={shlex.quote(command(run, kind, int(number)))})"]


def command(run: PlannedRun, kind: str, number: int) -> str:
    """Command line of one job, which a shell of the job reads."""
    environment = [f"{name}={value}" for name, value in import_environment().items() if value]
    words = ["env", *environment]
    words += [sys.executable, "-m", "opticam_dask.cli", kind, str(run.out_directory.resolve()), "--pass", str(number)]
    words += ["--plan", run.name, "--cluster", run.cluster, "--n-workers", str(run.n_workers)]
    text = "exec " + shlex.join(words)
    if kind == "work":
        text += f" --job $SLURM_ARRAY_TASK_ID --blocks-per-job {run.units_per_job(number)}"
    return text
