"""Workers from a batch system: jobs are submitted, watched, replaced when they are lost, and cancelled in the end.

The only module that imports dask_jobqueue, and only when a batch system is asked for. What that package leaves to its
caller is done here: a submission that is refused is told, jobs that end (walltime, ``scancel``, a node that dies) are
replaced, jobs that wait say for what, and workers retire before their walltime.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.core import Status

from opticam_dask.cluster.cluster_settings import (
    SYSTEMS,
    ClusterError,
    ClusterSettings,
)
from opticam_dask.cluster.job_scripts import cluster_arguments, job_arguments, job_class, jobqueue_package, last_reason

logger = logging.getLogger(__name__)


#: How a job ends that no frame is to blame for.
_FROM_OUTSIDE = {"CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "DEADLINE", "BOOT_FAIL", "REVOKED", "COMPLETED", ""}
#: How a job can end at all.
_ENDED = _FROM_OUTSIDE | {"FAILED", "OUT_OF_MEMORY"}

#: Why SLURM would keep a job waiting for ever, or until somebody changes something.
_NEVER = ("PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "ReqNodeNotAvail", "JobHeld")

#: Jobs in a row that may end without having shown a worker before the run stops.
_MOST_FRUITLESS = 3

#: Seconds a job may be without its workers before it is cancelled and replaced: a nanny that starts a worker again
#: from a slow file system takes its time.
_GRACE = 60.0

#: States of a job that has lost its workers when it goes on without them: where the batch system says nothing, and
#: where it does not know better.
_MAYBE_LOST = ("unknown", "RUNNING")


#: Seconds until SLURM says how a job that is ending has ended, at most.
_COMPLETING = 60

#: Seconds between looks at the jobs.
_LOOK = 10.0
#: Seconds for the first submissions to come back.
_SUBMIT = 300.0

#: Seconds before a refused submission is tried again, at most; at first those between looks.
_LONGEST_PAUSE = 300.0


def _cluster_class(system: str) -> Any:
    base: Any = getattr(jobqueue_package(), f"{SYSTEMS[system]}Cluster")

    class Cluster(base):
        job_cls = job_class(system)

        def new_worker_spec(self) -> dict[str, Any]:
            """A name is never used twice, so that it tells the job."""
            self._i += 1
            return {self._new_worker_name(self._i): self.new_spec}

    Cluster.__name__ = Cluster.__qualname__ = base.__name__
    return Cluster


class JobQueue:
    """Jobs of a batch system with a Dask scheduler in this process.

    Parameters
    ----------
    settings : ClusterSettings
        What the cluster is asked for.
    tell : callable
        Takes one line for people.
    log_directory : path, optional
        Where the output of jobs goes.

    Attributes
    ----------
    client : distributed.Client
        Client of a running Dask scheduler.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        tell: Callable[[str], None] = logger.info,
        log_directory: str | Path | None = None,
    ) -> None:
        if settings.most_workers is None:
            raise ValueError(f"{settings.cluster} needs a number of workers: --workers N, or --adapt MIN:MAX")
        self.settings, self._tell = settings, tell
        self._title = SYSTEMS[settings.cluster]
        jobqueue_package()
        self._arguments, self._of_cluster = job_arguments(settings, log_directory), cluster_arguments(settings)
        self._per_job = int(self._arguments["processes"])
        self._n_jobs = 0 if settings.adapt else -(-(settings.n_workers or 1) // self._per_job)
        self._every = float(dask.config.get("opticam_dask.look-every", _LOOK))
        self._stop = threading.Event()
        self._error: ClusterError | None = None
        self._seen: set[str] = set()
        self._missing: dict[str, float] = {}
        self._ids: dict[str, str] = {}
        self._fruitless, self._n_told = 0, -1
        self._pause, self._not_before = self._every, 0.0
        self._begun = time.monotonic()
        self._next_word, self._word_pause = self._begun + 1.5 * self._every, 60.0

    @contextlib.contextmanager
    def opened(self) -> Iterator[JobQueue]:
        """Submit the jobs; cancel them at the end."""
        security = distributed.Security()
        secured = {"security": security, "protocol": "tls://"} if security.require_encryption else {}
        # a connection that closes while its last message is sent is no news when a cluster goes down
        logging.getLogger("distributed.batched").setLevel(logging.ERROR)
        with contextlib.ExitStack() as opened:
            opened.enter_context(dask.config.set(_scheduler_settings()))
            self._cluster = opened.enter_context(
                _cluster_class(self.settings.cluster)(
                    **self._arguments, **self._of_cluster, **secured, silence_logs=logging.CRITICAL
                )
            )
            self.client = opened.enter_context(distributed.Client(self._cluster))
            self._submit()
            watch = threading.Thread(target=self._watch, name="opticam-dask-jobs", daemon=True)
            watch.start()
            try:
                yield self
            finally:
                self._stop.set()
                watch.join()

    def check(self) -> None:
        """Raise when there is no hope for workers.

        Raises
        ------
        ClusterError
            When the queue has refused the jobs of the workers, or they have all ended.
        """
        if self._error is not None:
            raise self._error

    def ended_from_outside(self, worker: str) -> bool:
        """Whether the job of a worker was ended by somebody or by its walltime, so that no frame is to blame."""
        name = next((name for name in self._ids if worker == name or worker.startswith(f"{name}-")), None)
        if name is None or self.settings.cluster != "slurm":
            return False
        for _ in range(_COMPLETING):
            states = self._cluster.sync(self._states)
            state = None if states is None else states.get(self._ids[name], ("", ""))[0]
            if state != "COMPLETING":
                break
            time.sleep(1)
        return state in _FROM_OUTSIDE

    # ---------------------------------------------------------------- submission

    def _submit(self) -> None:
        """Submit the first jobs, and stop here when none is accepted."""
        if self.settings.adapt:
            least, most = self.settings.adapt
            self._tell(f"{self._title}: {least} to {most} workers of one core, as there is work.")
            # the scheduler sees a window of the blocks and not how many are to come: it is to want that done at once.
            # Between two passes there is nothing to do for a while: workers stay for a minute.
            how = {"interval": "2s", "wait_count": 30, "target_duration": "100ms"}
            key = _job_of if self._per_job > 1 else None  # a job is cancelled when all of its workers are idle
            self._cluster.adapt(minimum=least, maximum=most, worker_key=key, **how)
            return
        self._cluster.scale(jobs=self._n_jobs)
        end = time.monotonic() + _SUBMIT
        while len(self._cluster.workers) < self._n_jobs and time.monotonic() < end:
            time.sleep(0.05)
        jobs = list(self._cluster.workers.values())
        refused = [job for job in jobs if job.error is not None]
        if refused and len(refused) == len(jobs):
            raise ClusterError(f"{self._title} refused the jobs: {last_reason(refused[0].error)}")
        self._tell(
            f"{self._title}: {_count(len(jobs) - len(refused), 'job')} of {_count(self._per_job, 'worker')} submitted."
        )

    # ---------------------------------------------------------------- watching

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._cluster.sync(self._look, callback_timeout=60)
            except Exception:
                logger.exception("the jobs could not be looked at")

    async def _look(self) -> None:
        """One look at the jobs: replace those that are lost, say what the others wait for."""
        cluster, now = self._cluster, time.monotonic()
        there = {str(worker.name) for worker in cluster.scheduler.workers.values()}
        with_workers = {name for name in cluster.workers if there & self._names_of(name)}
        self._ids |= {name: job.job_id for name, job in cluster.workers.items() if job.job_id}
        if with_workers - self._seen:
            self._fruitless, self._pause = 0, self._every
        self._seen |= with_workers
        without = {name: job for name, job in cluster.workers.items() if name not in with_workers}
        for name in [name for name in self._missing if name not in without]:
            del self._missing[name]
        states = await self._states() if without else {}
        self._say_how_many(len(there))
        await self._replace(without, states, now)
        if not there and self._error is None and now >= self._next_word:
            self._say_what_for(without, states)

    def _names_of(self, name: str) -> set[str]:
        return {str(name), *(f"{name}-{number}" for number in range(self._per_job))}

    async def _states(self) -> dict[str, tuple[str, str]] | None:
        """State and reason of this user's jobs, by number; None where the batch system does not say."""
        if self.settings.cluster != "slurm":
            return None
        try:
            text = await self._cluster.job_cls._call(
                ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%A|%T|%r"]
            )
        except (RuntimeError, OSError) as error:
            logger.warning("squeue failed: %s", last_reason(error))
            return None
        rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
        return {number: (state, reason) for number, state, reason in rows}

    async def _replace(
        self, without: Mapping[str, Any], states: Mapping[str, tuple[str, str]] | None, now: float
    ) -> None:
        """Drop jobs that have ended, were refused or lost their workers for good; submit others for them."""
        ended: list[str] = []
        for name, job in without.items():
            if job.error is not None:
                self._refused(job, now)
                if now < self._not_before:
                    continue
            else:
                self._missing.setdefault(name, now)
                # a job that SLURM has forgotten ended long ago
                state = "unknown" if states is None else states.get(job.job_id, ("", ""))[0]
                is_lost = state in _MAYBE_LOST and name in self._seen and now - self._missing[name] > _GRACE
                if state not in _ENDED and not is_lost:
                    continue
                ended.append(f"{job.job_id} {'without workers' if is_lost else state}".strip())
                self._count_fruitless(name, job, state, now)
                if is_lost:
                    await job.close()
            self._cluster.workers.pop(name, None)
            self._cluster.worker_spec.pop(name, None)
            job.status = Status.closed  # or the cluster, which closes what it has, fails over it in the end
        if ended:
            self._tell(f"{_count(len(ended), 'job')} ended ({', '.join(ended)}); what was under way there runs again.")
        if not self.settings.adapt and now >= self._not_before and self._error is None:
            self._cluster.scale(jobs=self._n_jobs)

    def _refused(self, job: Any, now: float) -> None:
        if getattr(job, "is_told", False):
            return
        job.is_told = True
        if not self._seen and not self._ids:
            self._error = ClusterError(f"{self._title} refused the jobs: {last_reason(job.error)}")
            return
        if now >= self._not_before:
            self._wait(now)
            self._tell(f"{self._title} refused a job: {last_reason(job.error)}; another try in {self._pause:.0f} s.")

    def _wait(self, now: float) -> None:
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _count_fruitless(self, name: str, job: Any, state: str, now: float) -> None:
        """Count jobs that ended without a worker: a few in a row mean that no job will get one."""
        if name in self._seen or state == "CANCELLED":
            return
        self._fruitless += 1
        self._wait(now)
        if self._fruitless >= _MOST_FRUITLESS and not self._seen:
            log = Path(self._arguments["log_directory"]) / f"{job.job_name}-{job.job_id}.err"
            self._error = ClusterError(
                f"{_count(self._fruitless, 'job')} ended before their workers had started (the last: {job.job_id} "
                f"{state}). {_last_line(log)} The output of jobs is in {log.parent}."
            )

    # ---------------------------------------------------------------- words

    def _say_how_many(self, n_workers: int) -> None:
        most = self.settings.most_workers or 0
        if n_workers != self._n_told and (n_workers >= most or self._n_told <= 0 < n_workers):
            self._tell(f"{n_workers} of {_count(most, 'worker')} there, {time.monotonic() - self._begun:.0f} s.")
            self._n_told = n_workers
        elif not n_workers:
            self._n_told = min(self._n_told, 0)

    def _say_what_for(self, without: Mapping[str, Any], states: Mapping[str, tuple[str, str]] | None) -> None:
        """No worker yet, or none any more: say what the jobs wait for, less and less often."""
        self._next_word = time.monotonic() + self._word_pause
        self._word_pause = min(2 * self._word_pause, 1800.0)
        numbers = [job.job_id for job in without.values() if job.job_id]
        if not numbers:
            return
        if states is None:
            self._tell(f"No worker yet: {_count(len(numbers), 'job')} wait or start ({', '.join(numbers[:5])}).")
            return
        found = [states[number] for number in numbers if number in states]
        waiting = sorted({f"{state} ({reason})" if state == "PENDING" else state for state, reason in found})
        self._tell(f"No worker yet: {_count(len(numbers), 'job')} ({numbers[0]}, ...): {', '.join(waiting)}.")
        if never := sorted({reason for _, reason in found if reason.startswith(_NEVER)}):
            self._tell(
                f"{self._title} cannot start such a job ({', '.join(never)}): Ctrl-C, and ask for fewer cores, less "
                "memory, a shorter walltime or another queue."
            )


def _scheduler_settings() -> dict[str, Any]:
    """Settings of the scheduler in this process."""
    return {
        "distributed.admin.tick.limit": "10s",
        # Dask cancels the job of a worker that is away for so long and submits another of the same name, which it
        # would cancel for the next worker that is away: jobs are watched here instead
        "distributed.deploy.lost-worker-timeout": "365 days",
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
    }


def _job_of(worker: Any) -> str:
    """Name of the job of one of several workers."""
    return str(worker.name).rpartition("-")[0]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _last_line(log: Path) -> str:
    """What a job said last."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return f"It said: {lines[-1]}"
    return "It left no message."
