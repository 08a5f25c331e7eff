"""Processes of this machine for small nights, without scheduler and nannies.

A cluster of Dask takes some seconds of every processor before its first frame, which is more than a small night takes
as a whole. Here one program imports what tasks use, once, and forks into as many processes as there are to be (on
Linux; elsewhere each is a program of its own). They are no children of the user's script, which needs no ``__main__``
guard, and run the very functions that workers of a cluster run. A command that has done nothing yet but import forks
itself instead, so that nothing is imported twice. What a cluster is better at is left to it: when a process dies, hangs
or takes too much memory, :class:`Local` opens one for the blocks that are not done.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cloudpickle
import psutil

from opticam_dask.cluster import tasks
from opticam_dask.cluster.cluster_settings import (
    MEMORY_ENVIRONMENT,
    SINGLE_THREAD_ENVIRONMENT,
    import_environment,
    keep_memory,
)
from opticam_dask.cluster.executors import MEMORY_SHARE, RETRIES, OnCluster, Work
from opticam_dask.cluster.interruption import raise_if_interrupted
from opticam_dask.console import collect_seldom
from opticam_dask.kernels import compiled

if TYPE_CHECKING:
    from opticam_dask.cluster.executors import Client
    from opticam_dask.console import Console

logger = logging.getLogger(__name__)

#: Most pixels of all frames of a small night, which processes without a scheduler reduce: 512 frames of 2048 x 2048,
#: about a minute on two processors. What a cluster costs to start is then less than a tenth of the night.
MOST_PIXELS = 2**31

#: What tasks are unpickled from, and what both they and the command import later: tables of frames, barycentric times.
#: These are names: the program imports them while this process imports its own.
PRELOADED = (
    "opticam_dask.pipeline.driver",
    "opticam_dask.lightcurves.light_curve_files",
    "opticam_dask.display.run_files",
    *("pandas", "astropy.coordinates"),
)

#: What tasks need besides, but nobody else does: photutils for the catalogue, the rest for figures.
FURTHER = (
    *("opticam_dask.kernels.images.segmentation", "opticam_dask.display.diagnostics"),
    *(f"opticam_dask.display.plotting.{name}" for name in ("frames", "images", "noise")),
)

#: Only where a process that has imported all of this may fork: frameworks of macOS do not allow it.
_CAN_FORK = sys.platform == "linux"

#: Seconds between looks at the memory of the processes.
_LOOK = 0.5

Channel = multiprocessing.connection.Connection


class _Program(Protocol):
    """A child process of this process."""

    pid: int

    def wait(self) -> object:
        """Wait until it has ended."""


class ProcessDied(Exception):
    """A process of the pool has ended, or was ended; the message says how."""


class _Block(NamedTuple):
    """A block under way: number of its group, its own number, and how often it has failed."""

    group: int
    number: int
    n_failures: int = 0


class _RemoteTraceback(Exception):
    """Traceback of an error in a process of the pool, as its cause."""


class Pool:
    """Processes that run blocks; started when the first block comes, or before by :meth:`start`.

    Parameters
    ----------
    n_processes : int
        Number of processes.
    frame_timeout : float
        Seconds after which a frame that does not end ends its process; 0 is no limit.
    memory_limit : int
        Bytes that a process may use.
    """

    def __init__(self, n_processes: int, *, frame_timeout: float, memory_limit: int) -> None:
        self.n_processes = n_processes
        self._frame_timeout, self._memory_limit = frame_timeout, memory_limit
        self._programs: list[_Program] = []
        self._channels: list[Channel] = []
        self._pids: dict[Channel, int] = {}
        self._last_look = 0.0

    def start(self, *, may_fork: bool = False) -> None:
        """Start the processes; they import their modules while this process goes on.

        Parameters
        ----------
        may_fork : bool
            This process has done nothing yet but import.
        """
        if self._programs:
            return
        logger.info("starting %d processes, of at most %.2f GB each", self.n_processes, self._memory_limit / 1e9)
        pairs = [multiprocessing.Pipe() for _ in range(self.n_processes)]
        self._channels = [here for here, _ in pairs]
        ends = [there.fileno() for _, there in pairs]
        if may_fork and _CAN_FORK and threading.active_count() == 1:  # what other threads hold would be held forever
            self._programs.append(_Fork(ends, self._channels))
        else:
            self._programs += [_program(some) for some in ([ends] if _CAN_FORK else [[end] for end in ends])]
        for _, there in pairs:
            there.close()

    def await_processes(self, progress: Console | None = None) -> None:
        """Start the processes unless they run, and wait until all have imported what they need.

        Raises
        ------
        ProcessDied
            When one ends before.
        """
        self.start()
        coming = [channel for channel in self._channels if channel not in self._pids]
        stage = (
            progress.stage("Starting", len(coming), "processes") if progress and coming else contextlib.nullcontext()
        )
        with stage:
            while coming:
                raise_if_interrupted()
                for channel in multiprocessing.connection.wait(coming, timeout=_LOOK):
                    assert isinstance(channel, Channel)
                    with _deaths("before its first block"):
                        self._pids[channel] = int(channel.recv_bytes())
                    coming.remove(channel)
                    if progress:
                        progress.advance(1)

    def run(self, work: Sequence[Work]) -> Iterator[tuple[int, int, Any]]:
        """Run all blocks of all groups; yield number of the group, number of the block and summary as they end.

        Raises
        ------
        ProcessDied
            The blocks whose summaries were not yielded are not done.
        OSError
            When a block could not read or write, several times.
        """
        self.await_processes()
        todo = (_Block(group, block) for group, one in enumerate(work) for block in one.blocks)
        again: list[_Block] = []
        idle, under_way, packed = list(self._channels), dict[Channel, _Block](), dict[int, bytes]()

        def submit() -> None:
            while idle and (block := again.pop() if again else next(todo, None)) is not None:
                one, channel = work[block.group], idle.pop(0)
                if block.group not in packed:
                    packed[block.group] = cloudpickle.dumps(one.function)
                under_way[channel] = block
                limit = self._frame_timeout if one.has_time_limit else 0.0
                request = pickle.dumps((packed[block.group], block.number, compiled.form(), limit))
                with _deaths(_while(block)):
                    channel.send_bytes(request)

        try:
            submit()
            while under_way:
                raise_if_interrupted()
                for channel in self._answered(under_way):
                    block = under_way[channel]
                    with _deaths(_while(block)):
                        is_done, found = pickle.loads(channel.recv_bytes())
                    del under_way[channel]
                    idle.append(channel)
                    if not is_done:
                        again.append(_next_try(block, *found))
                    submit()  # before whoever asked gets on with what was found
                    if is_done:
                        yield block.group, block.number, found
        finally:
            if under_way:
                self.close()

    def _answered(self, under_way: dict[Channel, _Block]) -> Iterator[Channel]:
        """Processes that have something to say about their block; none now and then."""
        for channel in multiprocessing.connection.wait(list(under_way), timeout=_LOOK):
            assert isinstance(channel, Channel)
            yield channel
        if time.monotonic() - self._last_look > _LOOK:
            self._last_look = time.monotonic()
            self._require_memory(under_way)

    def _require_memory(self, under_way: dict[Channel, _Block]) -> None:
        for channel in under_way:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(self._pids[channel]).memory_info().rss > MEMORY_SHARE * self._memory_limit:
                    limit = f"{self._memory_limit / 1e9:.2f} GB"
                    raise ProcessDied(f"block {under_way[channel].number} needed more memory than its share ({limit})")

    def close(self) -> None:
        """End all processes, whatever they do."""
        for program in self._programs:
            _kill(program.pid)
            program.wait()
        for channel in self._channels:
            channel.close()
        self._programs, self._channels, self._pids = [], [], {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill(pid: int) -> None:
    """End a program and its children; one that was forked a moment ago leads no group yet, and has no children."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _program(numbers: Sequence[int]) -> subprocess.Popen[bytes]:
    """A program that imports modules and becomes as many processes as there are channels."""
    return subprocess.Popen(
        # -P: what this process imports, not this directory
        [sys.executable, "-P", "-m", "opticam_dask.cluster.pool", *map(str, numbers)],
        env=os.environ | import_environment() | SINGLE_THREAD_ENVIRONMENT | MEMORY_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others
    )


