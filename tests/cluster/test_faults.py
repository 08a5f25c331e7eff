"""Faults inside a run: workers that die, hang or lose their disk, and frames that do this to them."""

from __future__ import annotations

import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from harms import eat_memory, hang
from held_runs import reduce_with, simulate
from privileges import ordinary_user

from opticam_dask import cli
from opticam_dask.cluster import connections, executors, rescue
from opticam_dask.flags import FrameFlag, SourceFlag
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader, find_files, scan
from opticam_dask.lightcurves import results
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.store import integrity
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

N_FRAMES, PER_BLOCK = 24, 8
MEMORY = 600_000_000


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


HARM = {"dies": _die, "hangs": hang, "eats memory": eat_memory}


@dataclass(frozen=True)
class PoisonedReader:
    """Reads frames; one of them harms the process that reads it."""

    name: str
    harm: str
    log: str

    def read(self, path):
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{os.path.basename(path)}\n".encode())
        os.close(handle)
        if os.path.basename(path) == self.name:
            HARM[self.harm]()
        return FitsReader().read(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    simulate(directory)
    return directory


def _setup(out, **options):
    parameters = ReductionParameters(n_pixels=5, border_width=4)
    return driver.Setup(out, OPTICAM_MX(), parameters, frames_per_block=PER_BLOCK, **options)


@pytest.mark.parametrize("harm", HARM)
def test_poisoned_frame__is_set_aside_by_name_and_everything_else_is_reduced(data, tmp_path, harm):
    poisoned = sorted(file.name for file in data.glob("*.fits"))[13]
    log = tmp_path / "reads"
    setup = _setup(tmp_path / "out", reader=PoisonedReader(poisoned, harm, str(log)))
    timeout = 8.0 if harm == "hangs" else 100.0
    with connections.local_client(2, dashboard=False, memory_limit=MEMORY) as client:
        outcome = reduce_with(setup, data, executors.OnCluster(client, frame_timeout=timeout, is_local=True))
    [(file, message)] = list(outcome.problems)
    assert os.path.basename(file) == poisoned
    words = {"dies": "signal 9", "hangs": "longer than 8 s", "eats memory": "more memory than a worker has"}
    assert words[harm] in message
    curves = results.light_curves(tmp_path / "out", "1:g").load()
    is_lost = np.zeros(N_FRAMES, bool)
    is_lost[13] = True
    assert np.array_equal(np.isnan(curves["flux"].to_numpy()).all(axis=1), is_lost)
    assert np.isfinite(curves["flux"].to_numpy()[~is_lost]).all()
    part = Store(setup.path).camera("1:g").parts[0]
    flags = Group(setup.path, f"{part.group}/frames").read("flags")
    assert np.array_equal(flags & np.uint32(FrameFlag.WORKER_LOST) != 0, is_lost)
    tries = collections.Counter(log.read_text().split())[poisoned]
    assert tries < 20


@dataclass(frozen=True)
class PoisonedPhotometer:
    """Ends the process that measures frames without a transform that moves, which one frame alone has."""

    x: float
    label: str = "aperture"

    def measure(self, view):
        if abs(view.predicted_xy[0, 0] - self.x) < 1e-9:
            _die()
        return AperturePhotometer().measure(view)


def test_poisoned_frame__in_the_second_pass_is_set_aside_too(data, tmp_path):
    setup = _setup(tmp_path / "out")
    driver.prepare(setup, scan(find_files([data]), setup.instrument))
    driver.drive(driver.Run(setup, executors.InProcess()), driver.TO_CATALOGS)
    driver.drive(
        driver.Run(setup, executors.InProcess(), photometers={"aperture": AperturePhotometer()}), driver.TO_LIGHT_CURVES
    )
    whole = results.light_curves(tmp_path / "out", "1:g").load()
    part = Store(setup.path).camera("1:g").parts[0]
    transform = Group(setup.path, f"{part.group}/frames").read("transform")[5]
    catalog = Group(setup.path, "1-g/catalog").read_all()
    x = float((transform @ [catalog["x"][0], catalog["y"][0], 1.0])[0])
    with connections.local_client(1, dashboard=False) as client:
        photometers = {"poisoned": PoisonedPhotometer(x, "poisoned")}
        outcome = driver.drive(
            driver.Run(setup, executors.OnCluster(client, is_local=True), photometers=photometers),
            driver.TO_LIGHT_CURVES,
        )
    assert [message for _, message in outcome.problems] == ["ended the process it was worked on in (signal 9)"]
    curves = results.light_curves(tmp_path / "out", "1:g", "poisoned").load()
    assert np.all(curves["flags"].to_numpy()[5] == SourceFlag.REDUCED | SourceFlag.WORKER_LOST)
    others = np.arange(N_FRAMES) != 5
    np.testing.assert_array_equal(curves["flux"].to_numpy()[others], whole["flux"].to_numpy()[others])


def test_deadly_frames__memory_that_others_used_up_is_no_fault_of_the_last():
    hoard = []

    def grow(index):
        hoard.append(np.ones(2_000_000))

    assert rescue.deadly_frames(grow, range(30), frame_timeout=20.0, memory_limit=400_000_000) == {}


def test_deadly_frames__an_exception_is_no_death():
    def fails(index):
        raise ValueError

    assert rescue.deadly_frames(fails, range(3), frame_timeout=20.0) == {}


# ---------------------------------------------------------------- what is outside of the run


@dataclass(frozen=True)
class RenamingReader:
    """Reads frames; before it reads the one that is named, the directory of all of them gets another name."""

    name: str

    def read(self, path):
        directory = Path(path).parent
        if os.path.basename(path) == self.name and directory.is_dir():
            directory.rename(directory.with_name("unmounted"))
        return FitsReader().read(path)


@pytest.mark.parametrize("leaves_an_empty_directory", [False, True])
def test_vanished_directory__stops_the_run_and_costs_no_frame(data, tmp_path, leaves_an_empty_directory):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    setup = _setup(tmp_path / "out")
    driver.prepare(setup, scan(find_files([copied]), setup.instrument))
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[:1])
    vanishing = _setup(tmp_path / "out", reader=RenamingReader(sorted(os.listdir(copied))[11]))
    if leaves_an_empty_directory:  # as a disk does that is unmounted
        copied.rename(tmp_path / "unmounted")
        copied.mkdir()
    with pytest.raises(OSError, match=r"data, which held .* cannot be read any more .*run the same command again"):
        driver.drive(driver.Run(vanishing, executors.InProcess()), driver.PASSES[1:2])
    shutil.rmtree(copied, ignore_errors=True)
    (tmp_path / "unmounted").rename(copied)
    reduce_with(setup, copied, executors.InProcess())
    whole = _setup(tmp_path / "whole")
    reduce_with(whole, copied, executors.InProcess())
    assert integrity.compare(whole.path, setup.path) == []


