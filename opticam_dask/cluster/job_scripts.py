"""Scripts of batch jobs that run one worker, or a whole command with its own scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import re
import shlex
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from opticam_dask.cluster.cluster_settings import (
    INSIDE,
    MEMORY_ENVIRONMENT,
    SINGLE_THREAD_ENVIRONMENT,
    SYSTEMS,
    UPKEEP_SETTINGS,
    ClusterError,
    ClusterSettings,
    as_environment,
    import_environment,
    parse_memory,
    walltime_seconds,
)

logger = logging.getLogger(__name__)

#: Memory of one worker where nobody gave it.
_MEMORY_PER_WORKER = "4GiB"
#: Bytes of it that are left to the nanny and to a rescue beside the worker.
_MEMORY_LEFT = 768 * 2**20

#: Arguments of a cluster of dask-jobqueue that its jobs do not know.
_OF_CLUSTER = ("scheduler_options", "shared_temp_directory")

#: What dask-jobqueue calls the account, by system.
_ACCOUNT = {"slurm": "account", "pbs": "account", "lsf": "project", "sge": "project", "oar": "project"}

#: What the job of the scheduler does without: settings that belong to workers.
_OF_WORKERS = "export DASK_DISTRIBUTED__WORKER__MEMORY__"


def jobqueue_package() -> Any:
    """The package dask_jobqueue, imported without the handler of Ctrl-C that it would install.

    Raises
    ------
    ClusterError
        When it is not installed, or was to be imported first in a thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise ClusterError(
            "batch systems need the package dask-jobqueue, which is not installed: pip install 'opticam-dask[hpc]'"
        ) from error
    except ValueError as error:
        raise ClusterError("dask_jobqueue can only be imported in the main thread: import it there first") from error
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def job_class(system: str) -> Any:
    """Job of dask-jobqueue that keeps what its submission was refused with, and says when it is closed."""
    base: Any = getattr(jobqueue_package(), f"{SYSTEMS[system]}Cluster").job_cls

    class Job(base):
        error: Exception | None = None

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as error:
                # raised here it would only be logged, and the cluster could not be closed any more
                self.error = error
                await ProcessInterface.start(self)

        async def close(self) -> None:
            await super().close()
            self.status = Status.closed

        def job_script(self) -> str:
            script: str = super().job_script()
            return _with_quoted_logs(script, str(self.log_directory)) if system == "slurm" else script

        @property
        def worker_process_memory(self) -> str:
            share = self.worker_memory / self.worker_processes
            return f"{int(max(share / 2, share - _MEMORY_LEFT)) // 2**20}MiB"

    Job.__name__ = Job.__qualname__ = base.__name__
    return Job


def _with_quoted_logs(script: str, directory: str) -> str:
    """A job script for SLURM whose output may go to a directory with blanks in its name."""
    if not re.search(r"\s", directory):
        return script
    return re.sub(rf"^(#SBATCH -[eo] )({re.escape(directory)}/.*)$", r'\1"\2"', script, flags=re.MULTILINE)


def _configured(system: str, name: str) -> Any:
    return dask.config.get(f"jobqueue.{system}.{name}", None)


