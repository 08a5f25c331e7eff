"""Kernels over blocks of frames: the only module that builds Dask graphs.

Three uses. The pipeline runs a function once per block: each window of blocks is one array of their numbers that the
function is mapped over, which is exactly one scheduler task a block, and nothing in the graph grows with the number of
frames. People get a lazy array of frames: one map over the paths, one chunk a frame. The steps over such an array are
one task a chunk each.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
import cv2
import numpy as np

from opticam_dask.cluster import tasks
from opticam_dask.kernels import compiled

if TYPE_CHECKING:
    import dask.array as da
    from typing_extensions import TypeIs

    from opticam_dask.cluster.rows import Rows

# Dask is imported where a graph is built. A worker imports this module with the functions that it runs: it would import
# dask.array with xarray and pandas, which takes as long as a hundred frames.


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
        Seconds after which a frame that does not end ends the process it runs in; 0 is no limit. The process that
        builds the graph is never ended.

    Returns
    -------
    dask.array.Array, shape (n,), one chunk and one task a block
        Object array of the summaries, in the order of ``blocks``.
    """
    import dask.array as da
    from dask.layers import ArrayValuesDep

    numbers = {(place,): int(block) for place, block in enumerate(blocks)}
    chunks = ((1,) * len(blocks),)
    return da.blockwise(
        tasks.run_block,
        ("block",),
        # not map_blocks: for the number of a block it wraps the function in one of dask.array, which every worker
        # would have to import
        ArrayValuesDep(chunks, numbers),
        ("block",),
        # as bytes, unpacked inside the task: a function that a worker cannot import is then an error of the
        # task with a message, not a broken connection
        function=cloudpickle.dumps(function),
        frame_timeout=frame_timeout,
        built_by=(tasks.PROCESS, os.getpid()),
        kernels=compiled.form(),
        # a name of its own for every window: two runs on one scheduler must never share a task by name
        name=f"{name}-{uuid.uuid4().hex}",
        dtype=object,
        meta=np.empty((0,), dtype=object),
        align_arrays=False,
    )


def window_of_tasks(
    function: BlockFunction, numbers: Sequence[int], name: str, *, frame_timeout: float = 0.0
) -> da.Array:
    """As :func:`window_of_blocks`, for tasks that are about no single frame and take as long as they need."""
    del frame_timeout
    return window_of_blocks(function, numbers, name)


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
    import dask.array as da
    from dask.array.core import normalize_chunks

    paths = np.array(list(files), dtype=object)
    (chunks,) = normalize_chunks((frames_per_chunk,), shape=(len(paths),))
    return da.blockwise(
        _read_frames,
        ("frame", "y", "x"),
        _pieces(paths, chunks),
        ("frame",),
        reader=reader,
        frame_shape=tuple(shape),
        pixel_type=np.dtype(dtype),
        new_axes={"y": shape[0], "x": shape[1]},
        adjust_chunks={"frame": chunks},
        name=f"frames-{uuid.uuid4().hex}",
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype=dtype),
        concatenate=True,
        align_arrays=False,
    )


def _read_frames(paths: np.ndarray, reader: _Reader, frame_shape: tuple[int, int], pixel_type: np.dtype) -> np.ndarray:
    images = np.empty((len(paths), *frame_shape), dtype=pixel_type)
    for index, path in enumerate(paths.ravel()):
        image = reader.read(path)
        if image.shape != frame_shape:
            raise ValueError(f"{path} has shape {image.shape}, {frame_shape} was expected: scan the directory again.")
        images[index] = image
    return images


# ---------------------------------------------------------------- the steps that people hold in their hands

#: ``function(images, table, *shared) -> list``: what is found out about each frame of a chunk.
ChunkFunction = Callable[..., list[Any]]

#: Results of so many chunks are put together by one task.
_FAN_IN = 8


def chunk_records(
    function: ChunkFunction, images: da.Array | np.ndarray, table: np.ndarray, shared: Sequence[Any] = ()
) -> da.Array | np.ndarray:
    """Run a function on every chunk of frames: one task a chunk, or at once on NumPy.

    Parameters
    ----------
    function : callable
        ``function(images, table, *shared)`` gives a record of anything for each frame of the chunk.
    images : array, shape (frame, ny, nx)
        In chunks of whole frames.
    table : ndarray, shape (frame,)
        What the headers say, a row a frame; every task gets the rows of its chunk.
    shared : sequence of array
        One-dimensional arrays in one chunk that every task needs.

    Returns
    -------
    array of object, shape (frame, 1, 1)
    """
    packed = cloudpickle.dumps(function)
    if not is_lazy(images):
        return _run_chunk(images, table, *shared, function=packed)
    import dask.array as da

    rows = _pieces(table, images.chunks[0])
    given: list[Any] = []
    for one in shared:
        lazy = one if is_lazy(one) else da.from_array(one, chunks=-1, name=f"shared-{uuid.uuid4().hex}")
        # one block along the dimensions of the images is there for all of their blocks
        given += [lazy[np.newaxis, np.newaxis, :], ("frame", "y", "x")]
    return da.blockwise(
        _run_chunk,
        ("frame", "y", "x"),  # a step that lost its dimensions would not be one task with the step before
        images,
        ("frame", "y", "x"),
        rows,
        ("frame",),
        *given,
        function=packed,
        adjust_chunks={"y": (1,), "x": (1,)},
        name=f"{_name_of(function)}-{uuid.uuid4().hex}",
        dtype=object,
        meta=np.empty((0, 0, 0), dtype=object),
        concatenate=True,
        align_arrays=False,
    )


