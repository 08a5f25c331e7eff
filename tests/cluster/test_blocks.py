"""Graphs: one task a block, nothing computed while they are built, every frame read once."""

from __future__ import annotations

import sys
import threading

import dask
import numpy as np
import pytest

from opticam_dask.cluster import blocks, run_blocks, tasks
from opticam_dask.frames.scanning import FakeReader


class CountingReader:
    def __init__(self, shape):
        self.inner, self.reads, self.lock = FakeReader(shape), [], threading.Lock()

    def read(self, path):
        with self.lock:
            self.reads.append(path)
        return self.inner.read(path)


def _refuse(dsk, keys, **kwargs):
    raise AssertionError("a graph was computed while it was built")


def test_window_of_blocks__one_task_a_block_and_results_in_order():
    window = run_blocks.window_of_blocks(lambda block: block * block, [3, 5, 9])
    assert len(dask.optimize(window)[0].__dask_graph__()) == 3
    assert window.compute(scheduler="synchronous").tolist() == [9, 25, 81]


def test_window_of_blocks__libraries_use_one_thread():
    from threadpoolctl import threadpool_info

    window = run_blocks.window_of_blocks(lambda block: [pool["num_threads"] for pool in threadpool_info()], [0])
    assert set(window.compute(scheduler="synchronous")[0]) == {1}


def test_window_of_blocks__libraries_with_threads_are_looked_for_once(monkeypatch):
    looked = []

    class Counted(tasks.ThreadpoolController):
        def __init__(self):
            looked.append(len(sys.modules))
            super().__init__()

    tasks.thread_pools.cache_clear()
    monkeypatch.setattr(tasks, "ThreadpoolController", Counted)
    run_blocks.window_of_blocks(abs, range(5)).compute(scheduler="synchronous")
    first = len(looked)
    run_blocks.window_of_blocks(abs, range(20)).compute(scheduler="synchronous")
    tasks.thread_pools.cache_clear()
    assert first == len(looked)
    assert first <= 2  # the first block may import what the second then has


def test_one_thread__lasts_until_the_last_of_several_tasks_has_ended():
    """The first to end would let the others round as chance has it."""
    pools = tasks.thread_pools(len(sys.modules))

    def threads(of_process=True):
        of_thread = [pool for pool in pools.info() if "openmp" in (pool["user_api"], pool.get("threading_layer"))]
        return [pool["num_threads"] for pool in pools.info() if (pool in of_thread) != of_process]

    with pools.limit(limits=2):
        before, before_here = threads(), threads(of_process=False)
        assert max(before) == 2
        first, second = threading.Event(), threading.Event()

        def work():
            with tasks.one_thread:
                first.set()
                second.wait(60)

        other = threading.Thread(target=work)
        other.start()
        assert first.wait(60)
        with tasks.one_thread:
            assert set(threads() + threads(of_process=False)) == {1}
        assert set(threads()) == {1}
        assert threads(of_process=False) == before_here
        second.set()
        other.join(60)
        assert threads() == before


def test_window_of_blocks__libraries_that_come_later_use_one_thread_as_well(monkeypatch):
    window = run_blocks.window_of_blocks(abs, [1])
    window.compute(scheduler="synchronous")
    before = tasks.thread_pools(len(sys.modules))
    monkeypatch.setitem(sys.modules, "a_module_that_was_imported_since", object())
    assert tasks.thread_pools(len(sys.modules)) is not before


def test_window_of_blocks__two_windows_never_share_a_task():
    first, second = (run_blocks.window_of_blocks(abs, [1, 2]) for _ in range(2))
    assert not set(first.__dask_graph__()) & set(second.__dask_graph__())


def test_lazy_frames__building_and_slicing_reads_nothing():
    reader = CountingReader((4, 5))
    with dask.config.set(scheduler=_refuse):
        stack = blocks.lazy_frames([f"{i}" for i in range(100)], reader, (4, 5), np.dtype("uint16"))
        stack[10:20].mean(axis=0)
    assert reader.reads == []
    assert stack.chunks[0] == (1,) * 100


@pytest.mark.parametrize("frames_per_chunk", [1, 7, 100])
def test_lazy_frames__every_frame_is_read_once_and_is_the_same(frames_per_chunk):
    reader = CountingReader((4, 5))
    files = [f"night/frame{i}" for i in range(20)]
    stack = blocks.lazy_frames(files, reader, (4, 5), np.dtype("uint16"), frames_per_chunk)
    values = stack.compute(scheduler="threads")
    assert sorted(reader.reads) == sorted(files)
    np.testing.assert_array_equal(values, [FakeReader((4, 5)).read(file) for file in files])


def test_lazy_frames__slice_reads_only_its_frames():
    reader = CountingReader((4, 5))
    stack = blocks.lazy_frames([f"{i}" for i in range(1000)], reader, (4, 5), np.dtype("uint16"))
    stack[17].compute(scheduler="synchronous")
    assert reader.reads == ["17"]


def test_lazy_frames__frame_of_another_shape_is_named():
    stack = blocks.lazy_frames(["a.fits"], FakeReader((4, 6)), (4, 5), np.dtype("uint16"))
    with pytest.raises(ValueError, match=r"a\.fits has shape \(4, 6\)"):
        stack.compute(scheduler="synchronous")
