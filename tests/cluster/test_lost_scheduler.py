"""Whatever is asked of a scheduler that is gone ends in one line that says so, not in an error of its connection."""

from __future__ import annotations

import pytest
from distributed.comm.core import CommClosedError

from opticam_dask.cluster.executors import ClusterError, OnCluster, Work


class _Client:
    """A client whose scheduler has just died: its connection does not know yet."""

    status = "running"

    def ncores(self):
        raise CommClosedError("in <TCP (closed) ConnectionPool.ncores>: Stream is closed")

    nthreads = ncores


def test_scheduler_that_is_gone__is_told_by_the_first_question():
    work = Work(lambda block: block, [0, 1], "survey")
    with pytest.raises(ClusterError, match=r"scheduler does not answer any more .*run the same command again"):
        list(OnCluster(_Client()).run([work]))


def test_scheduler_that_is_gone__when_a_block_is_tried_again():
    for ask in ("_window_size", "_look_at_workers", "_tell_of_threads"):
        with pytest.raises(ClusterError, match="scheduler does not answer"):
            getattr(OnCluster(_Client()), ask)()
    with pytest.raises(ClusterError, match="scheduler does not answer"):
        OnCluster(_Client())._waiting_in_vain({})
