"""Connection to the place where blocks run: opened when first used, closed at the end."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.system import CPU_COUNT

from opticam_dask.cluster.cluster_settings import (
    SINGLE_THREAD_ENVIRONMENT,
    UPKEEP_SETTINGS,
    ClusterError,
    ClusterSettings,
    job_processors,
    parse_memory,
    resolve,
    usable_memory,
)
from opticam_dask.cluster.executors import FRAME_TIMEOUT, START_TIMEOUT, Executor, InProcess, OnCluster, Work
from opticam_dask.cluster.pool import Local, Pool
from opticam_dask.parameters import CLUSTER, EXECUTION, held_to

if TYPE_CHECKING:
    import distributed
    from typing_extensions import TypeIs

    from opticam_dask.cluster.job_queues import JobQueue
    from opticam_dask.console import Console

# distributed is imported where there is a cluster: a quarter of a second

logger = logging.getLogger(__name__)

#: Seconds without work after which workers of a cluster that adapts itself are given back while a run goes on: the
#: client alone works for so long between two passes of a large night.
_KEEP_WORKERS = 60.0


class Connection:
    """A place where blocks run; opened when first used, closed by :meth:`close` or at the end of a ``with`` block.

    One that was closed, or that could not be opened, is opened anew when it is used again.

    Attributes
    ----------
    tell : callable
        Takes one line for people: the dashboard, what jobs wait for.
    progress : Console, optional
        Told how many workers have started.
    n_pixels : int, optional
        Pixels of all frames of a run; None where nobody knows. Small nights need no scheduler.
    is_local : bool
        Whether blocks run in processes of this machine that are started for it.
    """

    progress: Console | None = None
    n_pixels: int | None = None
    is_local: bool = False

    def __init__(
        self, place: Callable[[], contextlib.AbstractContextManager[Executor]], tell: Callable[[str], None]
    ) -> None:
        self._place = place
        self._opened = contextlib.ExitStack()
        self._executor: Executor | None = None
        self.tell = tell

    def open(self) -> Executor:
        """The place itself, opened if it is not yet.

        Raises
        ------
        ClusterError
            When no scheduler answers, or no job can be submitted.
        """
        if self._executor is None:
            self._executor = self._opened.enter_context(self._place())
        if isinstance(self._executor, Connection | Local):
            self._executor.progress, self._executor.n_pixels = self.progress, self.n_pixels
        return self._executor

    @property
    def opened(self) -> Executor | None:
        """The place itself, if it is open already: if not, nothing needed it so far."""
        return None if self._executor is None else self.open()

    def begin(self) -> None:
        """Open the place; processes of this machine start while headers are read."""
        executor = self.open()
        if isinstance(executor, Connection):
            executor.begin()
        elif isinstance(executor, Local):
            executor.start()

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run all blocks of all groups; yield each summary once, in any order. Nothing is opened for no block."""
        if some := [group for group in work if group.blocks]:
            yield from self.open().run(some)

    @property
    def client(self) -> distributed.Client | None:
        """Dask client of the cluster; None without one."""
        return getattr(self.open(), "client", None)

    @property
    def jobs(self) -> JobQueue | None:
        """Jobs that the workers run in; None where no batch system started them."""
        return getattr(self.open(), "jobs", None)

    def close(self) -> None:
        """Close what was opened here: workers end, jobs are cancelled."""
        self._executor = None
        self._opened.close()

    def __enter__(self) -> Connection:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def current_client() -> distributed.Client | None:
    """The Dask client that the user has connected in this process, if there is one."""
    import distributed

    try:
        return distributed.default_client()
    except ValueError:
        return None


