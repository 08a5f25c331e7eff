"""Settings of a cluster: workers, memory, queue, from Dask's configuration and the caller; environment of workers.

Four layers, the later before the earlier: dask-jobqueue's own section of Dask's configuration (``jobqueue.slurm``), the
profile of that name in the section ``opticam_dask.clusters``, environment variables (which Dask merges into its
configuration), and what the caller gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.utils import parse_bytes

from opticam_dask.parameters import CLUSTER

#: Batch systems, by the name that dask-jobqueue and ``--cluster`` use.
SYSTEMS = {"slurm": "SLURM", "pbs": "PBS", "lsf": "LSF", "sge": "SGE", "oar": "OAR", "htcondor": "HTCondor"}

#: One thread in every library of a worker: processes are what runs in parallel.
SINGLE_THREAD_ENVIRONMENT = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "BLOSC_NTHREADS",
        "ZARR_ASYNC__CONCURRENCY",
        "ZARR_THREADING__MAX_WORKERS",
    ),
    "1",
)

#: A worker keeps the memory of a frame for the next one. Dask's own setting gives back whatever is free at once: the
#: system then spends as long on handing out fresh pages as the worker on its frames. The C library reads these when a
#: process starts, so they have to be there before.
MEMORY_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_ARENA_MAX": "1",
}

#: What the C library calls these for a process that runs already (``mallopt``).
_MEMORY_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}

#: What a worker does beside its tasks. It keeps profiles of what it did in the last hour, for the dashboard: with the
#: setting of Dask one a second, which fill more memory than the frames; one a minute is enough. There every process of
#: a cluster looks fifty times a second at the clock, and a worker ten times at its memory: 4 % of two cores.
UPKEEP_SETTINGS = {
    "distributed.worker.profile.interval": "100ms",
    "distributed.worker.profile.cycle": "60s",
    "distributed.worker.memory.monitor-interval": "200ms",
    "distributed.admin.tick.interval": "500ms",
}


#: Set in the job that runs the scheduler.
INSIDE = "OPTICAM_DASK_INSIDE"


def keep_memory() -> None:
    """Let this process keep the memory of a frame for the next one, as workers do (``MEMORY_ENVIRONMENT``)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        for name, number in _MEMORY_SETTINGS.items():
            ctypes.CDLL(None).mallopt(number, int(MEMORY_ENVIRONMENT[name]))


def import_environment() -> dict[str, str]:
    """Environment of a program that is to import what this process can, and nothing that lies about where it starts.

    Its directory may hold a checkout without compiled kernels, a folder named ``dask`` or a file ``numpy.py``. What
    belongs to the installation of Python is left to that of the program.
    """
    given = {os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    installed = tuple(os.path.join(place, "") for place in {sys.prefix, sys.base_prefix, sys.exec_prefix})
    paths = [os.path.abspath(entry) for entry in sys.path]
    kept = [path for path in paths if path in given or not path.startswith(installed)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(kept))}


class ClusterError(Exception):
    """Workers cannot be had or were lost; the message says why and what to do."""


#: Settings that may differ for the job that the scheduler runs in.
_OF_INSIDE = ("cores", "memory", "walltime", "queue", "account", "job_extra", "options")

#: Settings that only a batch system understands.
_OF_JOBS = ("adapt", "cores", "walltime", "queue", "account", "job_extra", "options", "inside")


