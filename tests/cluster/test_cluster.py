"""Where blocks run: real worker processes, an existing scheduler, no cluster; scripts without a main guard."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
import uuid

import dask
import distributed
import psutil
import pytest
from counted_tasks import tasks_of

from opticam_dask import AperturePhotometer, Reducer, simulate_observations
from opticam_dask.cluster import connections, executors, run_blocks


def _facts(block):
    return block, os.getpid(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("NUMEXPR_NUM_THREADS")


def _work(function, n_blocks):
    return [executors.Work(function, range(n_blocks))]


@pytest.fixture(scope="module")
def client():
    with connections.local_client(2, dashboard=False) as opened:
        yield opened


def test_on_cluster__every_block_once_on_single_threaded_processes(client):
    found = list(executors.OnCluster(client).run(_work(_facts, 50)))
    assert sorted(block for block, *_ in found) == list(range(50))
    assert len({pid for _, pid, *_ in found} | {os.getpid()}) == 3
    assert {threads for _, _, *both in found for threads in both} == {"1"}
    assert set(client.nthreads().values()) == {1}


def test_on_cluster__exactly_one_task_a_block_on_the_scheduler(client):
    with tasks_of(client) as seen:
        list(executors.OnCluster(client).run(_work(_facts, 23)))
    assert len(seen) == 23


def test_reduction__makes_no_more_tasks_than_it_has_blocks_nights_and_files(client, tmp_path):
    """A client is what Dask computes with from then on: nothing must be read chunk by chunk through it."""
    simulate_observations(tmp_path / "frames", n_frames=12, shape=(96, 96), n_sources=5, filters=("g",), lags=(0.0,))
    reducer = Reducer(
        tmp_path / "out", tmp_path / "frames", client=client, frames_per_block=4, show_plots=False, verbose=False
    )
    with tasks_of(client) as seen:
        reducer.create_catalogs()
        reducer.photometry(AperturePhotometer())
    counts = collections.Counter(distributed.utils.key_split(key) for key in seen)
    per_block = {"probe": 9, "match-probes": 1, "survey": 3, "merge-stacks": 1, "profile": 6, "measure": 3}
    # a night, some thousand frames, and the files of four sources of five
    per_night = {"quality": 1, "light-curves": 1, "light-curve-files": 2}
    # a camera; both rounds of its star profile; five figures, and the files of the catalogue with one of them
    per_camera = {"stack": 1, "catalog": 1, "fit-profile": 2, "files": 5}
    assert counts == {**per_block, **per_night, **per_camera}


def test_local_client__workers_do_not_fill_their_memory_with_profiles(client):
    """Dask keeps one of each second for an hour."""
    cycles = client.run(lambda dask_worker: dask_worker.periodic_callbacks["profile-cycle"].callback_time)
    assert set(cycles.values()) == {60_000}


def test_local_client__workers_do_not_look_at_the_clock_all_the_time(client):
    ticks = client.run(lambda dask_worker: dask_worker.periodic_callbacks["tick"].callback_time)
    assert set(ticks.values()) == {500}


def test_on_cluster__summaries_that_are_there_are_fetched_together(client, monkeypatch):
    calls = []
    gather = distributed.Client.gather
    monkeypatch.setattr(
        distributed.Client, "gather", lambda self, f, **kw: calls.append(len(f)) or gather(self, f, **kw)
    )
    monkeypatch.setattr(distributed.Future, "result", lambda *_, **__: pytest.fail("fetched one by one"))
    futures = distributed.futures_of(client.persist(run_blocks.window_of_blocks(abs, [3, -1, 2])))
    distributed.wait(futures)
    assert executors.OnCluster(client)._outcomes(futures) == [(3, None), (1, None), (2, None)]
    assert calls == [3]


def test_on_cluster__with_many_blocks_under_way_few_fetches_bring_all_summaries(client, monkeypatch):
    """Else each of hundreds of workers costs the client a request a block."""
    calls = []
    gather = distributed.Client.gather
    monkeypatch.setattr(
        distributed.Client, "gather", lambda self, f, **kw: calls.append(len(f)) or gather(self, f, **kw)
    )
    monkeypatch.setattr(executors, "BLOCKS_PER_WORKER", 100)
    monkeypatch.setattr(executors, "_COLLECTING", 0.5)
    found = list(executors.OnCluster(client).run(_work(abs, 600)))
    assert sorted(found) == list(range(600))
    assert sum(calls) > 500
    assert len(calls) < 30


def test_on_cluster__an_error_among_summaries_belongs_to_its_block(client):
    def fails(block):
        if block == 1:
            raise KeyError("one")
        return block

    futures = distributed.futures_of(client.persist(run_blocks.window_of_blocks(fails, [0, 1, 2])))
    distributed.wait(futures)
    found = executors.OnCluster(client)._outcomes(futures)
    assert [summary for summary, _ in found] == [0, None, 2]
    assert [type(error) for _, error in found] == [type(None), KeyError, type(None)]


def test_on_cluster__summaries_are_fetched_one_by_one_where_they_cannot_be_together(client, monkeypatch):
    def lost(*_, **__):
        raise OSError("a worker is gone")

    futures = distributed.futures_of(client.persist(run_blocks.window_of_blocks(abs, [4, 5])))
    distributed.wait(futures)
    monkeypatch.setattr(distributed.Client, "gather", lost)
    assert executors.OnCluster(client)._outcomes(futures) == [(4, None), (5, None)]


def test_on_cluster__window_is_bounded(client, monkeypatch):
    builds, window_of_blocks = [], run_blocks.window_of_blocks

    def build(function, chosen, name, **options):
        builds.append(len(chosen))
        return window_of_blocks(function, chosen, name, **options)

    monkeypatch.setattr(run_blocks, "window_of_blocks", build)
    run = executors.OnCluster(client).run(_work(_facts, 100))
    next(run)
    assert sum(builds) <= 3 * executors.BLOCKS_PER_WORKER * 2
    run.close()


def test_on_cluster__error_of_a_block_reaches_the_caller(client):
    def fails(block):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(executors.OnCluster(client).run(_work(fails, 3)))


def test_connect__scheduler_address_and_in_process_give_the_same(client):
    function = abs
    with connections.connect(client.scheduler.address) as there, connections.connect("none") as here:
        assert sorted(there.run(_work(function, 9))) == sorted(here.run(_work(function, 9))) == list(range(9))
    assert client.status == "running"


def test_connect__can_be_used_again_after_it_failed_and_after_it_was_closed():
    attempts = []

    @contextlib.contextmanager
    def place():
        attempts.append(len(attempts))
        if attempts == [0]:
            raise executors.ClusterError("refused")
        yield executors.InProcess()

    connection = connections.Connection(place, print)
    with pytest.raises(executors.ClusterError, match="refused"):
        connection.open()
    for _ in range(2):
        with connection:
            assert list(connection.run(_work(abs, 3))) == [0, 1, 2]
    assert attempts == [0, 1, 2]


def test_connect__nobody_answers():
    with (
        pytest.raises(executors.ClusterError, match="no Dask scheduler answers"),
        connections.connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_local_client__listens_on_loopback_only():
    with connections.local_client(1) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert "127.0.0.1" in client.dashboard_link
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert all(address.startswith("tcp://127.0.0.1:") for address in workers)


def test_local_client__script_without_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from opticam_dask.cluster import blocks, connections, executors
        print("script starts")
        def square(block):
            return block * block
        with connections.connect("local", n_workers=2, dashboard=False) as executor:
            work = [executors.Work(square, [1, 2, 3])]
            print(sorted(executor.run(work)))
        """)
    )
    # started in a checkout whose kernels are not compiled, say: workers import what the script imports, not this
    checkout = tmp_path / "checkout"
    (checkout / "opticam_dask").mkdir(parents=True)
    (checkout / "opticam_dask" / "__init__.py").write_text("raise ImportError('not this one')")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=True, cwd=checkout
    )
    assert done.stdout.split("\n") == ["script starts", "[1, 4, 9]", ""]


