"""Set-up of every task on a worker: threads of libraries, compiled kernels, the time limit of a frame.

Nothing of Dask is imported here. A worker would import ``dask.array`` with xarray and pandas, which takes as long as a
hundred frames.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import cloudpickle
import cv2
import numpy as np
from threadpoolctl import LibController, ThreadpoolController

from opticam_dask.cluster import open_files, watchdog
from opticam_dask.console import collect_as_usual
from opticam_dask.kernels import compiled

#: Threads of libraries, the form of the kernels and the time limit of a frame are those of a whole process: where a
#: worker has several threads, its blocks take turns.
_turn = threading.Lock()

#: Name of this process; a worker of ``Client(processes=False)`` runs in the process that built the graph.
PROCESS = uuid.uuid4().hex


@functools.lru_cache(maxsize=8)
def unpacked(function: bytes) -> Callable[..., Any]:
    """Function from its pickle; modules that it needs are imported here."""
    found: Callable[..., Any] = cloudpickle.loads(function)
    return found


@functools.lru_cache(maxsize=1)
def thread_pools(n_modules: int) -> ThreadpoolController:
    """Libraries of this process that have threads of their own, looked for again when modules were imported.

    Looking takes as long as a small frame.
    """
    return ThreadpoolController()


class _OneThread:
    """Limit to one thread in every library, which lasts until the last of the tasks that ask for it has ended.

    The number of threads of most is that of a whole process. Tasks in several threads of it end in any order: the first
    that ended would give the libraries their threads back while others are at work, and those would round as chance
    has it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before: dict[str, tuple[LibController, int]] = {}
        self._of_thread = threading.local()

    def __enter__(self) -> None:
        with self._lock:
            self._n_inside += 1
            of_thread: dict[str, tuple[LibController, int]] = {}
            self._of_thread.__dict__.setdefault("before", []).append(of_thread)
            for library in thread_pools(len(sys.modules)).lib_controllers:
                before = of_thread if _is_of_thread(library) else self._before
                before.setdefault(library.filepath, (library, library.num_threads))
                _set_threads(library, 1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            _give_back(self._of_thread.before.pop())
            if not self._n_inside:
                _give_back(self._before)


def _is_of_thread(library: LibController) -> bool:
    """Whether each thread of the process has a number of its own for this library, as OpenMP has it."""
    return "openmp" in (library.user_api, getattr(library, "threading_layer", ""))


def _give_back(before: dict[str, tuple[LibController, int]]) -> None:
    for library, number in before.values():
        _set_threads(library, number)
    before.clear()


def _set_threads(library: LibController, number: int) -> None:
    """Set the number of threads of a library from any thread.

    Since threadpoolctl 3.8 ``set_num_threads`` does nothing but in the thread that came first.
    """
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


#: A matrix product may round differently with another number of threads, and a worker has one core.
one_thread = _OneThread()


def run_block(
    function: bytes,
    blocks: tuple[int, ...],
    window: str,
    frame_timeout: float,
    built_by: tuple[str, int],
    kernels: str,
    block_id: tuple[int, ...] = (0,),
) -> np.ndarray:
    """Task of a Dask graph: run a function on one block of a window.

    Parameters
    ----------
    function : bytes
        Pickled function of the number of a block.
    blocks : tuple of int
        Numbers of the blocks of the window.
    window : str
        Name of the window, which keeps its tasks apart from all others.
    frame_timeout : float
        Seconds after which a frame that does not end ends this process; 0 is no limit.
    built_by : (str, int)
        Name and number of the process that built the graph, which is never ended.
    kernels : str
        Form of the kernels.
    block_id : (int,)
        Place of the block in the window, from Dask.

    Returns
    -------
    ndarray of object, shape (1,)
        What the function returned.
    """
    summary = np.empty(1, dtype=object)
    limit = 0.0 if built_by == (PROCESS, os.getpid()) else frame_timeout
    summary[0] = run(function, blocks[block_id[0]], kernels=kernels, frame_timeout=limit)
    return summary


def run(function: bytes, block: int, *, kernels: str, frame_timeout: float = 0.0) -> Any:
    """Run a pickled function on a block, with one thread in every library.

    Parameters
    ----------
    function : bytes
        Pickled function of the number of a block.
    block : int
        Number of the block.
    kernels : str
        Form of the kernels.
    frame_timeout : float
        Seconds after which a frame that does not end ends this process; 0 is no limit.

    Returns
    -------
    object
        What the function returned.
    """
    of_block = unpacked(function)  # imports what it needs, which no frame is to blame for
    with _turn:
        collect_as_usual()
        compiled.use(kernels)
        cv2.setNumThreads(1)
        with one_thread, watchdog.time_limit(frame_timeout), open_files.keep_open():
            return of_block(block)