def test_vanished_file__costs_its_frame_alone(data, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    setup = _setup(tmp_path / "out")
    driver.prepare(setup, scan(find_files([copied]), setup.instrument))
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[:1])
    sorted(copied.iterdir())[11].unlink()
    outcome = driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[1:2])
    assert [message for _, message in outcome.problems] == ["cannot be read: No such file or directory"]


COMMAND = [sys.executable, "-m", "opticam_dask.cli"]
OPTIONS = ["--n-pixels", "5", "--border-width", "4", "--frames-per-block", str(PER_BLOCK)]


def _run(*arguments, code, **options):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def reduced(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("reduced") / "out"
    _run("reduce", data, "--out", out, *OPTIONS, "--cluster", "none", code=0)
    return out


@pytest.fixture(scope="module")
def can_mount():
    """Whether file systems can be mounted in a name space of one's own; where CI runs they must be."""
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
    if not allowed and os.environ.get("CI") != "true":
        pytest.skip("mount name spaces are not allowed here")
    assert allowed


@pytest.mark.parametrize("where", [["--cluster", "none"], ["--workers", "1"]], ids=["none", "local"])
def test_disk_full__one_line_and_nothing_lost(data, reduced, tmp_path, can_mount, where):
    (tmp_path / "disk").mkdir()
    command = " ".join([*COMMAND, "reduce", str(data), "--out", str(tmp_path / "disk" / "out"), *OPTIONS, *where])
    script = tmp_path / "script"
    script.write_text(
        textwrap.dedent(f"""
        mount -t tmpfs -o size=220k tmpfs {tmp_path}/disk
        {command}; echo "full: exit $?"
        mount -o remount,size=50m {tmp_path}/disk
        {command}; echo "more room: exit $?"
        {" ".join(COMMAND)} verify {tmp_path}/disk/out --against {reduced}
        """)
    )
    done = subprocess.run(["unshare", "-rm", "sh", script], capture_output=True, text=True, timeout=300, check=False)
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text
    assert "full: exit 1" in done.stdout, text
    assert re.search(r"opticam-dask reduce: .*No space left on device", done.stderr), text
    assert "more room: exit 0" in done.stdout, text
    assert "hold the same bits" in done.stdout, text


def test_read_only_output__one_line(data, reduced, tmp_path, can_mount):
    script = tmp_path / "script"
    script.write_text(
        textwrap.dedent(f"""
        mount --bind {reduced.parent} {reduced.parent}
        mount -o remount,bind,ro {reduced.parent}
        {" ".join(COMMAND)} reduce {data} --out {reduced} {" ".join(OPTIONS)} --cluster none; echo "exit $?"
        {" ".join(COMMAND)} reduce {data} --out {reduced.parent}/new {" ".join(OPTIONS)} --cluster none; echo "exit $?"
        {" ".join(COMMAND)} status {reduced}; echo "exit $?"
        {" ".join(COMMAND)} verify {reduced}; echo "exit $?"
        """)
    )
    done = subprocess.run(["unshare", "-rm", "sh", script], capture_output=True, text=True, timeout=300, check=False)
    assert re.findall(r"exit (\d)", done.stdout) == ["1", "2", "0", "0"], done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert "out: cannot be written (Read-only file system)" in lines[0]
    assert "new cannot be made: Read-only file system. Choose another --out." in lines[1]


def test_output_without_permission__one_line(data, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    with ordinary_user():
        status = cli.main(["reduce", str(data), "--out", str(out), *OPTIONS, "--cluster", "none"])
    assert status == 1
    assert "out: cannot be written (Permission denied)" in capsys.readouterr().err


def test_vanished_input__one_line(tmp_path):
    assert "there is none at" in _run("reduce", tmp_path / "nowhere", "--out", tmp_path / "out", code=2)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted__ends_within_seconds_and_goes_on(data, reduced, tmp_path, number, status):
    out = tmp_path / "out"
    command = [*COMMAND, "reduce", str(data), "--out", str(out), *OPTIONS, "--frames-per-block", "8", "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        for line in process.stdout:
            if line.startswith("Aligning frames"):
                break
        begun = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert time.monotonic() - begun < 10  # seconds; it takes one
    word = "Interrupted" if number == signal.SIGINT else "Terminated"
    assert errors.split("\n") == ["", f"{word}. What was reduced is kept: run the same command again to go on.", ""]
    assert not (out / "owner.json").exists()
    _run("reduce", data, "--out", out, *OPTIONS, "--cluster", "none", code=0)
    assert "same bits" in _run("verify", out, "--against", reduced, code=0)


def test_interrupted__in_a_place_that_drops_exceptions_ends_the_run_all_the_same():
    program = """if True:
        import gc, os, signal
        import numpy as np
        from opticam_dask.cluster.executors import InProcess, Work
        from opticam_dask.cluster.interruption import Interrupted, interruptible

        class Finalised:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass

        seen = []
        try:
            with interruptible():
                for block in InProcess().run([Work(abs, range(5))]):
                    seen.append(block)
                    if block == 2:
                        Finalised()
        except Interrupted as request:
            print(seen, request.number)
    """
    options = {"capture_output": True, "text": True, "check": True, "timeout": 60}
    done = subprocess.run([sys.executable, "-c", program], **options)
    assert "Exception ignored" in done.stderr
    assert done.stdout.split() == ["[0,", "1,", "2]", "2"]


def test_two_runs_at_once__the_second_is_refused(data, reduced, tmp_path):
    out = tmp_path / "out"
    command = [*COMMAND, "reduce", str(data), "--out", str(out), *OPTIONS, "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("Aligning frames"):
                break
        process.send_signal(signal.SIGSTOP)  # or it may be done before the other begins
        try:
            text = _run("reduce", data, "--out", out, *OPTIONS, "--cluster", "none", code=1)
        finally:
            process.send_signal(signal.SIGCONT)
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert re.search(rf"out belongs to another run: .*process {process.pid}.*--break-lock", text)
    assert "same bits" in _run("verify", out, "--against", reduced, code=0)
