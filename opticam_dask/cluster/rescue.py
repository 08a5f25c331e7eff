"""Blocks that kill their workers: find the frames to blame, set them aside, and run the whole block again.

The frames are tried one by one in a separate process, which writes nothing and may die, hang or take too much memory
without harm to the worker. It announces each frame before it begins, so that the worker knows which frame ended it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import cloudpickle
import psutil
from threadpoolctl import threadpool_limits

from opticam_dask.cluster import watchdog
from opticam_dask.cluster.cluster_settings import import_environment
from opticam_dask.cluster.executors import MEMORY_SHARE, worker_memory_limit

#: Seconds between looks at the memory of a trial.
_LOOK = 0.05
#: Seconds for a trial to start: imports may come from a slow disk.
_START = 300.0

TryFrame = Callable[[int], Any]


def rescue_block(
    n_frames: Callable[[int], int],
    try_frame: Callable[[int, int], Any],
    run_block: Callable[[int, Mapping[int, str]], Any],
    frame_timeout: float,
    block: int,
) -> Any:
    """Run a block without the frames that kill the process they are worked on in.

    Parameters
    ----------
    n_frames : callable
        ``n_frames(block)``: how many frames the block has.
    try_frame : callable
        ``try_frame(block, index)`` does the work on one frame and writes nothing; an exception is no death.
    run_block : callable
        ``run_block(block, lost)`` runs the whole block but for the frames in ``lost`` (reason by index).
    frame_timeout : float
        Seconds for one frame; 0 is no limit.
    block : int
        Number of the block of frames.

    Returns
    -------
    object
        What ``run_block`` returns.
    """
    lost = deadly_frames(
        lambda index: try_frame(block, index),
        range(n_frames(block)),
        frame_timeout=frame_timeout,
        memory_limit=worker_memory_limit(),
    )
    return run_block(block, lost)


def deadly_frames(
    try_frame: TryFrame, indices: Sequence[int], *, frame_timeout: float, memory_limit: int | None = None
) -> dict[int, str]:
    """Try frames in a separate process, and return those that kill it.

    Parameters
    ----------
    try_frame : callable
        ``try_frame(index)`` does the work on one frame and writes nothing.
    indices : sequence of int
        Indices of the frames of the block.
    frame_timeout : float
        Seconds for one frame; 0 is no limit.
    memory_limit : int, optional
        Bytes that the process may use.

    Returns
    -------
    dict of str
        What happened, by index; empty when no frame is to blame.
    """
    lost: dict[int, str] = {}
    todo = list(indices)
    while todo:
        reached, reason = _trial(try_frame, todo, frame_timeout, memory_limit)
        if reached is None:
            break
        if reached != todo[0]:
            # alone in a fresh process: memory that the frames before it used up is not its fault
            _, reason = _trial(try_frame, [reached], frame_timeout, memory_limit)
        if reason:
            lost[reached] = reason
        todo = todo[todo.index(reached) + 1 :]
    return lost


def _trial(
    try_frame: TryFrame, indices: Sequence[int], frame_timeout: float, memory_limit: int | None
) -> tuple[int | None, str]:
    """Try frames until the process ends: the frame at which it did and why; None when all went well."""
    payload = cloudpickle.dumps((try_frame, list(indices)))
    with _child(payload) as process:
        reached: int | None = None
        begun = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(cast(BinaryIO, process.stdout), selectors.EVENT_READ)
            while True:
                watchdog.still_working()  # the time of a frame is watched here
                limit = _START if reached is None else frame_timeout
                if limit and time.monotonic() - begun > limit:
                    return reached, f"took longer than {limit:g} s"
                if memory_limit and _memory_of(process) > MEMORY_SHARE * memory_limit:
                    return reached, f"needed more memory than a worker has ({memory_limit / 1e9:.2f} GB)"
                if not selector.select(timeout=_LOOK):
                    continue
                line = cast(BinaryIO, process.stdout).readline()
                if line.strip() == b"end":
                    return None, ""
                if not line:
                    return reached, f"ended the process it was worked on in ({_how_it_ended(process.wait())})"
                reached, begun = int(line), time.monotonic()


@contextlib.contextmanager
def _child(payload: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Process of a trial; it ends at the latest when this block does, or this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opticam_dask.cluster.rescue"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, **import_environment()},
    )
    try:
        stdin = cast(BinaryIO, process.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(len(payload).to_bytes(8, "little"))
            view = memoryview(payload)
            while view:
                view = view[stdin.write(view) :]
        yield process
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout):
            cast(BinaryIO, stream).close()
        process.wait()


def _memory_of(process: subprocess.Popen[bytes]) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _how_it_ended(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _try_frames() -> None:
    """Work of the process apart: read what to do from standard input, name each frame before it begins."""
    # functions of the user may print
    channel = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    stdin = sys.stdin.buffer
    payload = stdin.read(int.from_bytes(stdin.read(8), "little"))
    # whoever asked holds the other end: when it closes, nobody waits for an answer
    threading.Thread(target=lambda: (stdin.read(1), os._exit(1)), daemon=True).start()
    try_frame, indices = cloudpickle.loads(payload)
    with threadpool_limits(limits=1):
        for index in indices:
            os.write(channel, b"%d\n" % index)
            with contextlib.suppress(Exception):  # an exception is no death: the block itself will flag or raise it
                try_frame(index)
    os.write(channel, b"end\n")
    os._exit(0)


if __name__ == "__main__":
    _try_frames()
