"""Dask graphs of a durable run: a function mapped over the block numbers of one window.

Each window is one ``map_blocks`` without an array argument: exactly one scheduler task a block; nothing in the graph
grows with the number of frames. Dask is imported where a graph is built, as commands that read a store need none of it.
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


def window_of_blocks(
    function: Callable[[int], Any], blocks: Sequence[int], name: str = "block", *, frame_timeout: float = 0.0
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

    return da.map_blocks(
        tasks.run_block,
        # as bytes, unpacked inside the task: a function that a worker cannot import is then an error of the
        # task with a message, not a broken connection
        function=cloudpickle.dumps(function),
        blocks=tuple(int(block) for block in blocks),
        # a label of its own for every window: two runs on one scheduler must never share a task by name
        window=uuid.uuid4().hex,
        frame_timeout=frame_timeout,
        built_by=(tasks.PROCESS, os.getpid()),
        kernels=compiled.form(),
        chunks=((1,) * len(blocks),),
        dtype=object,
        meta=np.empty((0,), dtype=object),
        token=name,
    )
