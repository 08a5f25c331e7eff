"""Processes of this machine without a scheduler: their work, their end, and the cluster that goes on for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import cloudpickle
import numpy as np
import psutil
import pytest
from harms import eat_memory, hang
from small_nights import FIELD, INSTRUMENT, add_star, read_out, write_frame

from opticam_dask import Instrument, Reducer
from opticam_dask.cluster import connections, executors, pool
from opticam_dask.cluster.cluster_settings import SINGLE_THREAD_ENVIRONMENT
from opticam_dask.cluster.executors import InProcess, Work
from opticam_dask.cluster.interruption import Interrupted, interruptible
from opticam_dask.store import integrity
from opticam_dask.store.store import Store


@pytest.fixture(scope="module")
def processes():
    with pool.Pool(2, frame_timeout=0.5, memory_limit=400_000_000) as opened:
        yield opened


def _facts(block):
    return os.getpid(), os.getppid(), {name: os.environ.get(name) for name in SINGLE_THREAD_ENVIRONMENT}


def _our_children():
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}


def test_pool__every_block_once_on_as_many_processes_as_were_asked_for(processes):
    before = _our_children()
    processes.start()
    work = [Work(_facts, range(20)), Work(_facts, [3, 1])]
    found = list(processes.run(work))
    assert sorted((group, block) for group, block, _ in found) == [*((0, block) for block in range(20)), (1, 1), (1, 3)]
    pids = {pid for _, _, (pid, *_) in found}
    assert len(pids) == 2
    assert _our_children() - before == pids  # no scheduler, no nanny
    assert all(environment == SINGLE_THREAD_ENVIRONMENT for *_, (_, _, environment) in found)
    if sys.platform == "linux":  # imported once: one is the fork of the other
        parents = {pid: parent for _, _, (pid, parent, _) in found}
        [first] = [pid for pid, parent in parents.items() if parent == os.getpid()]
        assert set(parents.values()) == {os.getpid(), first}


class _NotPicklable(Exception):
    def __init__(self, one, two):
        super().__init__("as one text")


def _fails(block):
    raise {0: KeyError("a name"), 1: _NotPicklable("one", "two")}[block]


@pytest.mark.parametrize(("block", "error", "text"), [(0, KeyError, "a name"), (1, RuntimeError, "as one text")])
def test_pool__the_error_of_a_block_reaches_the_caller_with_its_traceback(processes, block, error, text):
    with pytest.raises(error, match=text) as caught:
        list(processes.run([Work(_fails, [block])]))
    assert "in _fails" in str(caught.value.__cause__)


def test_pool__a_block_that_cannot_read_is_tried_three_times(processes, tmp_path):
    def fails(block):
        (tmp_path / f"{len(list(tmp_path.iterdir()))}").touch()
        if block or len(list(tmp_path.iterdir())) <= executors.RETRIES:
            raise OSError(5, "Input/output error")
        return block

    assert list(processes.run([Work(fails, [0])])) == [(0, 0, 0)]
    with pytest.raises(OSError, match="Input/output"):
        list(processes.run([Work(fails, [1])]))
    assert len(list(tmp_path.iterdir())) == 2 * (1 + executors.RETRIES)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda: os._exit(3), "ended while it worked on block 2"),
        (hang, "ended while it worked on block 2"),
        (eat_memory, "block 2 needed more memory than its share"),
    ],
    ids=["dies", "hangs", "eats memory"],
)
def test_pool__a_process_that_is_lost_ends_them_all(processes, harm, words):
    def harms(block):
        if block == 2:
            harm()
        return block

    work = [Work(harms, range(6), has_time_limit=harm is hang)]
    with pytest.raises(pool.ProcessDied, match=words):
        list(processes.run(work))
    assert not processes._programs
    assert not [one for one in psutil.Process().children() if "opticam_dask.cluster.pool" in " ".join(one.cmdline())]


class _Cluster(InProcess):
    """What a cluster is asked to do, without one."""

    def __init__(self):
        self.asked, self.n_opened, self.client = [], 0, "the client"

    def await_workers(self, progress):
        self.n_opened += 1

    def run(self, work):
        self.asked += [(one.name, list(one.blocks)) for one in work]
        yield from super().run(work)


@pytest.fixture
def local():
    told, cluster = [], _Cluster()
    with (
        pool.Pool(2, frame_timeout=0.0, memory_limit=10**9) as opened,
        pool.Local(opened, lambda: contextlib.nullcontext(cluster), told.append) as place,
    ):
        yield place, cluster, told


def test_local__a_cluster_does_what_is_left_when_a_process_dies_and_all_that_comes_later(local):
    place, cluster, told = local
    place.n_pixels, here = 1000, os.getpid()

    def dies(block):
        return os._exit(1) if block == 1 and os.getpid() != here else block

    assert sorted(place.run([Work(abs, range(4), "first"), Work(dies, [0, 1], "second")])) == [0, 0, 1, 1, 2, 3]
    name, blocks = cluster.asked[-1]
    assert name == "second"
    assert 1 in blocks
    assert list(place.run([Work(abs, [7], "later")])) == [7]
    assert cluster.asked[-1] == ("later", [7])
    assert cluster.n_opened == 1
    assert told[0] == "2 process(es) of this machine reduce it, without a scheduler."
    assert "a process ended while it worked on block 1: a cluster of this machine goes on." in told[1].lower()


@pytest.mark.parametrize(
    ("n_pixels", "is_small"),
    [(None, False), (0, True), (273 * 512**2, True), (512 * 2048**2, True), (513 * 2048**2, False)],
)
def test_local__the_choice_is_by_the_pixels_of_all_frames(local, monkeypatch, n_pixels, is_small):
    place, cluster, told = local
    monkeypatch.setattr(pool.Pool, "run", lambda self, work: iter([(0, 1, 1)]))
    place.n_pixels = n_pixels
    assert list(place.run([Work(abs, [1])])) == [1]
    assert pool.is_small(n_pixels) is is_small
    assert (cluster.n_opened, len(told)) == ((0, 1) if is_small else (1, 0))


def test_local__who_asks_for_a_client_gets_a_cluster(local):
    place, cluster, _ = local
    place.n_pixels = 1
    assert place.client == "the client"
    assert list(place.run([Work(abs, [1])])) == [1]
    assert cluster.asked == [("block", [1])]


def test_pool__ctrl_c_ends_it_at_once():
    with pool.Pool(1, frame_timeout=0.0, memory_limit=10**9) as opened:
        run = opened.run([Work(lambda block: block or time.sleep(600), [1, 0])])
        assert next(run)[2] == 1
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with interruptible(), pytest.raises(Interrupted):
            next(run)
        assert not opened._programs


_SCRIPT = """
from opticam_dask.cluster import executors, pool
print("script starts", flush=True)
def square(block):
    return block * block
