"""Where blocks run: in this process, on local worker processes, or on a scheduler that is there already.

The only module that imports distributed. Workers are separate processes of one thread each, started as programs
of their own (not forked or spawned from the user's script), so that a script needs no ``__main__`` guard and a
notebook or a test behaves the same. Scheduler and dashboard listen on the loopback interface unless told
otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import dask
import dask.array as da
import distributed
from dask.system import CPU_COUNT
from distributed.deploy.spec import SpecCluster
from distributed.deploy.subprocess import SubprocessWorker
from distributed.system import MEMORY_LIMIT

logger = logging.getLogger(__name__)

#: A connection to a Dask scheduler, by the name that other modules may use.
Client = distributed.Client

#: Builds the graph of one window of blocks (``blocks.window_of_blocks`` with its function bound).
WindowBuilder = Callable[[Sequence[int]], da.Array]

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

#: A block that raised is tried again this often before the run stops; frames that fail are flagged, not raised.
RETRIES = 2

#: Blocks of one window for each worker; two windows are under way, so a worker always has its next block.
BLOCKS_PER_WORKER = 2


class ClusterError(Exception):
    """Workers cannot be had or were lost; the message says why and what to do."""


#: One group of blocks: what builds a window of them, and their numbers.
Work = tuple[WindowBuilder, Sequence[int]]


class Executor(Protocol):
    """Runs blocks and hands their summaries over as they finish."""

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run all blocks of all groups, a bounded number at a time; yield each summary once, in any order."""
        ...


class InProcess:
    """No cluster: one block after the other in this process."""

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run the blocks in order and yield each summary."""
        for build, blocks in work:
            for block in blocks:
                yield build([block]).compute(scheduler="synchronous")[0]


class OnCluster:
    """Blocks through a bounded window on the workers of a Dask client."""

    def __init__(self, client: distributed.Client) -> None:
        self.client = client

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run the blocks and yield summaries as they finish.

        Raises
        ------
        ClusterError
            When workers died again and again on the same block.
        """
        size = BLOCKS_PER_WORKER * max(1, len(self.client.ncores()))
        windows = ((build, part) for build, blocks in work for part in _cut(blocks, size))
        finished = distributed.as_completed()
        under_way: dict[Any, distributed.Future] = {}
        try:
            while True:
                while len(under_way) <= size and (window := next(windows, None)) is not None:
                    build, blocks = window
                    for future in self._submit(build(blocks)):
                        under_way[future.key] = future
                        finished.add(future)
                if not under_way:
                    return
                future = next(finished)
                del under_way[future.key]
                yield self._result(future)
        finally:
            for future in under_way.values():
                future.cancel()

    def _submit(self, window: da.Array) -> list[distributed.Future]:
        return distributed.futures_of(self.client.persist(window, retries=RETRIES, optimize_graph=False))

    @staticmethod
    def _result(future: distributed.Future) -> Any:
        try:
            return future.result()[0]
        except distributed.KilledWorker as error:
            raise ClusterError(
                f"the workers that ran block {future.key} died {error.allowed_failures + 1} times, most likely "
                "for lack of memory. What was reduced is kept: run the same command again with fewer --workers."
            ) from error


def _cut(blocks: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (blocks[start : start + size] for start in range(0, len(blocks), size))


@contextlib.contextmanager
def connect(
    cluster: str | distributed.Client | None = "local",
    *,
    n_workers: int | None = None,
    host: str = "127.0.0.1",
    dashboard: bool = True,
) -> Iterator[Executor]:
    """Open the place where blocks run, and close what was opened here afterwards.

    Parameters
    ----------
    cluster : {"local", "none"} or str or distributed.Client or None
        ``"local"`` starts worker processes on this machine; ``"none"`` (or None) uses no cluster at all; any
        other text is the address of a scheduler or the path of a scheduler file; a client is used as it is and
        stays open.
    n_workers : int, optional
        Worker processes of a local cluster; by default one a processor that this process may use.
    host : str
        Address that a local scheduler and its dashboard listen on.
    dashboard : bool
        Whether a local scheduler serves its dashboard.

    Yields
    ------
    Executor

    Raises
    ------
    ClusterError
        When no scheduler answers.
    """
    if cluster is None or cluster == "none":
        yield InProcess()
    elif isinstance(cluster, distributed.Client):
        yield OnCluster(cluster)
    elif cluster == "local":
        with local_client(n_workers, host=host, dashboard=dashboard) as client:
            yield OnCluster(client)
    else:
        with _remote_client(cluster) as client:
            yield OnCluster(client)


@contextlib.contextmanager
def local_client(
    n_workers: int | None = None,
    *,
    host: str = "127.0.0.1",
    dashboard: bool = True,
    memory_limit: int | None = None,
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

    Yields
    ------
    distributed.Client
    """
    n_workers = n_workers or CPU_COUNT
    share = memory_limit or int(MEMORY_LIMIT / max(n_workers, CPU_COUNT))
    worker = {
        "cls": SubprocessWorker,
        "options": {
            "worker_class": "distributed.Nanny",
            "worker_kwargs": {
                "nthreads": 1,
                "host": host,
                "memory_limit": share,
                "env": SINGLE_THREAD_ENVIRONMENT,
                "death_timeout": 60,
                "dashboard": False,
                "silence_logs": logging.ERROR,
            },
        },
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": host, "port": 0, "dashboard": dashboard, "dashboard_address": f"{host}:0"},
    }
    # a connection that closes while its last message is sent is no news when a cluster goes down
    logging.getLogger("distributed.batched").setLevel(logging.ERROR)
    with contextlib.ExitStack() as opened:
        opened.enter_context(dask.config.set(_quiet_settings()))
        with _same_import_path():
            local = SpecCluster(
                workers=dict.fromkeys(range(n_workers), worker),
                scheduler=scheduler,
                name="opticam-dask",
                silence_logs=logging.ERROR,
            )
        client = opened.enter_context(distributed.Client(opened.enter_context(local)))
        client.wait_for_workers(n_workers, timeout=120)
        logger.info("%d workers, dashboard at %s", n_workers, client.dashboard_link)
        yield client


@contextlib.contextmanager
def _remote_client(address: str) -> Iterator[distributed.Client]:
    """Client of a scheduler that is there already; the scheduler stays when the client closes."""
    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = distributed.Client(**where, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address!r}. Give 'local', 'none', an address such as "
            "tcp://127.0.0.1:8786, or the path of a scheduler file."
        ) from error
    with client:
        if not client.ncores():
            logger.warning("the scheduler at %s has no workers yet: waiting for them", address)
        yield client


@contextlib.contextmanager
def _same_import_path() -> Iterator[None]:
    """Let the worker programs that are started here import what this process can, such as modules beside a script."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _quiet_settings() -> dict[str, Any]:
    """Settings of a local cluster: no spilling (tasks return a few bytes), no version noise."""
    return {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.admin.tick.limit": "10s",
    }