class _Fork:
    """A child process forked from this one, which has already imported the modules that tasks use."""

    def __init__(self, numbers: Sequence[int], others: Sequence[Channel]) -> None:
        for name in PRELOADED:
            importlib.import_module(name)
        if sys.stdout is not None:  # programs without a console have none
            sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            for which in (signal.SIGINT, signal.SIGTERM):
                signal.signal(which, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for channel in others:
                channel.close()
            os.environ.update(SINGLE_THREAD_ENVIRONMENT)
            keep_memory()
            _main(numbers)
        except BaseException:  # noqa: BLE001 - nothing of the command may go on in this process
            traceback.print_exc()
        finally:
            os._exit(1)

    def wait(self) -> None:
        """Wait until it has ended."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@contextlib.contextmanager
def _deaths(when: str) -> Iterator[None]:
    """A channel that breaks is the death of the process at its other end."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise ProcessDied(f"a process ended {when}") from error


def _while(block: _Block) -> str:
    return f"while it worked on block {block.number}"


def _next_try(block: _Block, error: Exception, trace: str) -> _Block:
    """How a block that failed runs next; raises its error when another try is of no use."""
    if isinstance(error, OSError) and block.n_failures < RETRIES:
        return block._replace(n_failures=block.n_failures + 1)
    raise error from _RemoteTraceback(f"\n{trace}")


def is_small(n_pixels: int | None) -> bool:
    """Whether a night is reduced by processes without a scheduler, by the pixels of all its frames (None: unknown)."""
    return n_pixels is not None and n_pixels <= MOST_PIXELS


class Local:
    """Processes of this machine: a pool for a small night, a cluster for all else and whatever goes wrong in a pool.

    Parameters
    ----------
    pool : Pool
        The processes without a scheduler.
    open_cluster : callable
        Opens the cluster of this machine.
    tell : callable
        Takes one line for people.

    Attributes
    ----------
    n_pixels : int, optional
        Pixels of all frames of the run; None where nobody knows.
    progress : Console, optional
        Told how many workers have started.
    """

    n_pixels: int | None = None
    progress: Console | None = None

    def __init__(
        self, pool: Pool, open_cluster: Callable[[], AbstractContextManager[OnCluster]], tell: Callable[[str], None]
    ) -> None:
        self._pool, self._open_cluster, self._tell = pool, open_cluster, tell
        self._opened = ExitStack()
        self._on_cluster: OnCluster | None = None
        self._is_told = False

    def start(self) -> None:
        """Start the pool while it is not known yet how much there is to do."""
        if self._on_cluster is None:
            self._pool.start(may_fork=True)

    def run(self, work: Sequence[Work]) -> Iterator[Any]:
        """Run all blocks of all groups; yield each summary once, in any order."""
        left = [dict.fromkeys(one.blocks) for one in work]
        if self._on_cluster is None and is_small(self.n_pixels):
            if not self._is_told:
                self._is_told = True
                self._tell(f"{self._pool.n_processes} process(es) of this machine reduce it, without a scheduler.")
            try:
                self._pool.await_processes(self.progress)
                for group, block, summary in self._pool.run(work):
                    del left[group][block]
                    yield summary
                return
            except ProcessDied as death:
                self._tell(f"{death}: a cluster of this machine goes on.".capitalize())
        rest = [one._replace(blocks=list(blocks)) for one, blocks in zip(work, left, strict=True) if blocks]
        yield from self._cluster().run(rest)

    @property
    def client(self) -> Client:
        """Dask client of the cluster, which is opened by this."""
        return self._cluster().client

    def _cluster(self) -> OnCluster:
        if self._on_cluster is None:
            self._pool.close()
            self._on_cluster = self._opened.enter_context(self._open_cluster())
            self._on_cluster.await_workers(self.progress)
        return self._on_cluster

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self._pool.close()


# ---------------------------------------------------------------- what the program does


def _main(numbers: Sequence[int]) -> None:
    """Import what tasks need, become as many processes as there are channels, and serve them."""
    collect_seldom()
    for name in (*PRELOADED, *FURTHER):
        importlib.import_module(name)
    gc.freeze()  # what all processes share stays shared
    own = next((number for number in numbers[1:] if os.fork() == 0), numbers[0])
    for number in set(numbers) - {own}:
        os.close(number)
    _serve(Channel(own))


def _serve(channel: Channel) -> None:
    """Run the blocks that come through a channel, until it closes."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                requests.put(channel.recv_bytes())
        os._exit(0)  # nobody waits for an answer any more

    channel.send_bytes(b"%d" % os.getpid())
    threading.Thread(target=read, daemon=True).start()
    while True:
        function, block, kernels, limit = pickle.loads(requests.get())
        try:
            answer = cloudpickle.dumps((True, tasks.run(function, block, kernels=kernels, frame_timeout=limit)))
        except Exception as error:  # noqa: BLE001 - whatever a block raises is told to who asked for it
            answer = _packed_error(error)
        channel.send_bytes(answer)


def _packed_error(error: Exception) -> bytes:
    trace = traceback.format_exc()
    try:
        packed = cloudpickle.dumps((False, (error, trace)))
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - errors of users need not be picklable
        packed = pickle.dumps((False, (RuntimeError(f"{type(error).__name__}: {error}"), trace)))
    return packed


if __name__ == "__main__":
    _main([int(number) for number in sys.argv[1:]])