def job_arguments(settings: ClusterSettings, log_directory: str | Path | None = None) -> dict[str, Any]:
    """Arguments of the job of dask-jobqueue.

    Parameters
    ----------
    settings : ClusterSettings
        What the cluster is asked for.
    log_directory : path, optional
        Where the output of jobs goes when the configuration names no place.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        When the batch system has no such thing.
    """
    system = settings.cluster
    options = {name: value for name, value in _options(settings).items() if name not in _OF_CLUSTER}

    def chosen(name: str, otherwise: Any = None) -> Any:
        configured = _configured(system, name.replace("_", "-"))
        return options.pop(name, otherwise if configured is None else configured)

    cores = settings.cores or int(chosen("cores", 1))
    memory = settings.memory or str(chosen("memory", f"{cores * parse_memory(_MEMORY_PER_WORKER) // 2**30}GiB"))
    walltime = settings.walltime or chosen("walltime")
    arguments: dict[str, Any] = {
        "cores": cores,
        "memory": memory,
        "processes": int(chosen("processes", cores)),
        "job_name": _name(chosen("job_name", _configured(system, "name"))),
        "log_directory": str(chosen("log_directory", log_directory or Path.cwd() / "opticam_dask_jobs")),
        "local_directory": chosen("local_directory", dask.config.get("temporary-directory", None)),
        "worker_extra_args": [
            *chosen("worker_extra_args", []),
            "--no-dashboard",
        ],
        "job_script_prologue": [*chosen("job_script_prologue", []), *_environment()],
    }
    if not any(str(entry).partition("=")[0] == "--lifetime" for entry in arguments["worker_extra_args"]):
        arguments["worker_extra_args"] += _lifetime(walltime, system)
    if arguments["processes"] != cores:
        logger.warning("%d processes on %d cores: workers of one thread are fastest", arguments["processes"], cores)
    arguments |= _directives(replace(settings, walltime=None if walltime is None else str(walltime)))
    if system == "oar":  # or else every job warns that it asks for no memory
        arguments["memory_per_core_property_name"] = chosen("memory_per_core_property_name", "not_applicable")
    extra = chosen("job_extra_directives", {} if system == "htcondor" else [])
    if system == "htcondor":
        arguments["job_extra_directives"] = {**extra, **dict(_pair(entry) for entry in settings.job_extra)}
        arguments["disk"] = chosen("disk", "1GiB")
    else:
        arguments["job_extra_directives"] = [*extra, *settings.job_extra]
    return {**arguments, **options}


def _options(settings: ClusterSettings) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in settings.options.items()}


def cluster_arguments(settings: ClusterSettings) -> dict[str, Any]:
    """Arguments of the class of the cluster that are not of its jobs.

    Parameters
    ----------
    settings : ClusterSettings
        What the cluster is asked for.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        When options of the scheduler are no mapping.
    """
    found = {name: value for name, value in _options(settings).items() if name in _OF_CLUSTER}
    options = found.get("scheduler_options", _configured(settings.cluster, "scheduler-options")) or {}
    if not isinstance(options, Mapping):
        raise ValueError(f"scheduler-options must hold settings such as interface and port, got {options!r}")
    return {**found, "scheduler_options": {"dashboard_address": ":0", **options}}


def _name(configured: Any) -> str:
    return "opticam-dask" if configured in (None, "dask-worker") else str(configured)


def _directives(settings: ClusterSettings) -> dict[str, str]:
    """Queue, account and walltime, under the names that the system has for them."""
    system = settings.cluster
    known = (
        ("queue", settings.queue),
        ("walltime", settings.walltime),
        (_ACCOUNT.get(system, "account"), settings.account),
    )
    given = {name: value for name, value in known if value is not None}
    if system == "htcondor" and given:
        raise ValueError(f"HTCondor has no {', '.join(given)}: give submit commands with --job-extra NAME=VALUE")
    return given


