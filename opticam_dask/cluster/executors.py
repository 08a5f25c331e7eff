"""Executors of blocks: one after the other in this process, or many at a time on the workers of a Dask client.

Workers are separate processes of one thread each, started as programs of their own (not forked or spawned from the
user's script), so that a script needs no ``__main__`` guard and a notebook or a test behaves the same. Scheduler and
dashboard listen on the loopback interface unless told otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cloudpickle

from opticam_dask.cluster import run_blocks, tasks
from opticam_dask.cluster.cluster_settings import ClusterError, keep_memory
from opticam_dask.cluster.interruption import raise_if_interrupted
from opticam_dask.kernels import compiled
from opticam_dask.parameters import EXECUTION

if TYPE_CHECKING:
    import distributed
    from distributed import Client  # noqa: F401 - by the name that other modules may use

    from opticam_dask.cluster.job_queues import JobQueue
    from opticam_dask.console import Console

# distributed is imported where there is a cluster: a quarter of a second

logger = logging.getLogger(__name__)

#: Takes the number of a block, does its work (the function writes its own results) and returns a small summary.
BlockFunction = Callable[[int], Any]

#: A block that could not read or write is tried again this often, elsewhere; frames that fail are flagged, not raised.
RETRIES = 2

#: A nanny ends its worker at this part of the memory limit, and so does whoever else watches a process.
MEMORY_SHARE = 0.95

#: Seconds that workers of this machine may take to start.
START_TIMEOUT = 120

#: How often the workers of one block may be killed (each time by more deaths than the scheduler allows) before the
#: run stops. Runs and rescues take turns: a rescue takes longer, so where workers die for reasons of their own, the
#: plain run is the likelier one to get through.
_MOST_KILLED = 8

#: Blocks of one window for each worker; two windows are under way, so a worker always has its next block.
BLOCKS_PER_WORKER = 2

#: Summaries that are fetched together.
_AT_ONCE = 256
#: From this many blocks under way on, the client collects summaries before it fetches them: to fetch each as it comes
#: costs client and scheduler more than everything else that they do for a block.
_MANY_UNDER_WAY = 64
#: Seconds for which it does: workers have their next blocks by then.
_COLLECTING = 0.05

#: Seconds for a frame (reading, calibration, detection, photometry); what takes longer hangs.
FRAME_TIMEOUT: float = EXECUTION["frame_timeout"].default

#: Seconds between looks at the cluster while nothing finishes.
_LOOK = 5.0
#: Seconds without a worker before a local run stops.
_WITHOUT_WORKERS = 60.0


class Work(NamedTuple):
    """One group of blocks.

    Attributes
    ----------
    function : callable
        ``function(block)`` does the work on a block and gives a small summary.
    blocks : sequence of int
        Numbers of the blocks of frames.
    name : str
        What the tasks are called on the dashboard.
    rescue : callable, optional
        ``rescue(frame_timeout, block)`` does the same for a block that killed its workers: it finds the frames to blame
        and leaves them out.
    has_time_limit : bool
        Whether a frame that takes too long ends the process; tasks that are about no single frame take as long as they
        need.
    """

    function: BlockFunction
    blocks: Sequence[int]
    name: str = "block"
    rescue: Callable[[float, int], Any] | None = None
    has_time_limit: bool = True


class Executor(Protocol):
    """Runs blocks and hands their summaries over as they finish."""

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run all blocks of all groups, a bounded number at a time; yield each summary once, in any order."""
        ...