with pool.Pool(2, frame_timeout=0.0, memory_limit=10**9) as opened:
    print(sorted(found for *_, found in opened.run([executors.Work(square, [1, 2, 3])])))
"""


@pytest.mark.parametrize("how", ["a file without a main guard", "standard input"])
def test_pool__works_for_a_program_in(how, tmp_path):
    # started in a checkout whose kernels are not compiled, say: processes import what the script imports, not this
    (tmp_path / "opticam_dask").mkdir()
    (tmp_path / "opticam_dask" / "__init__.py").write_text("raise ImportError('not this one')")
    script = tmp_path / "scripts" / "script.py"
    script.parent.mkdir()
    script.write_text(textwrap.dedent(_SCRIPT))
    given = {"input": _SCRIPT} if how == "standard input" else {}
    command = [sys.executable, "-P", "-"] if given else [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path, **given)
    assert done.stdout.split("\n") == ["script starts", "[1, 4, 9]", ""]


# ---------------------------------------------------------------- a night


def _night(directory):
    rng = np.random.default_rng(5)
    for frame in range(8):
        image = np.full((120, 120), 50.0)
        for x, y, flux in FIELD:
            if x < 115 and y < 115:
                add_star(image, x, y, flux)
        write_frame(directory / f"f{frame}.fits", read_out(image, rng), 6.0 * frame)
    return directory


def _reduce(frames, out, place):
    reducer = Reducer(
        out,
        frames,
        instrument=Instrument.from_json(INSTRUMENT),
        client=place,
        frames_per_block=3,
        show_plots=False,
        verbose=False,
    )
    reducer.reduce()


def _modules(place):
    """Modules that the processes of a place have imported, this test file not among them."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return set().union(*place.run([Work(lambda _: sorted(sys.modules), range(4))]))
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_small_night__has_the_same_bits_as_in_one_process_and_starts_no_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "local_client", lambda *_, **__: pytest.fail("a cluster was started"))
    frames = _night(tmp_path / "frames")
    with connections.connect("none") as here, connections.connect("local", n_workers=2) as there:
        _reduce(frames, tmp_path / "one", here)
        there.n_pixels = 0
        before = _modules(there)
        _reduce(frames, tmp_path / "two", there)
        after = _modules(there)
    one, two = (Store.open(tmp_path / name).path for name in ("one", "two"))
    assert integrity.compare(one, two) == []
    # all were imported once; old releases of xarray import every engine as soon as one is asked for
    imported = {name for name in after - before if name.startswith("opticam_dask")}
    assert imported <= {"opticam_dask.lightcurves.xarray_backend"}
    assert not {"distributed", "rich", "bokeh"} & after