def _pair(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise ValueError(f"a submit command of HTCondor must be NAME=VALUE, got {entry!r}")
    return name.strip(), value.strip()


def _lifetime(walltime: Any, system: str) -> list[str]:
    """Workers retire, one after the other, before the batch system ends their job."""
    seconds = walltime_seconds(str(walltime), system) if walltime else None
    if not seconds:
        return []
    margin = int(min(max(60.0, 0.05 * seconds), seconds / 4))
    return ["--lifetime", f"{int(seconds) - 2 * margin}s", "--lifetime-stagger", f"{margin}s"]


def _environment() -> list[str]:
    """Lines of the job script: the directory and imports of this process, one thread, and no spilling."""
    memory = dict.fromkeys(("TARGET", "SPILL", "PAUSE"), "False")
    variables = {
        **SINGLE_THREAD_ENVIRONMENT,
        **MEMORY_ENVIRONMENT,
        **as_environment(UPKEEP_SETTINGS),
        **{f"{_OF_WORKERS.removeprefix('export ')}{name}": value for name, value in memory.items()},
        **import_environment(),
    }
    return [
        f"cd {shlex.quote(os.getcwd())}",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
    ]


def _dummy_job(settings: ClusterSettings, arguments: Mapping[str, Any]) -> Any:
    kind = job_class(settings.cluster)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            job = kind("tcp://SCHEDULER:PORT", name="NAME", **arguments)
    except TypeError as error:
        raise ValueError(f"{SYSTEMS[settings.cluster]} jobs cannot be described so: {error}") from error
    for warning in found:
        logger.warning("%s", warning.message)
    return job


def job_script(settings: ClusterSettings, log_directory: str | Path | None = None) -> str:
    """The job script of a worker, as it would be submitted.

    Parameters
    ----------
    settings : ClusterSettings
        What the cluster is asked for.
    log_directory : path, optional
        Where the output of the jobs goes.

    Returns
    -------
    str

    Raises
    ------
    ClusterError
        When the package that talks to the batch system is missing or refuses the settings.
    ValueError
        When a setting has no meaning for this batch system.
    """
    jobqueue_package()
    arguments = job_arguments(settings, log_directory)
    logs = Path(arguments["log_directory"])
    was_there = logs.exists()
    script: str = _dummy_job(settings, arguments).job_script()
    if not was_there:  # the job makes it when it is described
        with contextlib.suppress(OSError):
            logs.rmdir()
    return script


def submit_inside(
    settings: ClusterSettings, command: Sequence[str], log_directory: str | Path | None = None
) -> tuple[str, list[str]]:
    """Submit a job that runs a command, which then opens its cluster from within.

    Parameters
    ----------
    settings : ClusterSettings
        Settings of the workers; ``inside`` says what differs for this job.
    command : sequence of str
        The command and its arguments.
    log_directory : path, optional
        Where the output of the jobs goes.

    Returns
    -------
    (str, list of str)
        Number of the job; what to do with it, for people.

    Raises
    ------
    ClusterError
        When the batch system refuses it.
    """
    jobqueue_package()
    differs: dict[str, Any] = {"cores": 1, "memory": _MEMORY_PER_WORKER, **settings.inside}
    arguments = job_arguments(replace(settings, **differs), log_directory)
    arguments["job_name"] = f"{arguments['job_name']}-run"
    arguments["job_script_prologue"] = [*arguments["job_script_prologue"], f"export {INSIDE}=1", _command_line(command)]
    arguments["worker_extra_args"] = []
    job = _dummy_job(settings, arguments)
    prologue = [line for line in arguments["job_script_prologue"][:-1] if not line.startswith(_OF_WORKERS)]
    job._job_script_prologue, job._command_template = prologue, _command_line(command)
    if settings.cluster == "htcondor":
        job._command_template = "; ".join([*prologue, job._command_template])
    asyncio.run(job.start())
    if job.error is not None:
        raise ClusterError(f"{SYSTEMS[settings.cluster]} refused the job: {last_reason(job.error)}")
    lines = [f"{SYSTEMS[settings.cluster]} job {job.job_id} runs this command and asks for its workers from within."]
    if settings.cluster == "slurm":
        log = Path(arguments["log_directory"]) / f"{arguments['job_name']}-{job.job_id}"
        lines += [f"Follow it:  tail -F {shlex.quote(f'{log}.out')} {shlex.quote(f'{log}.err')}"]
        lines += [f"Waiting?    squeue -j {job.job_id}"]
    else:
        lines += [f"Follow it:  its output is in {arguments['log_directory']}"]
    lines += [f"End it:     {job.cancel_command} {job.job_id}  (what was reduced is kept)"]
    return str(job.job_id), lines


def _command_line(command: Sequence[str]) -> str:
    # exec: the signals of the batch system reach the program, not a shell that waits for it
    return f"exec {shlex.join(command)}"


def last_reason(error: Exception | None) -> str:
    """Message of a command of the batch system, in one line."""
    if isinstance(error, FileNotFoundError):
        return f"the command {error.filename} is not there; this machine does not belong to such a cluster"
    text = str(error)
    said = text.partition("stderr:\n")[2] or text
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines) or text.strip() or "it gave no reason"
