"""Lazy arrays of frames, and the steps over them.

People get a lazy array of frames: one map over the paths, one chunk a frame. The steps over such an array are one task
a chunk each; what is made once for all frames is in :mod:`~opticam_dask.cluster.lazy.records`, the blocks of a durable
run are in :mod:`~opticam_dask.cluster.run_blocks`. Only these modules build Dask graphs.
"""

from __future__ import annotations

import functools
import math
import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cloudpickle
import cv2
import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.base import normalize_token, tokenize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.layers import ArrayValuesDep

from opticam_dask.cluster import open_files, tasks
from opticam_dask.cluster.lazy.records import (
    Joined,
    Taken,
    computed,
    inputs_of,
    is_lazy,
    kept,
    n_inputs,
    name_of,
    picked,
    picked_one,
    record_array,
    take,
    task_of,
    whole,
)
from opticam_dask.cluster.run_blocks import window_of_blocks

__all__ = [
    "FrameFiles",
    "chunk_records",
    "computed",
    "gathered",
    "is_lazy",
    "kept",
    "lazy_frames",
    "n_inputs",
    "n_joining",
    "picked",
    "picked_one",
    "whole",
    "window_of_blocks",
]


class _Reader(Protocol):
    """Reader of frames, as far as blocks need it (``frames.Reader`` is the documented protocol)."""

    def read(self, path: str) -> np.ndarray: ...