_FORKS = """
import os, psutil, sys
from opticam_dask.cluster import pool
from opticam_dask.cluster.executors import Work
def facts(block):
    return os.getpid(), os.getppid(), os.getsid(0), os.read(0, 1), sorted(sys.modules)
with pool.Pool(2, frame_timeout=0.0, memory_limit=2_000_000_000) as processes:
    processes.start(may_fork=True)
    found = [answer for _, _, answer in processes.run([Work(facts, range(8))])]
    running = [psutil.Process(pid) for pid in {pid for pid, *_ in found}]
assert os.getsid(0) not in {session for _, _, session, *_ in found}  # Ctrl-C is for the command alone
assert {nothing for *_, nothing, _ in found} == {b""}
assert all({"matplotlib", "photutils.segmentation"} <= set(modules) for *_, modules in found)
assert not {"matplotlib", "photutils.segmentation"} & set(sys.modules)  # the command itself needs neither
assert {"pandas", "astropy.coordinates"} <= set(sys.modules)  # both it and the processes do: imported once
pids, parents = {pid for pid, *_ in found}, {parent for _, parent, *_ in found}
assert len(pids) == 2 and os.getpid() in parents, (pids, parents)
_, left = psutil.wait_procs(running, timeout=10)  # killed, they take a moment to end
assert {process.status() for process in left} <= {"zombie"}  # which somebody else has to take leave of
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux alone")
def test_pool__of_a_command_is_its_fork_and_ends_with_it():
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, input="x", check=False)
    assert done.returncode == 0, done.stderr


def test_pool__a_process_with_threads_never_forks_itself(monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    try:
        with pool.Pool(1, frame_timeout=0.0, memory_limit=2_000_000_000) as one:
            one.start(may_fork=True)
            assert list(one.run([Work(abs, [-3])])) == [(0, -3, 3)]
    finally:
        waits.set()
        thread.join()


def test_close__ends_a_process_that_leads_no_group_yet():
    # an error right after the start, as of a directory that is missing: the child has not come to setsid
    opened = pool.Pool(1, frame_timeout=0, memory_limit=400_000_000)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2.0)"])
    opened._programs.append(child)
    opened.close()
    assert child.returncode == -signal.SIGKILL
