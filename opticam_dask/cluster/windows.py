"""Blocks of a durable run as graphs: a function is mapped over the numbers of the blocks of a window.

That is exactly one scheduler task a block, and nothing in the graph grows with the number of frames. Dask is imported
where a graph is built: a worker imports this module with the functions that it runs, and would import ``dask.array``
with xarray and pandas, which takes as long as a hundred frames.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

from opticam_dask.cluster import tasks
from opticam_dask.kernels import compiled

if TYPE_CHECKING:
    import dask.array as da

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