def lazy_frames(
    files: Sequence[str],
    reader: _Reader,
    shape: tuple[int, int],
    dtype: np.dtype,
    frames_per_chunk: int | tuple[int, ...] = 1,
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
    frames_per_chunk : int or tuple of int
        Frames in one chunk, or in each.

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
    for index, image in enumerate(_each_frame(paths, reader, frame_shape)):
        images[index] = image
    return images


def _each_frame(paths: np.ndarray, reader: _Reader, frame_shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames as their reader gives them."""
    with open_files.keep_open():
        for path in paths.ravel():
            image = reader.read(path)
            if image.shape != frame_shape:
                raise ValueError(f"{path} has shape {image.shape}, not {frame_shape}: scan the directory again.")
            yield image


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """Frames as paths: every task reads the frames that it needs, so that no pixels wait in memory between two tasks.

    Attributes
    ----------
    files : sequence of str
        Paths of the frames, in order.
    reader : Reader
        Reads one path to a ``(ny, nx)`` array.
    shape : (int, int)
        Shape of every frame, ``(ny, nx)``.
    chunks : tuple of int
        Frames in each chunk.
    name : str
        Name of these frames in a Dask graph, different for other frames.
    """

    files: Sequence[str]
    reader: _Reader
    shape: tuple[int, int]
    chunks: tuple[int, ...]
    name: str


# ---------------------------------------------------------------- the steps that people hold in their hands

#: ``function(images, table, *shared) -> list``: what is found out about each frame of a chunk.
ChunkFunction = Callable[..., list[Any]]

#: Results of this many chunks are put together by one task.
_FAN_IN = 8


def chunk_records(
    function: ChunkFunction,
    images: da.Array | np.ndarray | FrameFiles,
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
    images : array, shape (frame, ny, nx), or FrameFiles
        In chunks of whole frames; or records of the frames, shape (frame,).
    table : ndarray, shape (frame,)
        What the headers say, a row a frame; every task gets the rows of its chunk.
    shared : sequence of array
        What every task needs; the function gets each flattened.
    known : sequence of array, shape (frame, ...)
        What is known of each frame; every task gets that of its chunk.
    counts : tuple of int, optional
        Records that the function gives for each chunk, where it is not one a frame.

    Returns
    -------
    array of object, shape (frame,)
    """
    packed = cloudpickle.dumps(function)
    if isinstance(images, np.ndarray):
        return _run_chunk(images, table, *known, *shared, function=packed, n_known=len(known))
    given: list[Any] = []
    read: tuple[Any, ...] | None = None
    if isinstance(images, FrameFiles):
        chunks, read = images.chunks, (images.reader, images.shape)
        given += [_pieces(np.array(list(images.files), dtype=object), chunks), ("frame",)]
    else:
        chunks = images.chunks[0]
        given += [images, ("frame", "y", "x")[: images.ndim]]
    given += [_pieces(table, chunks), ("frame",)]
    for number, one in enumerate(known):
        axes = ("frame", *(f"known{number}_{axis}" for axis in range(1, one.ndim)))
        given += [one.rechunk({0: chunks}), axes] if isinstance(one, da.Array) else [_pieces(one, chunks), ("frame",)]
    inputs, taken = inputs_of(shared)
    for one in inputs:
        # one block along the frames is there for all of their blocks; a dimension of its own would keep the task from
        # being one with those before
        given += [one.reshape(-1) if isinstance(one, da.Array) else da.from_array(one, chunks=-1), ("frame",)]
    names = [getattr(one, "name", one) for one in (images, *known, *shared)]
    return da.blockwise(
        _run_chunk,
        ("frame",),
        *given,
        function=packed,
        n_known=len(known),
        read=read,
        taken=taken,
        adjust_chunks={"frame": chunks if counts is None else counts},
        name=f"{name_of(function)}-{tokenize(packed, names, chunks, pickle.dumps(table))}",
        dtype=object,
        meta=np.empty(0, dtype=object),
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


def _run_chunk(
    images: np.ndarray,
    table: np.ndarray,
    *given: Any,
    function: bytes,
    n_known: int,
    read: tuple[Any, ...] | None = None,
    taken: tuple[Taken, ...] | None = None,
) -> np.ndarray:
    run = tasks.unpacked(function)
    cv2.setNumThreads(1)
    # one after the other, as they are worked on; a frame may come with what its file says of its pixels
    frames = images if read is None else _each_frame(images, *read)
    shared = given[n_known:] if taken is None else [take(given[n_known:], one) for one in taken]
    with tasks.one_thread:
        found = run(frames, table, *given[:n_known], *map(np.ravel, shared))
    records = np.empty(len(found), dtype=object)
    for index, record in enumerate(found):
        records[index] = record
    return records


def gathered(
    function: ChunkFunction,
    images: da.Array | np.ndarray | FrameFiles,
    table: np.ndarray,
    shared: Sequence[Any] = (),
    *,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[Any], Any],
    known: Sequence[Any] = (),
) -> da.Array | np.ndarray:
    """Run a function on every chunk of frames, as `chunk_records` does, and join what it finds in a tree.

    Parameters
    ----------
    function : callable
        Called like that of `chunk_records`, but gives a list of one record for all frames of a chunk.
    images, table, shared, known
        Frames, what headers say of them, and what tasks get beside them: arguments of `chunk_records`.
    merge : callable
        Joins some records, or some joined records, into one; the order does not matter.
    finish : callable
        Makes the final record from the last joined one.

    Returns
    -------
    array of object, shape (1,)
    """
    merging, ending = cloudpickle.dumps(merge), cloudpickle.dumps(finish)
    join = functools.partial(_join, merge=merging, finish=ending)
    if isinstance(images, FrameFiles) and len(images.chunks) == 1 and not known:
        inputs, taken = inputs_of(shared)
        packed, files = cloudpickle.dumps(function), np.array(list(images.files), dtype=object)
        read = (images.reader, images.shape)
        run = functools.partial(_run_and_join, files, table, function=packed, read=read, taken=taken, join=join)
        names = [getattr(one, "name", one) for one in (images, *shared)]
        token = tokenize(packed, names, pickle.dumps(table), merging, ending)
        return task_of(run, inputs, f"{name_of(function)}-{token}", inlines=True)
    whole_chunks = images.chunks if isinstance(images, FrameFiles) else getattr(images, "chunks", [()])[0]
    counts = (1,) * len(whole_chunks)
    records = chunk_records(function, images, table, shared, known=known, counts=counts)
    if not isinstance(records, da.Array):
        return join([records])
    token = tokenize(records.name, merging, ending)
    layers, needed = dict[str, Any](records.dask.layers), dict(records.dask.dependencies)
    last, level, graph = records.name, [(records.name, number) for number in range(len(counts))], dict[Any, Any]()
    while len(level) > _FAN_IN:
        # groups of one would be tasks that do nothing
        groups = [level[some[0] : some[-1] + 1] for some in np.array_split(range(len(level)), _groups(len(level)))]
        level = [(f"merge-{token}", len(graph) + number) for number in range(len(groups))]
        graph |= {key: (_merge, group, merging) for key, group in zip(level, groups, strict=True)}
    if graph:
        needed[f"merge-{token}"], last = {last}, f"merge-{token}"
        layers[last] = MaterializedLayer(graph)
    name = f"gathered-{token}"
    layer = Joined({(name, 0): (join, level)}, reads=False)
    return record_array(HighLevelGraph(layers | {name: layer}, needed | {name: {last}}), name)


def _groups(n_records: int) -> int:
    """Number of groups in which ``n_records`` records are joined."""
    return math.ceil(n_records / _FAN_IN)


def _run_and_join(
    files: np.ndarray, table: np.ndarray, *given: np.ndarray, join: Callable[..., np.ndarray], **options: Any
) -> np.ndarray:
    return join([_run_chunk(files, table, *given, n_known=0, **options)])


def n_joining(n_chunks: int) -> int:
    """Number of tasks with which :func:`gathered` joins the records of ``n_chunks`` chunks."""
    return 1 if n_chunks <= _FAN_IN else _groups(n_chunks) + n_joining(_groups(n_chunks))


def _merge(chunks: list[np.ndarray], merge: bytes) -> np.ndarray:
    merged = np.empty(1, dtype=object)
    merged[0] = tasks.unpacked(merge)([record for chunk in chunks for record in chunk if record is not None])
    return merged


def _join(chunks: list[np.ndarray], merge: bytes, finish: bytes) -> np.ndarray:
    finished = np.empty(1, dtype=object)
    finished[0] = tasks.unpacked(finish)(_merge(chunks, merge)[0])
    return finished