class InProcess:
    """No cluster: one block after the other in this process."""

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run the blocks in order and yield each summary."""
        keep_memory()
        for group in work:
            # as on a worker: what a task changes in what it was given is no matter of the next one
            function = cloudpickle.dumps(group.function)
            for block in group.blocks:
                raise_if_interrupted()
                yield tasks.run(function, block, kernels=compiled.form())


@dataclass(frozen=True)
class _Task:
    """One block under way: whether it is rescued, how often it has failed, and the worker it is for."""

    group: Work
    block: int
    is_rescue: bool = False
    n_failures: int = 0
    worker: str | None = None

    def function(self, frame_timeout: float) -> tuple[BlockFunction, str]:
        """Function that a task applies to its block, and the name of the task."""
        rescue, name = self.group.rescue, self.group.name
        if self.is_rescue and rescue is not None:
            return functools.partial(rescue, frame_timeout), f"rescue-{name}"
        return self.group.function, name


class OnCluster:
    """Blocks through a bounded window on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
        Client of a running Dask scheduler.
    frame_timeout : float
        Seconds after which a frame that does not end ends its worker; 0 is no limit.
    is_local : bool
        Whether the workers belong to this run, so that nobody will start new ones when all are gone.
    n_starting : int
        Workers that are being started for this run.
    jobs : JobQueue, optional
        The jobs that the workers run in.
    """

    def __init__(
        self,
        client: distributed.Client,
        *,
        frame_timeout: float = FRAME_TIMEOUT,
        is_local: bool = False,
        n_starting: int = 0,
        jobs: JobQueue | None = None,
    ) -> None:
        self.client = client
        self.frame_timeout = frame_timeout
        self.is_local = is_local
        self._n_starting = n_starting
        self.jobs = jobs
        self._without_workers = 0.0
        self._size = BLOCKS_PER_WORKER
        self._is_told_of_threads = False

    def await_workers(self, progress: Console | None = None) -> None:
        """Wait for the workers that were started for this run."""
        n_workers, self._n_starting = self._n_starting, 0
        if not n_workers:
            return
        with contextlib.nullcontext() if progress is None else progress.stage("Starting", n_workers, "workers"):
            for number in range(1, n_workers + 1):
                self.client.wait_for_workers(number, timeout=START_TIMEOUT)
                if progress is not None:
                    progress.advance(1)

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run the blocks and yield summaries as they finish.

        A block that fails to read or write is tried again on other workers. A block whose workers died again and
        again (of memory, of a crash, of hanging) is rescued: its frames are tried one by one, those to blame are set
        aside, and the block runs again.

        Raises
        ------
        ClusterError
            When workers died for no frame's fault, or the cluster is gone.
        OSError
            When a block could not read or write anywhere.
        """
        self._tell_of_threads()
        windows = _windows(work, self._window_size)
        finished: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()
        under_way: dict[Any, tuple[distributed.Future, _Task]] = {}

        def submit(some: Sequence[_Task]) -> None:
            for future, task in zip(self._submit(some), some, strict=True):
                under_way[future.key] = future, task
                future.add_done_callback(finished.put)

        try:
            while True:
                raise_if_interrupted()
                while len(under_way) <= self._size and (window := next(windows, None)) is not None:
                    group, blocks = window
                    submit([_Task(group, block) for block in blocks])
                if not under_way:
                    return
                some = self._next(finished, len(under_way))
                found = [future for future in some if future.key in under_way]
                if not found:
                    for key in self._waiting_in_vain(under_way):
                        future, task = under_way.pop(key)
                        future.cancel()
                        submit([replace(task, worker=None)])
                for future, (summary, error) in zip(found, self._outcomes(found), strict=True):
                    _, task = under_way.pop(future.key)
                    if error is None:
                        yield summary
                    else:
                        submit([self._next_try(task, error)])
        finally:
            for future, _ in under_way.values():
                future.cancel()

    def _submit(self, some: Sequence[_Task]) -> list[distributed.Future]:
        import distributed

        function, name = some[0].function(self.frame_timeout)
        limit = self.frame_timeout if some[0].group.has_time_limit else 0.0
        window = run_blocks.window_of_blocks(function, [task.block for task in some], name, frame_timeout=limit)
        worker = some[0].worker
        where = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
        return distributed.futures_of(self.client.persist(window, optimize_graph=False, **where))

    def _window_size(self) -> int:
        """Blocks of a window, for the workers that are there, or for those that were asked for and will come."""
        asked_for = (self.jobs.settings.most_workers if self.jobs else None) or 1
        self._size = BLOCKS_PER_WORKER * max(asked_for, len(self._workers()))
        return self._size

    def _tell_of_threads(self) -> None:
        """Say once what threads of a worker are good for: not much, as its blocks take turns."""
        most = max(self._workers().values(), default=1)
        if most > 1 and not self._is_told_of_threads:
            self._is_told_of_threads = True
            logger.warning(
                "the workers have %d threads each, which reduce one block at a time: with threads_per_worker=1 and "
                "more workers all processors are used",
                most,
            )

    def _next_try(self, task: _Task, error: Exception) -> _Task:
        """How a block that failed runs next: where it could not read or write, on another worker each time."""
        import distributed

        is_killed = isinstance(error, distributed.KilledWorker)
        worker = getattr(getattr(error, "last_worker", None), "name", "")
        if is_killed and self.jobs is not None and self.jobs.ended_from_outside(str(worker)):
            return replace(task, worker=None)  # its job was ended: that says nothing about its frames
        again = _next_try(task, error)
        workers = sorted(self._workers())
        if again.is_rescue != task.is_rescue or not isinstance(error, OSError) or not workers:
            return again
        return replace(again, worker=workers[(again.block + again.n_failures) % len(workers)])

    def _waiting_in_vain(self, under_way: Mapping[Any, tuple[distributed.Future, _Task]]) -> list[Any]:
        """Blocks that wait for a worker that is gone: the scheduler does not give those to others."""
        workers = self._workers()
        return [key for key, (_, task) in under_way.items() if task.worker is not None and task.worker not in workers]

    def _next(self, finished: queue.SimpleQueue[distributed.Future], n_under_way: int) -> list[distributed.Future]:
        """Wait for blocks to finish, with an eye on the cluster; an empty list now and then when none does."""
        try:
            found = [finished.get(timeout=_LOOK)]
        except queue.Empty:
            self._look_at_workers()
            return []
        self._without_workers = 0.0
        if n_under_way >= _MANY_UNDER_WAY:
            time.sleep(_COLLECTING)
        with contextlib.suppress(queue.Empty):
            while len(found) < _AT_ONCE:
                found.append(finished.get_nowait())
        return found

    def _outcomes(self, futures: Sequence[distributed.Future]) -> list[tuple[Any, Exception | None]]:
        """Summaries of blocks, or the errors they ended with; those that went well are fetched together.

        With many workers, one question a block to the scheduler would cost more than the blocks themselves.
        """
        good = [future for future in futures if future.status == "finished"]
        if len(good) < 2:
            return [_outcome(future) for future in futures]
        try:
            fetched = dict(zip((future.key for future in good), self.client.gather(good), strict=True))
        except Exception:  # noqa: BLE001 - some worker is gone: which blocks it had is found out one by one
            fetched = {}
        return [(fetched[future.key][0], None) if future.key in fetched else _outcome(future) for future in futures]

    def _look_at_workers(self) -> None:
        self._without_workers = 0.0 if self._workers() else self._without_workers + _LOOK
        if self.jobs is not None:
            self.jobs.check()
        elif self._without_workers and int(self._without_workers) % 60 == 0:
            logger.warning("no worker for %.0f s: waiting", self._without_workers)
        if self.is_local and self._without_workers >= _WITHOUT_WORKERS:
            raise ClusterError(f"all workers are gone. {_GO_ON}")

    def _workers(self) -> Mapping[str, int]:
        """Workers that the scheduler has, with their numbers of threads.

        Raises
        ------
        ClusterError
            When it is gone.
        """
        if self.client.status != "running" and not self.client.status.startswith("connect"):
            raise ClusterError(f"the connection to the scheduler is lost. {_GO_ON}")
        try:
            workers: Mapping[str, int] = self.client.ncores()
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the scheduler does not answer any more ({error}). {_GO_ON}") from error
        return workers


