"""Lazy arrays of frames, and the steps over them: with ``windows`` the only module that builds Dask graphs.

People get a lazy array of frames: one map over the paths, one chunk a frame. The steps over such an array are one task
a chunk each. The blocks of a durable run are in :mod:`~opticam_dask.cluster.run_blocks`.
"""

from __future__ import annotations

import pickle
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import cloudpickle
import cv2
import dask
import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.base import normalize_token, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayValuesDep

from opticam_dask.cluster import open_files, tasks
from opticam_dask.cluster.run_blocks import window_of_blocks

__all__ = [
    "chunk_records",
    "computed",
    "gathered",
    "is_lazy",
    "kept",
    "lazy_frames",
    "picked",
    "window_of_blocks",
]


class _Reader(Protocol):
    """What is needed of a reader here (``frames.Reader`` is the documented protocol)."""

    def read(self, path: str) -> np.ndarray: ...


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
    with open_files.keep_open():
        for index, path in enumerate(paths.ravel()):
            image = reader.read(path)
            if image.shape != frame_shape:
                raise ValueError(f"{path} has shape {image.shape}, not {frame_shape}: scan the directory again.")
            images[index] = image
    return images


# ---------------------------------------------------------------- the steps that people hold in their hands

#: ``function(images, table, *shared) -> list``: what is found out about each frame of a chunk.
ChunkFunction = Callable[..., list[Any]]

#: Results of so many chunks are put together by one task.
_FAN_IN = 8


def chunk_records(
    function: ChunkFunction,
    images: da.Array | np.ndarray,
    table: np.ndarray,
    shared: Sequence[Any] = (),
    *,
    known: Sequence[Any] = (),
    counts: tuple[int, ...] | None = None,
) -> da.Array | np.ndarray:
    """Run a function on every chunk of frames: one task a chunk, or at once on NumPy.

    The same function on the same frames makes the same tasks, so that what two results need is computed once where
    they are computed together.

    Parameters
    ----------
    function : callable
        ``function(images, table, *known, *shared)`` gives a record of anything for each frame of the chunk.
    images : array, shape (frame, ny, nx)
        In chunks of whole frames; or records of the frames.
    table : ndarray, shape (frame,)
        What the headers say, a row a frame; every task gets the rows of its chunk.
    shared : sequence of array
        One-dimensional arrays in one chunk that every task needs.
    known : sequence of array, shape (frame, ...)
        What is known of each frame; every task gets that of its chunk.
    counts : tuple of int, optional
        Records that the function gives for each chunk, where it is not one a frame.

    Returns
    -------
    array of object, shape (frame, 1, 1)
    """
    packed = cloudpickle.dumps(function)
    if not isinstance(images, da.Array):
        return _run_chunk(images, table, *known, *shared, function=packed, n_known=len(known))
    (chunks,) = images.chunks[:1]
    given: list[Any] = []
    for number, one in enumerate(known):
        axes = ("frame", *(f"known{number}_{axis}" for axis in range(1, one.ndim)))
        if isinstance(one, da.Array):
            given += [one.rechunk({0: chunks}), axes]
        else:
            given += [_pieces(one, chunks), ("frame",)]
    for one in shared:
        lazy = one if isinstance(one, da.Array) else da.from_array(one, chunks=-1)
        # one block along the dimensions of the images is there for all of their blocks
        given += [lazy[np.newaxis, np.newaxis, :], ("frame", "y", "x")]
    inputs = [one.name if isinstance(one, da.Array) else one for one in (images, *known, *shared)]
    return da.blockwise(
        _run_chunk,
        ("frame", "y", "x"),  # a step that lost its dimensions would not be one task with the step before
        images,
        ("frame", "y", "x"),
        _pieces(table, chunks),
        ("frame",),
        *given,
        function=packed,
        n_known=len(known),
        adjust_chunks={"y": (1,), "x": (1,)} | ({} if counts is None else {"frame": counts}),
        name=f"{_name_of(function)}-{tokenize(packed, inputs, pickle.dumps(table))}",
        dtype=object,
        meta=np.empty((0, 0, 0), dtype=object),
        concatenate=True,
        align_arrays=False,
    )


class _Rows(ArrayValuesDep):
    """Rows of a table by chunk, with a name of their own: Dask would print all of them to make one."""


@normalize_token.register(_Rows)
def _name_of_rows(_: _Rows) -> str:
    return uuid.uuid4().hex


def _pieces(table: np.ndarray, chunks: tuple[int, ...]) -> _Rows:
    """Rows of a table as part of the tasks of their chunks: no task of their own."""
    stops = np.cumsum(chunks).tolist()
    pieces = {
        (number,): table[stop - size : stop] for number, (size, stop) in enumerate(zip(chunks, stops, strict=True))
    }
    return _Rows((chunks,), pieces)


def _name_of(function: ChunkFunction) -> str:
    """What the tasks are called on the dashboard."""
    return str(getattr(function, "name", None) or getattr(function, "__name__", "step"))


def _run_chunk(images: np.ndarray, table: np.ndarray, *given: Any, function: bytes, n_known: int) -> np.ndarray:
    run = tasks.unpacked(function)
    cv2.setNumThreads(1)
    with tasks.thread_pools(len(sys.modules)).limit(limits=1):
        found = run(images, table, *given[:n_known], *(np.ravel(one) for one in given[n_known:]))
    records = np.empty((len(found), 1, 1), dtype=object)
    for index, record in enumerate(found):
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
    if not isinstance(records, da.Array):
        return _pick(records, name, shape, np.dtype(dtype))
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
        name=f"{name}-{tokenize(records.name, name, shape, np.dtype(dtype))}",
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
    """Records of all frames joined in a tree, as an array of one record.

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
    if not isinstance(records, da.Array):
        return _finish(_merge([_merge([records], merging)], merging), ending)
    token = tokenize(records.name, merging, ending)
    graph: dict[Any, Any] = {}
    groups: list[list[Any]] = [[(records.name, number, 0, 0)] for number in range(records.numblocks[0])]
    while True:
        level = [(f"merge-{token}", len(graph) + number) for number in range(len(groups))]
        graph |= {key: (_merge, group, merging) for key, group in zip(level, groups, strict=True)}
        if len(level) == 1:
            break
        groups = [level[start : start + _FAN_IN] for start in range(0, len(level), _FAN_IN)]
    name = f"gathered-{token}"
    graph[name, 0, 0, 0] = (_finish, level[0], ending)
    # Dask's own annotations do not know that its arrays are collections
    whole = HighLevelGraph.from_collections(name, graph, dependencies=[records])  # type: ignore[list-item]
    return da.Array(whole, name, chunks=((1,), (1,), (1,)), dtype=object, meta=np.empty((0, 0, 0), dtype=object))


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
    """Values of some arrays, computed together by the scheduler in use."""
    return tuple(np.asarray(one) for one in dask.compute(*arrays))


def kept(*arrays: da.Array | np.ndarray) -> tuple[da.Array | np.ndarray, ...]:
    """Arrays computed once and kept in the memory of the workers, chunk by chunk."""
    persisted: tuple[da.Array | np.ndarray, ...] = dask.persist(*arrays)
    return persisted


def is_lazy(values: Any) -> bool:
    """Whether an array waits to be computed."""
    return isinstance(values, da.Array)