def _pieces(table: np.ndarray, chunks: tuple[int, ...]) -> Rows:
    """Rows of a table as part of the tasks of their chunks: no task of their own."""
    stops = np.cumsum(chunks).tolist()
    pieces = {
        (number,): table[stop - size : stop] for number, (size, stop) in enumerate(zip(chunks, stops, strict=True))
    }
    from opticam_dask.cluster.rows import Rows

    return Rows((chunks,), pieces)


def _name_of(function: ChunkFunction) -> str:
    """What the tasks are called on the dashboard."""
    return str(getattr(function, "name", None) or getattr(function, "__name__", "step"))


def _run_chunk(images: np.ndarray, table: np.ndarray, *shared: Any, function: bytes) -> np.ndarray:
    records = np.empty((len(images), 1, 1), dtype=object)
    run = tasks.unpacked(function)
    cv2.setNumThreads(1)
    with tasks.thread_pools(len(sys.modules)).limit(limits=1):
        for index, record in enumerate(run(images, table, *(np.ravel(one) for one in shared))):
            records[index, 0, 0] = record
    return records


def picked(records: da.Array | np.ndarray, name: str, shape: tuple[int, ...], dtype: Any) -> da.Array | np.ndarray:
    """One variable of the records of all frames, shape (frame, ...).

    Parameters
    ----------
    records : array of dict, shape (frame, 1, 1)
        Of :func:`chunk_records` or :func:`gathered`.
    name : str
        Of the variable.
    shape : tuple of int
        Of its values of one frame.
    dtype : dtype
        Of its values.
    """
    if not is_lazy(records):
        return _pick(records, name, shape, np.dtype(dtype))
    import dask.array as da

    axes = tuple(f"axis{number}" for number in range(len(shape)))
    return da.blockwise(
        _pick,
        ("frame", *axes),
        records,
        ("frame", "y", "x"),
        variable=name,
        shape=tuple(shape),
        dtype_of=np.dtype(dtype),
        new_axes=dict(zip(axes, shape, strict=True)),
        name=f"{name}-{uuid.uuid4().hex}",
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(shape)), dtype=dtype),
        concatenate=True,
        align_arrays=False,
    )


def _pick(records: np.ndarray, variable: str, shape: tuple[int, ...], dtype_of: np.dtype) -> np.ndarray:
    values = np.empty((len(records), *shape), dtype=dtype_of)
    for index, record in enumerate(records.ravel()):
        values[index] = record[variable]
    return values


def gathered(records: da.Array | np.ndarray, merge: Callable[[list[Any]], Any], finish: Callable[[Any], Any]) -> Any:
    """Records of all frames put together in a tree: of one thing, an array of one record.

    Parameters
    ----------
    records : array of object, shape (frame, 1, 1)
        Of :func:`chunk_records`; a record may be None.
    merge : callable
        Makes one thing of some records or of some such things; the order does not matter.
    finish : callable
        Makes the record of what is left in the end.

    Returns
    -------
    array of object, shape (1, 1, 1)
    """
    merging, ending = cloudpickle.dumps(merge), cloudpickle.dumps(finish)
    if not is_lazy(records):
        return _finish(_merge([_merge([records], merging)], merging), ending)
    import dask
    import dask.array as da

    task = dask.delayed(_merge, pure=False)
    level = [task([chunk], merging) for chunk in records.to_delayed().ravel()]
    while len(level) > 1:
        level = [task(level[start : start + _FAN_IN], merging) for start in range(0, len(level), _FAN_IN)]
    whole = dask.delayed(_finish, pure=False)(level[0], ending)
    return da.from_delayed(whole, shape=(1, 1, 1), dtype=object, meta=np.empty((0, 0, 0), dtype=object))


def _merge(chunks: list[np.ndarray], merge: bytes) -> np.ndarray:
    merged = np.empty((1, 1, 1), dtype=object)
    merged[0, 0, 0] = tasks.unpacked(merge)(
        [record for chunk in chunks for record in chunk.ravel() if record is not None]
    )
    return merged


def _finish(merged: np.ndarray, finish: bytes) -> np.ndarray:
    finished = np.empty((1, 1, 1), dtype=object)
    finished[0, 0, 0] = tasks.unpacked(finish)(merged[0, 0, 0])
    return finished


def computed(*arrays: da.Array | np.ndarray) -> tuple[np.ndarray, ...]:
    """The values of some arrays, with the scheduler that is in charge."""
    import dask

    return tuple(np.asarray(one) for one in dask.compute(*arrays))


def is_lazy(values: Any) -> TypeIs[da.Array]:
    """Whether an array waits to be computed; who has one has imported ``dask.array``."""
    known = sys.modules.get("dask.array")
    return known is not None and isinstance(values, known.Array)
