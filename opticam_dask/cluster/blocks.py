"""Kernels over blocks of frames: the only module that builds Dask graphs and calls ``map_blocks``.

Two uses. The pipeline runs a function once per block: each window of blocks is one ``map_blocks`` without an
array argument, which is exactly one scheduler task a block, and nothing in the graph grows with the number of
frames. People get a lazy array of frames: one ``map_blocks`` over the paths, one chunk a frame.
"""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cloudpickle
import cv2
import dask.array as da
import numpy as np
from threadpoolctl import ThreadpoolController

from opticam_dask.cluster import watchdog
from opticam_dask.kernels import compiled


class _Reader(Protocol):
    """What is needed of a reader here (``frames.Reader`` is the documented protocol)."""

    def read(self, path: str) -> np.ndarray: ...


BlockFunction = Callable[[int], Any]


def window_of_blocks(
    function: BlockFunction, blocks: Sequence[int], name: str = "block", *, frame_timeout: float = 0.0
) -> da.Array:
    """Build the graph that runs ``function(block)`` for each of ``blocks``.

    Parameters
    ----------
    function : callable
        Takes the number of a block, does its work (the block function writes its own results) and returns a
        small summary.
    blocks : sequence of int
        Numbers of the blocks of this window.
    name : str
        What the tasks are called on the dashboard.
    frame_timeout : float
        Seconds after which a frame that does not end ends the process it runs in; 0 is no limit.

    Returns
    -------
    dask.array.Array, shape (n,), one chunk and one task a block
        Object array of the summaries, in the order of ``blocks``.
    """
    return da.map_blocks(
        _run_block,
        # as bytes, unpacked inside the task: a function that a worker cannot import is then an error of the
        # task with a message, not a broken connection
        function=cloudpickle.dumps(function),
        blocks=tuple(int(block) for block in blocks),
        # a label of its own for every window: two runs on one scheduler must never share a task by name
        run=uuid.uuid4().hex,
        frame_timeout=frame_timeout,
        kernels=compiled.form(),
        chunks=((1,) * len(blocks),),
        dtype=object,
        meta=np.empty((0,), dtype=object),
        token=name,
    )


def window_of_tasks(
    function: BlockFunction, tasks: Sequence[int], name: str, *, frame_timeout: float = 0.0
) -> da.Array:
    """As :func:`window_of_blocks`, for tasks that are about no single frame and take as long as they need."""
    del frame_timeout
    return window_of_blocks(function, tasks, name)


@functools.lru_cache(maxsize=8)
def _unpack(function: bytes) -> BlockFunction:
    unpacked: BlockFunction = cloudpickle.loads(function)
    return unpacked


@functools.lru_cache(maxsize=1)
def _thread_pools(n_modules: int) -> ThreadpoolController:
    """Libraries of this process that have threads of their own, looked for again when modules were imported.

    Looking takes as long as a small frame.
    """
    return ThreadpoolController()


def _run_block(
    function: bytes,
    blocks: tuple[int, ...],
    run: str,
    frame_timeout: float,
    kernels: str,
    block_id: tuple[int, ...] = (0,),
) -> np.ndarray:
    summary = np.empty(1, dtype=object)
    compiled.use(kernels)
    run_block = _unpack(function)  # imports what it needs, which no frame is to blame for
    # a matrix product may round differently with another number of threads, and a worker has one core
    cv2.setNumThreads(1)
    with _thread_pools(len(sys.modules)).limit(limits=1), watchdog.time_limit(frame_timeout):
        summary[0] = run_block(blocks[block_id[0]])
    return summary


def lazy_frames(
    files: Sequence[str], reader: _Reader, shape: tuple[int, int], dtype: np.dtype, frames_per_chunk: int = 1
) -> da.Array:
    """Lazy array of frames; nothing is read before it is computed.

    Parameters
    ----------
    files : sequence of str
        Paths of the frames, in order.
    reader : Reader
        Reads one path to a ``(ny, nx)`` array.
    shape : (int, int)
        Shape ``(ny, nx)`` that every frame must have.
    dtype : dtype
        Type of the pixels.
    frames_per_chunk : int
        Frames in one chunk.

    Returns
    -------
    dask.array.Array, shape (frame, ny, nx)
    """
    paths = np.array(list(files), dtype=object)
    lazy_paths = da.from_array(paths, chunks=frames_per_chunk, name=f"paths-{uuid.uuid4().hex}")
    return da.map_blocks(
        _read_frames,
        lazy_paths[:, None, None],
        reader=reader,
        frame_shape=tuple(shape),
        pixel_type=np.dtype(dtype),
        dtype=dtype,
        chunks=(lazy_paths.chunks[0], (shape[0],), (shape[1],)),
        meta=np.empty((0, 0, 0), dtype=dtype),
        token="frames",
    )


def _read_frames(paths: np.ndarray, reader: _Reader, frame_shape: tuple[int, int], pixel_type: np.dtype) -> np.ndarray:
    images = np.empty((len(paths), *frame_shape), dtype=pixel_type)
    for index, path in enumerate(paths.ravel()):
        image = reader.read(path)
        if image.shape != frame_shape:
            raise ValueError(f"{path} has shape {image.shape}, {frame_shape} was expected: scan the directory again.")
        images[index] = image
    return images