@held_to(CLUSTER, EXECUTION)
def connect(
    cluster: str | distributed.Client | Connection | ClusterSettings | None = None,
    *,
    n_workers: int | None = None,
    adapt: str | tuple[int, int] | None = None,
    cores: int | None = None,
    memory: str | None = None,
    walltime: str | None = None,
    queue: str | None = None,
    account: str | None = None,
    job_extra: Sequence[str] = (),
    host: str = "127.0.0.1",
    dashboard: bool = True,
    frame_timeout: float = FRAME_TIMEOUT,
    log_directory: str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Connection:
    """The place where blocks run, for ``Reducer(client=...)``.

    It is opened when it is first used. What is opened for it is closed by ``close()`` or at the end of a ``with``
    block; a client that was given stays open.

    Parameters
    ----------
    cluster : str or distributed.Client or Connection or ClusterSettings, optional
        Local (worker processes here), none (this process), slurm, pbs, lsf, sge, oar, htcondor (jobs), a profile of
        Dask's configuration, or the address or file of a scheduler. ``"none"`` uses no cluster at all; a profile is one
        of the section ``opticam_dask.clusters`` of Dask's configuration. By default what ``opticam_dask.cluster`` of
        that configuration says, or ``"local"``.
    n_workers : int, optional
        Worker processes; of a local cluster by default one a processor that this process may use.
    adapt : str or (int, int), optional
        Least and most workers of a batch system; between them their number follows the work.
    cores : int, optional
        Cores of a job, a worker on each; by default 1.
    memory : str, optional
        Memory of a job, or of a worker on this machine, such as ``"4GiB"``.
    walltime, queue, account : str, optional
        Time limit, queue and account of a job, as the batch system writes them.
    job_extra : sequence of str
        A further directive of a job; may be repeated. Such as ``"--constraint=haswell"``.
    host : str
        Address that a local scheduler and its dashboard listen on.
    dashboard : bool
        Whether a local scheduler serves its dashboard.
    frame_timeout : float
        Longest time that a frame may take before it is set aside (0 is no limit), in seconds. The worker that it hangs
        in is ended. Without a cluster there is no limit.
    log_directory : path, optional
        Where the output of jobs goes; by default ``opticam_dask_jobs`` in this directory.
    tell : callable, optional
        Takes one line for people; by default the log.

    Returns
    -------
    Connection

    Raises
    ------
    ValueError
        When a setting is wrong or has no meaning for this cluster.
    """
    if isinstance(cluster, Connection):
        return Connection(lambda: contextlib.nullcontext(cluster), cluster.tell)
    if _is_client(cluster):
        if cluster.asynchronous:
            raise ValueError(
                "expected a Client that waits for its results, found one with asynchronous=True: make it with "
                "Client(...), or give the address of its scheduler"
            )
        return Connection(functools.partial(_given_client, cluster, frame_timeout), tell or logger.info)
    if isinstance(cluster, ClusterSettings):
        settings = cluster
    else:
        of_jobs = {"cores": cores, "walltime": walltime, "queue": queue, "account": account, "job_extra": job_extra}
        settings = resolve(cluster, n_workers=n_workers, adapt=adapt, memory=memory, **of_jobs)

    def say(line: str) -> None:
        connection.tell(line)

    place = functools.partial(
        _place,
        settings,
        host=host,
        dashboard=dashboard,
        frame_timeout=frame_timeout,
        log_directory=log_directory,
        tell=say,
    )
    connection = Connection(place, tell or logger.info)
    connection.is_local = settings.cluster == "local"
    return connection


def _is_client(cluster: object) -> TypeIs[distributed.Client]:
    """Whether a place is a client of Dask; who has one has imported distributed."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(cluster, distributed.Client)


@contextlib.contextmanager
def _given_client(client: distributed.Client, frame_timeout: float) -> Iterator[Executor]:
    """Blocks on a client of the user's, whose workers are kept between the passes while it is in use.

    A cluster that adapts itself gives workers back as soon as nothing is to do for a moment, as between two passes; in
    a batch system the next ones wait in the queue.
    """
    adaptive = getattr(client.cluster, "_adaptive", None)  # only a cluster that was made in this process is known
    if adaptive is None or not adaptive.interval:
        yield OnCluster(client, frame_timeout=frame_timeout)
        return
    before = adaptive.wait_count
    adaptive.wait_count = max(before, math.ceil(_KEEP_WORKERS / adaptive.interval))
    try:
        yield OnCluster(client, frame_timeout=frame_timeout)
    finally:
        adaptive.wait_count = before


@contextlib.contextmanager
def _place(
    settings: ClusterSettings,
    *,
    host: str,
    dashboard: bool,
    frame_timeout: float,
    log_directory: str | Path | None,
    tell: Callable[[str], None],
) -> Iterator[Executor]:
    """Open what the settings ask for."""
    if settings.cluster == "none":
        yield InProcess()
    elif settings.cluster == "local":
        limit = parse_memory(settings.memory) if settings.memory else None
        n_workers = settings.n_workers or _n_processors()
        share = limit or _share_of_memory(n_workers)
        how: dict[str, Any] = {"host": host, "dashboard": dashboard, "memory_limit": share}
        open_cluster = functools.partial(_local_cluster, n_workers, frame_timeout, tell, **how)
        pool = Pool(n_workers, frame_timeout=frame_timeout, memory_limit=share)
        with Local(pool, open_cluster, tell) as local:
            yield local
    elif settings.is_batch:
        from opticam_dask.cluster.job_queues import JobQueue

        with JobQueue(settings, tell, log_directory).opened() as jobs:
            _tell_dashboard(jobs.client, tell)
            yield OnCluster(jobs.client, frame_timeout=frame_timeout, jobs=jobs)
    else:
        with _remote_client(settings.cluster) as client:
            _tell_dashboard(client, tell)
            yield OnCluster(client, frame_timeout=frame_timeout)


@contextlib.contextmanager
def _local_cluster(
    n_workers: int, frame_timeout: float, tell: Callable[[str], None], *, dashboard: bool, **how: Any
) -> Iterator[OnCluster]:
    """A cluster of this machine, whose workers are starting."""
    with local_client(n_workers, dashboard=dashboard, **how, is_awaited=False) as client:
        if dashboard:
            _tell_dashboard(client, tell)
        yield OnCluster(client, frame_timeout=frame_timeout, is_local=True, n_starting=n_workers)


def _tell_dashboard(client: distributed.Client, tell: Callable[[str], None]) -> None:
    """Where to watch the workers; the scheduler draws nothing without bokeh."""
    if importlib.util.find_spec("bokeh") is not None and client.dashboard_link:
        tell(f"Dashboard: {client.dashboard_link}")


def _n_processors() -> int:
    """Processors that this process may use."""
    return min(CPU_COUNT, job_processors() or CPU_COUNT)


def _share_of_memory(n_processes: int) -> int:
    """Bytes for each process; with fewer processes than processors each still gets the share of one processor."""
    return usable_memory() // max(n_processes, _n_processors())


@contextlib.contextmanager
def local_client(
    n_workers: int | None = None,
    *,
    host: str = "127.0.0.1",
    dashboard: bool = True,
    memory_limit: int | None = None,
    is_awaited: bool = True,
) -> Iterator[distributed.Client]:
    """Client of a local cluster of single-threaded worker processes, closed at the end.

    Parameters
    ----------
    n_workers : int, optional
        By default one worker a processor that this process may use.
    host : str
        Address that scheduler, workers and dashboard listen on.
    dashboard : bool
        Whether the scheduler serves its dashboard.
    memory_limit : int, optional
        Bytes a worker may use; by default an equal share of this machine's memory.
    is_awaited : bool
        Wait until all workers have started.

    Yields
    ------
    distributed.Client
    """
    import distributed
    from distributed.deploy.spec import SpecCluster

    from opticam_dask.cluster.worker_programs import WorkerProgram

    n_workers = n_workers or _n_processors()
    share = memory_limit or _share_of_memory(n_workers)
    security = distributed.Security()
    protocol = "tls://" if security.require_encryption else "tcp://"
    worker = {
        "cls": WorkerProgram,
        "options": {
            "worker_class": "distributed.Nanny",
            "worker_kwargs": {
                "nthreads": 1,
                "host": host,
                "protocol": protocol,
                "memory_limit": share,
                "env": SINGLE_THREAD_ENVIRONMENT,
                "death_timeout": 60,
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
            },
        },
    }
    where = {"host": host, "port": 0, "protocol": protocol, "security": security}
    shown = {"dashboard": dashboard, "dashboard_address": f"{host}:0"}
    scheduler = {"cls": distributed.Scheduler, "options": where | shown}
    # a connection that closes while its last message is sent is no news when a cluster goes down
    logging.getLogger("distributed.batched").setLevel(logging.ERROR)
    with contextlib.ExitStack() as opened:
        opened.enter_context(dask.config.set(_quiet_settings()))
        local = SpecCluster(
            workers=dict.fromkeys(range(n_workers), worker),
            scheduler=scheduler,
            security=security,
            name="opticam-dask",
            silence_logs=logging.CRITICAL,
        )
        client = opened.enter_context(distributed.Client(opened.enter_context(local)))
        if is_awaited:
            client.wait_for_workers(n_workers, timeout=START_TIMEOUT)
        logger.info("%d workers, dashboard at %s", n_workers, client.dashboard_link)
        yield client


@contextlib.contextmanager
def _remote_client(address: str) -> Iterator[distributed.Client]:
    """Client of a scheduler that is there already; the scheduler stays when the client closes."""
    import distributed

    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = distributed.Client(**where, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address!r}. Give 'local', 'none', a batch system such as 'slurm', a "
            "profile of Dask's configuration, an address such as tcp://127.0.0.1:8786, or the path of a scheduler file."
        ) from error
    with client:
        if not client.ncores():
            logger.warning("the scheduler at %s has no workers yet: waiting for them", address)
        yield client


def _quiet_settings() -> dict[str, Any]:
    """Settings of a local cluster: no spilling and no pausing (tasks hold nothing that waiting could free)."""
    return {
        **UPKEEP_SETTINGS,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.admin.tick.limit": "10s",
    }