def _outcome(future: distributed.Future) -> tuple[Any, Exception | None]:
    """Summary of a block, or the error it ended with.

    A worker may die between the end of a block and the fetching of its summary; the block then runs again, and may
    fail this time.
    """
    import distributed

    try:
        return future.result()[0], None
    except distributed.CancelledError as error:
        raise ClusterError(f"the scheduler has forgotten the blocks of this run: it was restarted. {_GO_ON}") from error
    except Exception as error:  # noqa: BLE001 - whatever a block raises decides how it goes on
        return None, error


_GO_ON = "What was reduced is kept: run the same command again to go on."


def _next_try(task: _Task, error: Exception) -> _Task:
    """How a block that failed runs next.

    Raises
    ------
    ClusterError
        When it keeps killing workers.
    Exception
        The error itself, when another try is of no use.
    """
    import distributed

    n_failures = task.n_failures + 1
    if isinstance(error, distributed.KilledWorker):
        if n_failures >= _MOST_KILLED:
            raise ClusterError(
                f"the workers that ran block {task.block} died again and again, and no single frame is to blame: most "
                f"likely there is too little memory. {_GO_ON.rstrip('.')} with fewer --workers."
            ) from error
        return replace(task, is_rescue=not task.is_rescue, n_failures=n_failures, worker=None)
    if isinstance(error, OSError) and n_failures <= RETRIES:
        return replace(task, n_failures=n_failures)
    raise error


def _windows(work: Sequence[Work], size: Callable[[], int]) -> Iterator[tuple[Work, Sequence[int]]]:
    """Blocks a window at a time, each as large as it should be when its turn comes."""
    for group in work:
        start = 0
        while start < len(group.blocks):
            end = start + size()
            yield group, group.blocks[start:end]
            start = end


def worker_memory_limit() -> int | None:
    """Bytes that the worker this runs on may use; None outside a worker or without a limit."""
    import distributed

    try:
        return distributed.get_worker().memory_manager.memory_limit
    except ValueError:
        return None
