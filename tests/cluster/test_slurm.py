"""Real SLURM jobs: they are submitted, lost, replaced, refused; the store has the same bits as without a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import dask
import held_runs
import numpy as np
import pytest
from held_runs import until

from opticam_dask import cli
from opticam_dask.cluster import connections, executors
from opticam_dask.cluster.cluster_settings import ClusterError
from opticam_dask.flags import FrameFlag
from opticam_dask.store import integrity
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

# workers in jobs cannot import this file: what is defined here goes to them with its code
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.timeout(400)]

PROGRAM = [sys.executable, "-m", "opticam_dask.cli"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    held_runs.simulate(directory)
    return directory


@pytest.fixture(scope="module")
def without_cluster(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("without")
    assert cli.main(["reduce", str(data), "--out", str(out), *held_runs.OPTIONS, "--cluster", "none"]) == 0
    return Store.open(out).path


@contextlib.contextmanager
def _slurm(told, *, options=None, allowed_failures=3, **given):
    """Two workers on SLURM, looked after each second."""
    profile = {"cluster": "slurm", "memory": "1536MiB", "options": options or {}}
    settings = {
        "opticam_dask.clusters": {"test": profile},
        "opticam_dask.look-every": 1,
        "distributed.scheduler.allowed-failures": allowed_failures,
    }
    given = {"n_workers": 2} | given if "adapt" not in given else given
    with dask.config.set(settings), connections.connect("test", tell=told.append, **given) as place:
        yield place
    assert not _jobs()


def _jobs():
    """Numbers of the jobs that are queued or run."""
    command = ["squeue", "--noheader", "--name=opticam-dask", "--states=PENDING,RUNNING", "--format=%A"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def _work(function, n_blocks):
    return [executors.Work(function, range(n_blocks))]


def _run(*arguments, code=0):
    environment = {**os.environ, "DASK_OPTICAM_DASK__LOOK_EVERY": "1"}
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def _facts(block):
    names = ("OMP_NUM_THREADS", "ZARR_ASYNC__CONCURRENCY", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_")
    return block, os.environ["SLURM_JOB_ID"], os.getcwd(), tuple(os.environ[name] for name in names)


def test_connect__workers_of_one_thread_in_jobs_of_their_own(tmp_path):
    told = []
    with _slurm(told, log_directory=tmp_path) as place:
        until(lambda: len(place.client.ncores()) == 2)
        found = list(place.run(_work(_facts, 20)))
        assert set(place.client.nthreads().values()) == {1}
        [limit] = {w["memory_limit"] for w in place.client.scheduler_info(n_workers=-1)["workers"].values()}
        assert len({job for _, job, *_ in found}) <= len(_jobs()) == 2
        until(lambda: told[-1].startswith("2 of 2 workers there"))  # which is looked at now and then
    assert sorted(block for block, *_ in found) == list(range(20))
    assert {cwd for _, _, cwd, _ in found} == {os.getcwd()}
    assert {facts for *_, facts in found} == {("1", "1", "1", str(2**28))}
    assert limit == 768 * 2**20  # of twice as much: the rest is for the nanny, and for a rescue
    assert told[0] == "SLURM: 2 jobs of 1 worker submitted."
    assert told[1].startswith("Dashboard: http://")


def test_connect__several_workers_in_one_job(tmp_path):
    told = []
    with _slurm(told, n_workers=2, cores=2, log_directory=tmp_path) as place:
        until(lambda: len(place.client.ncores()) == 2)
        [job] = _jobs()
        # a job of several workers is replaced as a whole
        subprocess.run(["scancel", job], check=True)
        until(lambda: any("1 job ended" in line for line in told))
        assert sorted(block for block, *_ in place.run(_work(_facts, 8))) == list(range(8))
    assert told[0] == "SLURM: 1 job of 2 workers submitted."


def _wait_a_little(block):
    time.sleep(0.4)
    return block


def test_connect__as_many_workers_as_there_is_work(tmp_path):
    told, seen, most = [], [], 0
    with _slurm(told, adapt="0:2", log_directory=tmp_path) as place:
        assert not _jobs()
        for block in place.run(_work(_wait_a_little, 30)):
            seen.append(block)
            most = max(most, len(_jobs()))
    assert sorted(seen) == list(range(30))
    assert most == 2


def test_connect__workers_retire_before_their_walltime_and_are_replaced(tmp_path):
    told = []
    options = {"worker-extra-args": ["--lifetime", "6s", "--lifetime-stagger", "2s"]}
    gate = tmp_path / "gate"

    def wait_at_the_gate(block):
        end = time.monotonic() + 2
        while not gate.exists() and time.monotonic() < end:
            time.sleep(0.1)
        return block

    def interfere():
        until(lambda: any("COMPLETED" in line for line in told))
        gate.touch()

    with _slurm(told, options=options, allowed_failures=0, log_directory=tmp_path) as place, _beside(interfere):
        found = list(place.run(_work(wait_at_the_gate, 40)))
    assert sorted(found) == list(range(40))


def test_reduce__command_line_has_the_same_bits(data, without_cluster, tmp_path):
    text = _run(
        "reduce", data, "--out", tmp_path, *held_runs.OPTIONS, "--cluster", "slurm", "--workers", 2, "--memory", "1GiB"
    )
    assert "SLURM: 2 jobs of 1 worker submitted." in text
    assert integrity.compare(without_cluster, Store.open(tmp_path).path) == []
    assert not _jobs()
    assert sorted(file.suffix for file in (tmp_path / "jobs").iterdir()) == [".err", ".err", ".out", ".out"]


def test_reduce__a_job_cancelled_and_one_at_its_walltime(data, without_cluster, tmp_path):
    """Both are replaced, no frame is blamed though every death counts, and the run ends without a person."""
    told, hold = [], tmp_path / "hold"
    hold.touch()

    def interfere():
        until(lambda: any("2 of 2 workers there" in line for line in told))
        subprocess.run(["scancel", _jobs()[0]], check=True)
        until(lambda: any("CANCELLED" in line for line in told))
        # SLURM looks at walltimes each half minute or so
        until(lambda: any("TIMEOUT" in line for line in told), 240)
        hold.unlink()

    options = {"worker-extra-args": ["--lifetime", "1h"], "walltime": "00:01:00"}
    how = {"options": options, "allowed_failures": 0, "log_directory": tmp_path / "jobs"}
    with _slurm(told, **how) as place, _beside(interfere):
        outcome = held_runs.reduce(data, tmp_path, place, held_runs.Reader(str(tmp_path / "reads"), hold=str(hold)))
    assert list(outcome.problems) == []
    assert integrity.compare(without_cluster, Store.open(tmp_path).path) == []


@contextlib.contextmanager
def _beside(function):
    """Run a function in a thread; what it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        yield
        future.result()