def as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of Dask as the environment variables that Dask reads them from."""
    return {f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": value for name, value in settings.items()}


@dataclass(frozen=True)
class ClusterSettings:
    """Request for a cluster: kind, workers, memory, queue, walltime.

    Attributes
    ----------
    cluster : str
        Local (worker processes here), none (this process), slurm, pbs, lsf, sge, oar, htcondor (jobs), a profile of
        Dask's configuration, or the address or file of a scheduler.
    n_workers : int, optional
        Worker processes; by default one a processor here.
    adapt : (int, int), optional
        Least and most workers of a batch system; between them their number follows the work.
    cores : int, optional
        Cores of a job, a worker on each; by default 1.
    memory : str, optional
        Memory of a job, or of a worker on this machine; by default 4GiB a core of a job.
    walltime, queue, account : str, optional
        Time limit, queue and account of a job, as the batch system writes them.
    job_extra : tuple of str
        A further directive of a job; may be repeated.
    options : mapping
        Further arguments of the class of dask-jobqueue.
    inside : mapping
        What differs for the job that the scheduler runs in: ``cores``, ``memory``, ``walltime``, ``queue``,
        ``account``, ``job_extra`` or ``options``.
    """

    cluster: str = "local"
    n_workers: int | None = None
    adapt: tuple[int, int] | None = None
    cores: int | None = None
    memory: str | None = None
    walltime: str | None = None
    queue: str | None = None
    account: str | None = None
    job_extra: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_workers", "cores"):
            CLUSTER[name].check(name, getattr(self, name))

    @property
    def is_batch(self) -> bool:
        """Whether a batch system starts the workers."""
        return self.cluster in SYSTEMS

    @property
    def most_workers(self) -> int | None:
        """Workers there may be at most; None where nobody said."""
        return self.adapt[1] if self.adapt else self.n_workers


def resolve(cluster: str | None = None, **given: Any) -> ClusterSettings:
    """Settings of a cluster from Dask's configuration, overridden by the arguments.

    Parameters
    ----------
    cluster : str, optional
        A profile of the configuration (``opticam_dask.clusters``), a batch system, ``"local"``, ``"none"``, the
        address of a scheduler or the path of a scheduler file; by default ``opticam_dask.cluster`` of Dask's
        configuration, or else ``"local"``.
    **given
        Attributes of :class:`ClusterSettings`; None is not given.

    Returns
    -------
    ClusterSettings

    Raises
    ------
    ValueError
        When a setting is unknown, has no meaning for this cluster, or cannot be read.
    """
    name = cluster or str(dask.config.get("opticam_dask.cluster", "local"))
    profiles = dask.config.get("opticam_dask.clusters", None) or {}
    profile = profiles.get(name)
    where = f"the section opticam_dask.clusters.{name} of Dask's configuration"
    if profile is not None and not isinstance(profile, Mapping):
        raise ValueError(f"{where} must hold settings such as n-workers and walltime, got {profile!r}")
    values = {"cluster": name} | _known(profile or {}, where)
    chosen = {key: value for key, value in given.items() if value not in (None, (), [])}
    if "n_workers" in chosen and "adapt" in chosen:
        raise ValueError("give either a number of workers or MIN:MAX to adapt it, not both")
    for one, other in (("n_workers", "adapt"), ("adapt", "n_workers")):
        if one in chosen:
            values.pop(other, None)
    settings = ClusterSettings(**_read(values | chosen))
    _check(settings)
    return settings


def _known(profile: Mapping[str, Any], where: str, names: Sequence[str] = ()) -> dict[str, Any]:
    known_names = set(names) or {entry.name for entry in fields(ClusterSettings)}
    values = {str(key).replace("-", "_"): value for key, value in profile.items()}
    if unknown := sorted(name.replace("_", "-") for name in set(values) - known_names):
        known = ", ".join(sorted(name.replace("_", "-") for name in known_names))
        raise ValueError(f"{where} has {', '.join(unknown)}, which is unknown: it may have {known}")
    return {key: value for key, value in values.items() if value is not None}


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    read = dict(values)
    for name in ("n_workers", "cores"):
        if name in read:
            read[name] = _at_least_one(read[name], name.replace("_", "-"))
    if "adapt" in read:
        read["adapt"] = adapt_range(read["adapt"])
    if "memory" in read:
        read["memory"] = str(read["memory"])
        parse_memory(read["memory"])
    if isinstance(read.get("walltime"), (int, float)):
        # YAML reads 10:00:00 without quotes as a number to the base of 60
        raise ValueError(f"walltime must be text such as '10:00:00', in quotes, got the number {read['walltime']!r}")
    if "job_extra" in read:
        extra = read["job_extra"]
        read["job_extra"] = (extra,) if isinstance(extra, str) else tuple(map(str, extra))
    for name in ("options", "inside"):
        if not isinstance(read.get(name, {}), Mapping):
            raise ValueError(f"{name} must hold settings, got {read[name]!r}")
    if "inside" in read:
        try:
            read["inside"] = _read(_known(read["inside"], "the job of --inside", _OF_INSIDE))
        except ValueError as error:
            raise ValueError(f"inside: {error}") from error
    return read


def _at_least_one(value: Any, name: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return number


def parse_memory(text: str) -> int:
    """Bytes of a text such as ``"4GiB"``.

    Raises
    ------
    ValueError
        When it is no size of memory.
    """
    try:
        return int(parse_bytes(text))
    except ValueError as error:
        raise ValueError(f"memory must be a size such as 4GiB, got {text!r}") from error


def adapt_range(value: str | Sequence[int]) -> tuple[int, int]:
    """Least and most workers of ``"MIN:MAX"`` or a pair.

    Raises
    ------
    ValueError
        When it is no pair of numbers, or the first is the larger one.
    """
    parts = value.split(":") if isinstance(value, str) else list(value)
    try:
        least, most = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"adapt must be MIN:MAX, two numbers of workers, got {value!r}") from None
    if not 0 <= least <= most or most < 1:
        raise ValueError(f"adapt must be MIN:MAX with 0 <= MIN <= MAX and at least one worker, got {value!r}")
    return least, most


def _check(settings: ClusterSettings) -> None:
    """Refuse settings that this cluster would ignore."""
    if settings.is_batch:
        return
    ignored = [name.replace("_", "-") for name in _OF_JOBS if getattr(settings, name)]
    if ignored:
        raise ValueError(
            f"{', '.join(ignored)} has a meaning for a batch system only ({', '.join(SYSTEMS)}), but the cluster is "
            f"{settings.cluster!r}"
        )


def job_processors() -> int | None:
    """Processors of the batch job that this process runs in, by what its environment says; None outside a job.

    Not every batch system binds a job to its processors: Dask, which asks the kernel, would then count all of the node.
    """
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "NCPUS", "LSB_DJOB_NUMPROC", "NSLOTS"):
        if (text := os.environ.get(name, "")).isdecimal() and int(text) > 0:
            return int(text)
    return None


def job_memory() -> int | None:
    """Bytes of the SLURM job that this process runs in, by what its environment says; None where it says nothing."""
    text = os.environ.get("SLURM_MEM_PER_NODE", "")
    if text.isdecimal() and int(text) > 0:  # 0 is all of the node
        return int(text) * 2**20
    text, n_processors = os.environ.get("SLURM_MEM_PER_CPU", ""), job_processors()
    return int(text) * n_processors * 2**20 or None if text.isdecimal() and n_processors else None


def usable_memory() -> int:
    """Bytes that this process and its children may use: memory of the machine, its control group or job."""
    limits = [psutil.virtual_memory().total, job_memory()]
    for file in ("memory/memory.limit_in_bytes", "memory.max", "memory.high"):
        with contextlib.suppress(OSError, ValueError):  # of another version, or without a limit
            limits.append(int(Path("/sys/fs/cgroup", file).read_text()))
    return min(limit for limit in limits if limit)


def walltime_seconds(text: str, system: str = "slurm") -> float | None:
    """Seconds of a walltime as batch systems write it; None where it cannot be told.

    Parameters
    ----------
    text : str
        ``minutes``, ``HH:MM:SS``, ``D-HH[:MM[:SS]]``; with two numbers ``MM:SS`` in SLURM and ``HH:MM`` in LSF.
    system : str
        Name of the batch system.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, *rest = match.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None or len(numbers) == 3 or (len(numbers) == 2 and system in ("lsf", "oar")):
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 2:
        hours, (minutes, seconds) = 0, numbers
    elif system in ("slurm", "lsf"):
        hours, minutes, seconds = 0, numbers[0], 0
    else:
        hours, minutes, seconds = 0, 0, numbers[0]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds
