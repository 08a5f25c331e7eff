"""Where blocks run: real worker processes, an existing scheduler, no cluster; scripts without a main guard."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import distributed
import pytest

from opticam_dask import blocks, cluster


def _facts(block):
    return block, os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("NUMEXPR_NUM_THREADS")


def _work(function, n_blocks):
    return [cluster.Work(functools.partial(blocks.window_of_blocks, function), range(n_blocks))]


@pytest.fixture(scope="module")
def client():
    with cluster.local_client(2, dashboard=False) as opened:
        yield opened


def test_on_cluster__every_block_once_on_single_threaded_processes(client):
    found = list(cluster.OnCluster(client).run(_work(_facts, 50)))
    assert sorted(block for block, *_ in found) == list(range(50))
    assert len({pid for _, pid, *_ in found} | {os.getpid()}) == 3
    assert {threads for _, _, *both in found for threads in both} == {"1"}
    assert set(client.nthreads().values()) == {1}


def test_on_cluster__exactly_one_task_a_block_on_the_scheduler(client):
    counter = _CountTasks()
    client.register_plugin(counter, name="count-tasks")
    list(cluster.OnCluster(client).run(_work(_facts, 23)))
    seen = client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.plugins["count-tasks"].seen))
    client.unregister_scheduler_plugin("count-tasks")
    assert len(seen) == 23


class _CountTasks(distributed.SchedulerPlugin):
    def __init__(self):
        self.seen = set()

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "processing":
            self.seen.add(key)


def test_on_cluster__window_is_bounded(client):
    builds = []

    def build(chosen, **options):
        builds.append(len(chosen))
        return blocks.window_of_blocks(_facts, chosen)

    run = cluster.OnCluster(client).run([cluster.Work(build, range(100))])
    next(run)
    assert sum(builds) <= 3 * cluster.BLOCKS_PER_WORKER * 2
    run.close()


def test_on_cluster__error_of_a_block_reaches_the_caller(client):
    def fails(block):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(cluster.OnCluster(client).run(_work(fails, 3)))


def test_connect__scheduler_address_and_in_process_give_the_same(client):
    function = abs
    with cluster.connect(client.scheduler.address) as there, cluster.connect("none") as here:
        assert sorted(there.run(_work(function, 9))) == sorted(here.run(_work(function, 9))) == list(range(9))
    assert client.status == "running"


def test_connect__nobody_answers():
    with pytest.raises(cluster.ClusterError, match="no Dask scheduler answers"), cluster.connect("tcp://127.0.0.1:9"):
        pass


def test_local_client__listens_on_loopback_only():
    with cluster.local_client(1) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert "127.0.0.1" in client.dashboard_link
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert all(address.startswith("tcp://127.0.0.1:") for address in workers)


def test_local_client__script_without_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import functools
        from opticam_dask import blocks, cluster
        print("script starts")
        def square(block):
            return block * block
        with cluster.connect("local", n_workers=2, dashboard=False) as executor:
            work = [cluster.Work(functools.partial(blocks.window_of_blocks, square), [1, 2, 3])]
            print(sorted(executor.run(work)))
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n") == ["script starts", "[1, 4, 9]", ""]