def test_reduce__job_killed_by_slurm_for_its_memory(data, tmp_path):
    """The frame to blame is set aside by name, though SLURM ends the job as a whole."""
    told = []
    greedy = sorted(file.name for file in data.glob("*.fits"))[13]
    reader = held_runs.Reader(str(tmp_path / "reads"), greedy=greedy)
    # without the nanny nobody is faster than SLURM
    options = {"nanny": False}
    with _slurm(told, options=options, allowed_failures=0, log_directory=tmp_path / "jobs") as place:
        outcome = held_runs.reduce(data, tmp_path, place, reader)
    [(file, message)] = list(outcome.problems)
    assert os.path.basename(file) == greedy
    assert "more memory than a worker has" in message
    path = Store.open(tmp_path).path
    flags = Group(path, f"{Store(path).camera('1:g').parts[0].group}/frames").read("flags")
    assert np.flatnonzero(flags & np.uint32(FrameFlag.WORKER_LOST)).tolist() == [13]
    assert any("job ended" in line for line in told)


def reduce_on_slurm(data, out, hold):
    """A run of its own process."""
    with _slurm([], log_directory=Path(out) / "jobs") as place:
        held_runs.reduce(Path(data), Path(out), place, held_runs.Reader(str(Path(out) / "reads"), hold=hold))


def test_reduce__client_killed_and_submitted_again(data, without_cluster, tmp_path):
    hold, reads = tmp_path / "hold", tmp_path / "reads"
    hold.touch()
    places = [str(Path(__file__).parent), str(Path(held_runs.__file__).parent)]
    program = f"import sys; sys.path[:0] = {places!r}; import test_slurm; "
    call = f"test_slurm.reduce_on_slurm({str(data)!r}, {str(tmp_path)!r}, {str(hold)!r})"
    with subprocess.Popen([sys.executable, "-c", program + call]) as process:
        until(lambda: held_runs.is_held(held_runs.Reader(str(reads))))
        process.kill()
    hold.unlink()
    until(lambda: not _jobs())  # workers do not outlive their scheduler
    reduce_on_slurm(data, tmp_path, "")
    assert integrity.compare(without_cluster, Store.open(tmp_path).path) == []


def test_reduce__scheduler_inside_a_job(data, without_cluster, tmp_path):
    where = ["--cluster", "slurm", "--workers", 2, "--memory", "1GiB"]
    text = _run("reduce", data, "--out", tmp_path, *held_runs.OPTIONS, *where, "--inside")
    number = text.split()[2]
    assert f"SLURM job {number} runs this command" in text
    for words in ("tail -F", f"squeue -j {number}", f"scancel {number}", "opticam-dask status"):
        assert words in text
    state = ["squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T"]
    until(lambda: subprocess.run(state, capture_output=True, text=True).stdout.strip() == "COMPLETED", 200)
    log = (tmp_path / "jobs" / f"opticam-dask-run-{number}.out").read_text()
    assert "SLURM: 2 jobs of 1 worker submitted." in log
    assert integrity.compare(without_cluster, Store.open(tmp_path).path) == []


def test_reduce__a_job_that_is_refused(data, tmp_path):
    text = _run("reduce", data, "--out", tmp_path, "--cluster", "slurm", "--workers", 2, "--memory", "9TiB", code=1)
    [line] = [line for line in text.splitlines() if line.startswith("opticam-dask reduce:")]
    assert "SLURM refused the jobs: sbatch: error" in line
    assert "node configuration is not available" in line


def test_reduce__a_job_that_pends_for_ever_and_ctrl_c(data, tmp_path):
    where = ["--cluster", "slurm", "--workers", "1", "--memory", "1GiB", "--walltime", "00:10:00", "--queue", "short"]
    log = tmp_path / "text"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*PROGRAM, "reduce", data, "--out", tmp_path / "out", *held_runs.OPTIONS, *where],
            stdout=output, stderr=output, env={**os.environ, "DASK_OPTICAM_DASK__LOOK_EVERY": "1"},
        ) as process,
    ):  # fmt: skip
        until(lambda: "SLURM cannot start such a job (PartitionTimeLimit)" in log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert "PENDING (PartitionTimeLimit)" in log.read_text()
    assert "Interrupted. What was reduced is kept" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not _jobs()


def test_connect__jobs_that_end_before_their_worker_starts(tmp_path):
    told = []
    with (
        pytest.raises(ClusterError, match=r"3 jobs ended before.*FAILED.*no/such/python.*output of jobs is in"),
        _slurm(told, options={"python": "/no/such/python"}, n_workers=1, log_directory=tmp_path) as place,
    ):
        list(place.run(_work(_facts, 2)))
    assert not _jobs()
