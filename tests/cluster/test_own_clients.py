"""Clients of one's own (several threads, this process, adaptive, asynchronous): the bits of no cluster."""

from __future__ import annotations

import asyncio
import logging

import distributed
import pytest

from opticam_dask import Reducer, connect, simulate_observations
from opticam_dask.store import integrity
from opticam_dask.store.store import Store


@pytest.fixture(scope="module")
def without_cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("threads")
    simulate_observations(
        directory / "data", n_frames=24, shape=(128, 128), n_sources=8, filters=("g",), flux_range=(1e4, 2e5), seed=3
    )
    _reduce(directory, "alone", "none")
    return directory


def _reduce(directory, out, client, **options):
    reducer = Reducer(
        directory / out, directory / "data", client=client, frames_per_block=2, figures=False, verbose=False,
        **options,
    )  # fmt: skip
    reducer.create_catalogs()
    reducer.photometry()


def differences(directory, out):
    return integrity.compare(Store.open(directory / out).path, Store.open(directory / "alone").path)


@pytest.mark.parametrize("processes", [False, True], ids=["in this process", "in processes"])
def test_threads__give_the_same_bits_and_are_told_of(without_cluster, processes, caplog):
    out = "processes" if processes else "threads"
    with (
        distributed.Client(
            processes=processes, n_workers=2, threads_per_worker=4, dashboard_address=":0", set_as_default=False
        ) as client,
        caplog.at_level(logging.WARNING),
    ):
        _reduce(without_cluster, out, client)
    assert differences(without_cluster, out) == []
    assert "4 threads each, which reduce one block at a time" in caplog.text


def test_threads__the_process_of_the_user_is_never_ended(without_cluster):
    """The time limit of a frame ends worker processes; this one is the user's."""
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0", set_as_default=False
    ) as client:
        _reduce(without_cluster, "limited", client, frame_timeout=0.001)
    assert differences(without_cluster, "limited") == []


def test_adaptive__workers_are_kept_between_the_passes(without_cluster):
    with (
        distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        adaptive = cluster.adapt(minimum=0, maximum=1, interval="50ms")
        usual = adaptive.wait_count
        with connect(client) as place:
            _reduce(without_cluster, "adaptive", place)
            steps = [step["status"] for _, step in adaptive.log]
        assert steps == ["up"], "one worker was asked for, once"
        assert adaptive.wait_count == usual
    assert differences(without_cluster, "adaptive") == []


def test_asynchronous_client__is_refused_with_what_to_give(without_cluster):
    async def reduce():
        async with distributed.Client(
            asynchronous=True, processes=False, n_workers=1, dashboard_address=":0", set_as_default=False
        ) as client:
            with pytest.raises(ValueError, match=r"found one with asynchronous=True: make it with Client\("):
                _reduce(without_cluster, "asynchronous", client)

    asyncio.run(reduce())


def test_running_loop__a_reduction_inside_a_coroutine(without_cluster):
    async def reduce():
        _reduce(without_cluster, "loop", None, number_of_processors=1)

    asyncio.run(reduce())
    assert differences(without_cluster, "loop") == []