def test_on_cluster__a_block_that_cannot_read_is_tried_on_other_workers(client, tmp_path):
    def fails_where_it_ran_first(block):
        # one worker has lost its disk: whichever takes a block first
        with contextlib.suppress(FileExistsError):
            (tmp_path / "broken").symlink_to(str(os.getpid()))
        if os.readlink(tmp_path / "broken") == str(os.getpid()):
            raise OSError(5, "Input/output error")
        return block

    assert sorted(executors.OnCluster(client).run(_work(fails_where_it_ran_first, 12))) == list(range(12))


def test_on_cluster__a_block_that_can_read_nowhere_is_tried_three_times(client, tmp_path):
    def fails(block):
        (tmp_path / uuid.uuid4().hex).touch()
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(executors.OnCluster(client).run(_work(fails, 1)))
    assert len(list(tmp_path.iterdir())) == 1 + executors.RETRIES


def test_on_cluster__an_error_of_the_program_is_not_tried_again(client, tmp_path):
    def fails(block):
        (tmp_path / uuid.uuid4().hex).touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(executors.OnCluster(client).run(_work(fails, 1)))
    assert len(list(tmp_path.iterdir())) == 1


def _sleep(block):
    time.sleep(60)


def _by_value(function):
    """A function that a worker elsewhere, which cannot import this module, gets with its code."""
    return types.FunctionType(function.__code__, {"time": time, "__name__": "__main__"}, function.__name__)


def test_on_cluster__all_workers_gone(monkeypatch):
    monkeypatch.setattr(executors, "_LOOK", 0.2)
    monkeypatch.setattr(executors, "_WITHOUT_WORKERS", 1.0)
    with connections.local_client(1, dashboard=False) as client:
        run = threading.Timer(1.0, _kill_children)
        run.start()
        with pytest.raises(executors.ClusterError, match=r"all workers are gone.*run the same command again"):
            list(executors.OnCluster(client, is_local=True).run(_work(_sleep, 2)))
        run.join()


def _kill_children():
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_on_cluster__scheduler_gone(monkeypatch, tmp_path):
    monkeypatch.setattr(executors, "_LOOK", 0.2)
    file = tmp_path / "scheduler.json"
    command = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", ":0"]
    command += ["--scheduler-file", str(file)]
    scheduler = subprocess.Popen([sys.executable, "-m", "dask", *command], stderr=subprocess.DEVNULL)
    while not file.exists():
        time.sleep(0.1)
    worker = ["worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(file), "--death-timeout", "5"]
    with (
        subprocess.Popen([sys.executable, "-m", "dask", *worker], stderr=subprocess.DEVNULL) as process,
        connections.connect(str(file)) as executor,
    ):
        executor.client.wait_for_workers(1, timeout=60)
        timer = threading.Timer(1.0, scheduler.kill)
        timer.start()
        with pytest.raises(executors.ClusterError, match=r"scheduler.*run the same command again"):
            list(executor.run(_work(_by_value(_sleep), 2)))
        timer.join()
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
    scheduler.wait()


def _certificates(directory):
    """A certificate authority of one, and the Dask configuration that uses it."""
    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        pytest.skip("needs the program openssl")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=opticam"]
    subprocess.run(["openssl", *request, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = {"ca-file": str(certificate)}
    for role in ("client", "scheduler", "worker"):
        tls |= {f"{role}.cert": str(certificate), f"{role}.key": str(key)}
    settings = {f"distributed.comm.tls.{name}": value for name, value in tls.items()}
    return settings | {"distributed.comm.require-encryption": True}


def test_local_client__is_encrypted_when_dask_is_configured_so(tmp_path):
    with dask.config.set(_certificates(tmp_path)), connections.local_client(1, dashboard=False) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        assert all(address.startswith("tls://127.0.0.1:") for address in client.ncores())
        assert sorted(executors.OnCluster(client).run(_work(abs, 2))) == [0, 1]
        # somebody without the certificate gets no answer
        plain = socket.create_connection(client.scheduler.address.removeprefix("tls://").split(":"), timeout=10)
        with plain:
            plain.sendall(b"x" * 1000)
            with contextlib.suppress(ConnectionResetError):
                assert len(plain.recv(1000)) <= 7  # a TLS alert, or nothing


def test_on_cluster__a_block_that_kills_every_worker_stops_the_run(monkeypatch):
    monkeypatch.setattr(executors, "_MOST_KILLED", 1)

    def die(block):
        os.kill(os.getpid(), 9)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        connections.local_client(1, dashboard=False) as client,
        pytest.raises(executors.ClusterError, match=r"block 0 died again and again.*fewer --workers"),
    ):
        list(executors.OnCluster(client, is_local=True).run(_work(die, 1)))


def test_on_cluster__a_block_does_not_wait_for_a_worker_that_is_gone(monkeypatch, tmp_path):
    """It is to run elsewhere after an error, and the worker that was chosen dies with it: others take it."""
    monkeypatch.setattr(executors, "_LOOK", 0.5)

    def fails_then_kills(block):
        if block == 0:
            tries = len(list(tmp_path.iterdir()))
            (tmp_path / str(tries)).touch()
            if tries == 0:
                raise OSError(5, "Input/output error")
            if tries == 1:
                os.kill(os.getpid(), 9)
        return block

    with connections.local_client(1, dashboard=False) as client:
        found = list(executors.OnCluster(client, is_local=True).run(_work(fails_then_kills, 1)))
    assert found == [0]
    assert len(list(tmp_path.iterdir())) == 3
