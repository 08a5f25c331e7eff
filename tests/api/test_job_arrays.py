"""Reduction by submitted jobs: the bits of ``reduce``, whatever order, crash and resubmission the jobs go through."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from opticam_dask import OPTICAM_MX, cli, simulate_calibration_frames, simulate_observations
from opticam_dask.api.jobs import job_arrays, planned_run, planning, submission
from opticam_dask.api.session import Session
from opticam_dask.cluster import connections
from opticam_dask.console import Console
from opticam_dask.flags import FrameFlag
from opticam_dask.kernels.sources.profiles.ring_sums import Rings, empty_rings
from opticam_dask.parameters import ReductionParameters
from opticam_dask.store import integrity, ownership
from opticam_dask.store.groups import Group
from opticam_dask.store.scratch import SCRATCH_NAME
from opticam_dask.store.store import Store

FIELD = {
    "shape": (96, 112), "n_sources": 6, "filters": ("g", "r", "i"), "lags": (0.0, 0.0, 0.0), "flux_range": (4e4, 4e5),
    "fwhm": 3.5, "least_separation": 8.0, "gain": 2.0, "read_noise": 4.0, "dark_current": 2.0, "flat_structure": 0.02,
    "bias_structure": 4.0, "exposure_time": 5.0, "seed": 5,
}  # fmt: skip
NIGHTS = {"2023-12-31": 20, "2024-01-01": 9}
PER_BLOCK = 4
#: Blocks of the three keys: five of the first night and three of the second, each.
N_BLOCKS, N_PARTS = 24, 6

_COMMAND = (sys.executable, "-m", "opticam_dask.cli")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two nights of three cameras, and their calibration frames."""
    top = tmp_path_factory.mktemp("data")
    for night, n_frames in NIGHTS.items():
        start = str(np.datetime64(night) + np.timedelta64(1, "D")) + "T03:00:00"
        simulate_observations(top / "frames" / night, n_frames=n_frames, start=start, drift=(3.0, -2.0), **FIELD)
    simulate_calibration_frames(top, n_frames=1, n_exposures=5, **FIELD)
    return top


def _options(data, out):
    """What ``reduce`` and ``plan`` have in common."""
    folders = {name: str(data / folder) for name, folder in _calibration(data).items()}
    given = [text for name, folder in folders.items() for text in (f"--{name}", folder)]
    photometry = ["--photometer", "aperture", "optimal", "psf", "--radius", "best", "--annulus"]
    parameters = ["--frames-per-block", str(PER_BLOCK), "--n-pixels", "5", "--border-width", "4"]
    return [str(data / "frames"), "--out", str(out), *given, *photometry, *parameters]


def _calibration(data):
    names = {"biases": "bias", "darks": "dark", "flats": "flat"}
    found = {}
    for plural, kind in names.items():
        [found[plural]] = [entry.name for entry in data.iterdir() if entry.name.startswith(kind)]
    return found


@pytest.fixture(scope="module")
def reduced(data, tmp_path_factory):
    """The same data by ``reduce`` without a cluster."""
    out = tmp_path_factory.mktemp("reduced") / "out"
    assert cli.main(["reduce", *_options(data, out), "--cluster", "none"]) == 0
    return out


@pytest.fixture(scope="module")
def freshly_planned(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("planned") / "out"
    assert cli.main(["plan", *_options(data, out), "--blocks-per-job", "5"]) == 0
    return out


@pytest.fixture(scope="module")
def after_pass_0(freshly_planned, tmp_path_factory):
    out = tmp_path_factory.mktemp("begun") / "out"
    shutil.copytree(freshly_planned, out)
    assert _here("finish", out, 0) == 0
    return out


@pytest.fixture
def planned(freshly_planned, tmp_path):
    return shutil.copytree(freshly_planned, tmp_path / "out")


@pytest.fixture
def begun(after_pass_0, tmp_path):
    return shutil.copytree(after_pass_0, tmp_path / "out")


def _here(kind, out, number, *options):
    """One job, in this process."""
    return cli.main([kind, str(out), "--pass", str(number), "--cluster", "none", *options])


def _start(kind, out, number, *options, cluster="none", **environment):
    """One job, as a process of its own."""
    return subprocess.Popen(
        [*_COMMAND, kind, str(out), "--pass", str(number), "--cluster", cluster, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def _end(process, status=0):
    try:
        output = process.communicate(timeout=550)[0]
    finally:
        process.kill()
    assert process.returncode == status, output
    return output


def _go_on(out, number=1):
    """The rest of a run, in this process."""
    for current in range(number, 4):
        if current:
            assert _here("work", out, current) == 0
        assert _here("finish", out, current) == 0


def test_same_bits_as_reduce__jobs_at_the_same_time_and_in_any_order(begun, reduced, capsys):
    processes = [_start("work", begun, 1, "--blocks", ranges) for ranges in ("9:24", "3:11,0:1")]
    assert _here("work", begun, 1, "--blocks", "1:3") == 0
    for process in processes:
        _end(process)
    assert _here("finish", begun, 1) == 0
    for index in (5, 3, 4, 0):
        assert _here("work", begun, 2, "--job", str(index)) == 0
    assert _here("work", begun, 2) == 0
    assert _here("finish", begun, 2) == 0
    for job in (4, 1, 0, 3, 2):
        assert _here("work", begun, 3, "--job", str(job)) == 0
    assert _here("finish", begun, 3) == 0
    _require_same(begun, reduced, capsys)
    # the directory is free, nothing is left over, and a job that is submitted once more does no harm
    assert not (begun / ownership.OWNER_NAME).exists()
    assert not (begun / SCRATCH_NAME).exists()
    assert _here("work", begun, 3) == 0
    assert _here("finish", begun, 3) == 0
    assert "finished already" in capsys.readouterr().out


def _require_same(out, reduced, capsys):
    """The same bits in the store, and the same files for people."""
    capsys.readouterr()
    assert cli.main(["verify", str(out), "--against", str(reduced)]) == 0
    assert "the same bits" in capsys.readouterr().out
    assert cli.main(["verify", str(out)]) == 0
    ours, theirs = _files(out), _files(reduced)
    assert ours == theirs
    for file in ours:
        if file.suffix == ".csv":
            assert (out / file).read_bytes() == (reduced / file).read_bytes()


def _files(out):
    found = [file.relative_to(out) for file in out.rglob("*.*") if file.is_file() and file.suffix != ".log"]
    return sorted(file for file in found if file.parts[0] not in ("reduction.zarr", "planned_run"))


def test_reduce_goes_on_from_a_planned_run_that_is_given_up(data, begun, reduced, capsys):
    assert _here("work", begun, 1, "--blocks", "2:13") == 0
    arguments = ["reduce", *_options(data, begun), "--cluster", "none"]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "belongs to a run of job arrays" in error
    assert "--break-lock" in error
    assert cli.main([*arguments, "--break-lock"]) == 0
    assert integrity.compare(Store.at(begun).path, Store.at(reduced).path) == []
    # jobs that are still in the queue find that out
    assert _here("work", begun, 1) == 1
    assert "another run has taken over" in capsys.readouterr().err


def test_work__stops_at_its_next_look_when_another_run_takes_over(begun, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT", 0.0)
    monkeypatch.setattr("opticam_dask.pipeline.run._BETWEEN_LOOKS", 0.0)
    run = planned_run.read(begun)
    n_done = []

    class Executor:
        def run(self, work):
            for group in work:
                for block in group.blocks:
                    if len(n_done) == 2:
                        record = json.loads((begun / ownership.OWNER_NAME).read_text())
                        (begun / ownership.OWNER_NAME).write_text(json.dumps(record | {"token": "another"}))
                    n_done.append(block)
                    yield group.function(block)

    place = connections.Connection(lambda: contextlib.nullcontext(Executor()), print)
    session = Session(begun, place, Console(verbose=False), token=run.token)
    with pytest.raises(ownership.OwnershipLost, match="another run has taken over"):
        job_arrays.work(run, 1, None, session)
    assert len(n_done) == 3


def test_work__killed_and_run_again(begun, reduced):
    # dies in its fourth block
    process = _start("work", begun, 1, **_harm(begun, 13))
    _end(process, -signal.SIGKILL)
    assert 0 < len(job_arrays.missing_blocks(planned_run.read(begun), 1)) < N_BLOCKS
    _go_on(begun)
    assert integrity.compare(Store.at(begun).path, Store.at(reduced).path) == []


HOOK = """
import os, sys
name = os.environ.get("TEST_DEADLY_FILE")
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)) and os.fspath(arguments[0]) == name:
        os.kill(os.getpid(), 9)
if name:
    sys.addaudithook(watch)
"""


def _harm(out, index):
    """Environment in which whoever opens one frame of the first part is killed."""
    hook = Path(out).parent / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(HOOK)
    part = Store.at(out).camera("1:g").parts[0]
    file = part.manifest()["file"][index]
    path = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")])
    return {"TEST_DEADLY_FILE": file, "PYTHONPATH": path}


def test_work__a_frame_that_kills_its_process_is_set_aside_by_name(begun):
    environment = _harm(begun, 6)
    output = _end(_start("work", begun, 1, "--blocks", "0:3", cluster="local", **environment))
    name = os.path.basename(environment["TEST_DEADLY_FILE"])
    assert f"Set aside: {name}: ended the process it was worked on in (signal 9)" in output
    part = Store.open(begun).camera("1:g").parts[0]
    flags = Group(Store.at(begun).path, f"{part.group}/frames").read("flags")[:12]
    assert np.flatnonzero(flags & np.uint32(FrameFlag.WORKER_LOST)).tolist() == [6]
    assert np.all(flags & np.uint32(FrameFlag.REDUCED))


def test_finish__names_the_blocks_that_are_missing(begun, capsys):
    assert _here("work", begun, 1, "--blocks", "1:4,6:17,18") == 0
    assert cli.main(["status", str(begun)]) == 0
    assert "pass 1 (sky, sources and transforms): 15 of 24 blocks done" in capsys.readouterr().out
    assert _here("finish", begun, 1) == 1
    [line] = capsys.readouterr().err.splitlines()
    command = re.search(r"Run opticam-dask (work .* --pass 1 --blocks \S+), or", line)[1]
    assert command.endswith("--blocks 0:1,4:6,17:18,19:24")
    assert "9 of 24 blocks are not done" in line
    assert cli.main([*command.split(), "--cluster", "none"]) == 0
    assert _here("finish", begun, 1) == 0
    assert _here("finish", begun, 1) == 0
    assert "finished already" in capsys.readouterr().out
    assert _here("finish", begun, 2) == 1
    assert "6 of 6 blocks are not done (0:6)" in capsys.readouterr().err
    assert cli.main(["status", str(begun)]) == 0
    assert f"next: opticam-dask work {begun} --pass 2 --blocks 0:6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("work", 1), 1, r"pass 0 .* is not finished.* run opticam-dask finish .* --pass 0 first"),
        (("finish", 3), 1, r"pass 2 .* is not finished"),
        (("work", 0), 2, r"pass 0 has no blocks: opticam-dask finish .* --pass 0 does all of it"),
        (("work", 4), 2, r"a pass is one of 0 \(calibration masters .*3 \(photometry\), got 4"),
        (("finish", -1), 2, r"a pass is one of"),
        (("work", 1, "--blocks", "20:25"), 2, r"pass 1 has the blocks 0:24, got 20:25"),
        (("work", 2, "--blocks", "6"), 2, r"pass 2 has the blocks 0:6, got 6:7"),
        (("work", 1, "--blocks", "5:3"), 2, r"--blocks takes a:b .* got '5:3'"),
        (("work", 1, "--blocks", "all"), 2, r"--blocks takes a:b .* got 'all'"),
        (
            ("work", 1, "--job", "5"),
            2,
            r"pass 1 has 24 blocks, which makes 5 job\(s\) of 5, numbered from 0; got job 5",
        ),
        (("work", 1, "--job", "0", "--blocks-per-job", "0"), 2, r"blocks_per_job must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(freshly_planned, capsys, arguments, status, words):
    before = sorted(freshly_planned.rglob("*"))
    kind, number, *options = arguments
    assert _here(kind, freshly_planned, number, *options) == status
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert sorted(freshly_planned.rglob("*")) == before


@pytest.mark.parametrize("damage", ["half", "changed", "older"])
def test_damaged_plan_is_named(planned, capsys, damage):
    file = planned / "planned_run" / "plan.json"
    text = file.read_text()
    if damage == "older":
        run = planned_run.read(planned)
        planned_run._write(file, {"token": run.token, "parts": [], "calibration": {}})
    else:
        file.write_text(text[: len(text) // 2] if damage == "half" else text.replace('"1:g"', '"1:r"', 1))
    for command in (["work", str(planned), "--pass", "1"], ["finish", str(planned), "--pass", "0"]):
        assert cli.main(command) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert str(file) in line
        assert "--break-lock" in line
    assert cli.main(["status", str(planned)]) == 2


def test_sums_over_the_stars_of_a_night_are_kept_exactly_and_damage_is_named(tmp_path):
    part = planned_run.PartOfRun("1:g", "2024-01-01", "uid", n_blocks=3, n_frames=9)
    run = planned_run.PlannedRun(tmp_path, "token", "now", (part,), {}, {}, 300.0, "local", 1, 5)
    rng = np.random.default_rng(1)
    found = {3: empty_rings([0, 4]), 7: None, 8: empty_rings([1])}
    for rings in (found[3], found[8]):
        for field in fields(Rings)[2:]:
            getattr(rings, field.name)[:] = rng.random(getattr(rings, field.name).shape)
    sums, name = planned_run.RunSums(run), ("1:g", "2024-01-01")
    assert name not in sums
    sums[name] = found
    assert name in sums
    again = sums[name]
    assert list(again) == [3, 7, 8]
    assert again[7] is None
    for index in (3, 8):
        for field in fields(Rings):
            assert getattr(again[index], field.name).tobytes() == getattr(found[index], field.name).tobytes()
    sums[name] = {}
    assert sums[name] == {}
    file = run.sums_file(part)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(job_arrays.ReductionError, match=rf"{file}.*--pass 2 --blocks 0:1 again"):
        sums[name]


def test_no_plan(tmp_path, capsys):
    for command in (["work", str(tmp_path), "--pass", "1"], ["plan", "--out", str(tmp_path), "--slurm"]):
        assert cli.main(command) == 2
        assert "holds no planned run" in capsys.readouterr().err


def test_plan__functions_of_the_user_and_schedulers_elsewhere_are_refused_before_anything_is_made(tmp_path):
    parameters = ReductionParameters()
    for own, photometers in (({"finder": print}, {}), ({"image_filter": np.abs}, {}), ({}, {"mine": print})):
        setup = job_arrays.Setup(tmp_path, OPTICAM_MX(), parameters, **own)
        with pytest.raises(
            job_arrays.WrongParameters, match=rf"functions of your own \({next(iter(own | photometers))}\)"
        ):
            planning.plan(setup, None, photometers, None)
    setup = job_arrays.Setup(tmp_path, OPTICAM_MX(), parameters)
    with pytest.raises(job_arrays.WrongParameters, match="local or none here, got 'tcp://10"):
        planning.plan(setup, None, {}, None, cluster="tcp://10.0.0.1:8786")
    with pytest.raises(job_arrays.WrongParameters, match="at least 1, got 0"):
        planning.plan(setup, None, {}, None, blocks_per_job=0)
    assert list(tmp_path.iterdir()) == []


def test_plan__nothing_is_left(data, reduced, tmp_path, capsys):
    out = shutil.copytree(reduced, tmp_path / "out")
    capsys.readouterr()
    assert cli.main(["plan", *_options(data, out), "--slurm"]) == 0
    assert capsys.readouterr().out == ""
    assert not (out / "planned_run").exists()
    assert not (out / ownership.OWNER_NAME).exists()


def test_plan__the_end_is_all_that_is_left(data, reduced, freshly_planned, tmp_path, capsys):
    out = shutil.copytree(reduced, tmp_path / "out")
    # as a run of job arrays leaves it that is given up before its last finish
    path = Store.at(out).path
    parts = [part for camera in Store(path).cameras for part in camera.parts]
    for part in parts:
        part.quality.remove()
    Store(path).drop_consolidated()
    shutil.rmtree(out / "lcs")
    shutil.copytree(freshly_planned / "planned_run", out / "planned_run")
    assert cli.main(["plan", *_options(data, out)]) == 0
    assert "Everything is done already" in capsys.readouterr().out
    assert Store(path).is_consolidated
    assert not (out / "planned_run").exists()
    _require_same(out, reduced, capsys)
    # what is whole is left alone
    (out / "lcs" / "mark").touch()
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.csv")}
    assert cli.main(["plan", *_options(data, out)]) == 0
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.csv")} == before
    assert Store(path).is_consolidated


def test_plan__a_label_with_other_parameters_is_refused(data, reduced, tmp_path, capsys):
    out = shutil.copytree(reduced, tmp_path / "out")
    simulate_observations(tmp_path / "late", n_frames=4, start="2024-01-05T03:00:00", **FIELD)
    late = [str(tmp_path / "late"), *_options(data, out)[1:], "--append"]
    for arguments in (_options(data, out), late):
        assert cli.main(["plan", *arguments, "--radius", "6"]) == 2
        error = capsys.readouterr().err
        assert re.search(r"photometry 'aperture_annulus' of 1:g .* other parameters .*--label NAME", error)
    assert integrity.compare(Store.at(out).path, Store.at(reduced).path) == []
    assert Store.at(out).is_consolidated


def test_status__a_run_that_another_took_over_and_finished(reduced, freshly_planned, planned, tmp_path, capsys):
    out = shutil.copytree(reduced, tmp_path / "finished")
    shutil.copytree(freshly_planned / "planned_run", out / "planned_run")
    (planned / ownership.OWNER_NAME).unlink()
    for place, is_given_up in ((out, False), (planned, True)):
        assert cli.main(["status", str(place)]) == 0
        assert ("was given up" in capsys.readouterr().out) == is_given_up
        assert cli.main(["plan", "--out", str(place)]) == int(is_given_up)
        capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["DATA", "--memory", "1GiB"], r"--slurm-options=--mem=1GiB"),
        (["--workers", "7", "--break-lock"], r"without DATA .*: --n-workers, --break-lock would change nothing"),
        (["--blocks-per-job", "1", "--cluster", "none"], r"--cluster, --blocks-per-job would change nothing"),
    ],
)
def test_plan__options_that_would_change_nothing_are_refused(freshly_planned, capsys, options, words):
    assert cli.main(["plan", *options, "--out", str(freshly_planned)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_absolute__places_that_are_no_directories_here_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planning._absolute("s3://bucket/flats") == "s3://bucket/flats"
    assert planning._absolute("flats") == planning._absolute(f"file://{tmp_path}/flats") == str(tmp_path / "flats")


def test_jobs_of_another_plan_do_nothing(begun, capsys):
    run = planned_run.read(begun)
    for kind in ("work", "finish"):
        words = shlex.split(submission.command(run, kind, 1))
        assert words[words.index("--plan") + 1] == run.token[:8]
        assert _here(kind, begun, 1, "--plan", "00000000") == 1
        [line] = capsys.readouterr().err.splitlines()
        assert f"was planned again on {run.created} (plan {run.token[:8]})" in line
        assert "belongs to the plan 00000000: nothing was done" in line
    assert len(job_arrays.missing_blocks(run, 1)) == N_BLOCKS
    assert _here("work", begun, 1, "--blocks", "0", "--plan", run.token[:8]) == 0


def test_work__a_night_of_pass_2_is_done_by_one_job_at_a_time(begun, capsys):
    assert _here("work", begun, 1) == 0
    assert _here("finish", begun, 1) == 0
    run = planned_run.read(begun)
    place = run.place_of(run.parts[1])
    place.mkdir(parents=True)
    ownership._acquire(ownership.Owner(place / ownership.OWNER_NAME, "another"), break_lock=False)
    capsys.readouterr()
    assert _here("work", begun, 2, "--blocks", "0:2") == 1
    said = capsys.readouterr()
    [line] = said.err.splitlines()
    assert "another job works on 1:g 2024-01-01: it was left to that one" in line
    assert "of 0 frames" not in said.out
    assert job_arrays.missing_blocks(run, 2) == [1, 2, 3, 4, 5]
    part = Store.open(begun).camera("1:g").part("2024-01-01")
    assert part.partial_stack_file("level-0-0-000000").is_file()
    (place / ownership.OWNER_NAME).unlink()
    assert _here("work", begun, 2, "--blocks", "1") == 0
    assert "Pass 2: 9 frames done." in capsys.readouterr().out
    assert job_arrays.missing_blocks(run, 2) == [2, 3, 4, 5]


def test_plan__a_further_night_is_all_that_jobs_work_on(data, reduced, tmp_path):
    simulate_observations(tmp_path / "late", n_frames=9, start="2024-01-05T03:00:00", **FIELD)
    planned, other = (shutil.copytree(reduced, tmp_path / name) for name in ("planned", "other"))
    arguments = [[str(tmp_path / "late"), *_options(data, out)[1:], "--append"] for out in (planned, other)]
    assert cli.main(["plan", *arguments[0]]) == 0
    assert {part.night for part in planned_run.read(planned).parts} == {"2024-01-04"}
    _go_on(planned, 0)
    assert cli.main(["reduce", *arguments[1], "--cluster", "none"]) == 0
    assert integrity.compare(Store.at(planned).path, Store.at(other).path) == []


def test_plan__planned_again_is_refused_until_the_lock_is_broken(data, planned, capsys):
    arguments = ["plan", *_options(data, planned)]
    assert cli.main(arguments) == 1
    assert "opticam-dask status" in capsys.readouterr().err
    before = planned_run.read(planned)
    assert cli.main([*arguments, "--break-lock", "--blocks-per-job", "7"]) == 0
    run = planned_run.read(planned)
    assert (run.blocks_per_job, run.parts) == (7, before.parts)
    assert run.token != before.token


def test_blocks_are_numbered_over_keys_and_nights(freshly_planned):
    run = planned_run.read(freshly_planned)
    assert [(part.key, part.night, part.n_blocks) for part in run.parts] == [
        (key, night, -(-n_frames // PER_BLOCK)) for key in ("1:g", "2:r", "3:i") for night, n_frames in NIGHTS.items()
    ]
    assert (run.n_units(1), run.n_units(2), run.n_units(3)) == (N_BLOCKS, N_PARTS, N_BLOCKS)
    cut = [(part.key, part.night, list(blocks)) for part, blocks in run.cut(1, range(3, 15))]
    assert cut == [
        ("1:g", "2023-12-31", [3, 4]),
        ("1:g", "2024-01-01", [0, 1, 2]),
        ("2:r", "2023-12-31", [0, 1, 2, 3, 4]),
        ("2:r", "2024-01-01", [0, 1]),
    ]
    whole = [(part, block) for part, blocks in run.cut(1, range(N_BLOCKS)) for block in blocks]
    singly = [
        (part, block) for i in range(N_BLOCKS) for part, blocks in run.cut(1, range(i, i + 1)) for block in blocks
    ]
    assert singly == whole
    assert len(set(whole)) == N_BLOCKS


COUNT = """
import collections, os, sys
from opticam_dask import cli
out, number, blocks = sys.argv[1:]
counts, written = collections.Counter(), collections.Counter()
WATCHED = {"open", "os.rename", "os.mkdir", "os.remove", "os.listdir", "os.scandir", "os.rmdir", "os.link"}
def watch(event, arguments):
    if event in WATCHED and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith(out):
            counts[event] += 1
            if event == "os.rename":
                written[os.path.abspath(os.fsdecode(arguments[1]))] += 1
sys.addaudithook(watch)
status = cli.main(["work", out, "--pass", number, "--cluster", "none", "--blocks", blocks])
print("COUNTED", status, sum(counts.values()), len(written), max(written.values(), default=0), dict(counts))
"""


def _count(out, number, blocks):
    command = [sys.executable, "-c", COUNT, str(out), str(number), blocks]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    status, total, n_written, most = map(int, re.search(r"COUNTED (\d+) (\d+) (\d+) (\d+)", output).groups())
    print(output.splitlines()[-1])
    assert status == 0
    return total, n_written, most


@pytest.mark.parametrize("number", [1, 3])
def test_work__operations_on_files_of_a_block_are_few_and_no_file_is_written_twice(begun, number):
    if number == 3:
        for current in (1, 2):
            assert _here("work", begun, current) == 0
            assert _here("finish", begun, current) == 0
    assert _here("work", begun, number, "--blocks", "0") == 0  # which makes the folders
    few, many = (_count(begun, number, blocks) for blocks in ("1:2", "2:5"))
    per_block = (many[0] - few[0]) / 2
    print(f"pass {number}: {per_block:g} operations a block, {few[0] - per_block:g} a job")
    # among the variables of a frame are since many images in a file its extension and its plane: four operations; since
    # replaced files are told, its time of change and checksum: two more
    assert per_block < (117 if number == 1 else 190)
    assert few[0] - per_block < 200
    # nothing that two blocks write is one file
    assert few[2] == many[2] == 1
    # a block in which one group of stacked frames ends and the next begins writes a sum of each
    assert 3 * few[1] <= many[1] <= 3 * few[1] + 3


# ---------------------------------------------------------------- SLURM


def _submit(arguments):
    """Pipe the lines of ``plan --slurm`` into a shell; return the numbers of the jobs by name."""
    lines = subprocess.run(
        [*_COMMAND, "plan", *arguments, "--slurm"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = re.findall(r"^(\w+)=\$\(sbatch", lines, re.MULTILINE)
    submitted = subprocess.run(["bash"], input=lines, capture_output=True, text=True, check=True).stdout
    return dict(zip(names, re.search(r"submitted: (.*)", submitted)[1].split(), strict=True))


def _wait(jobs):
    deadline = time.monotonic() + 500
    command = ["squeue", "--noheader", "--jobs", ",".join(jobs.values())]
    while (left := subprocess.run(command, capture_output=True, text=True)).stdout.strip():
        assert time.monotonic() < deadline, left.stdout
        time.sleep(0.5)


def test_slurm__arrays_run_to_the_end_and_what_was_cancelled_is_submitted_again(data, reduced, tmp_path, slurm, capsys):
    out = tmp_path / "out of the blue"  # names with blanks come through as well
    arguments = [*_options(data, out), "--cluster", "none", "--blocks-per-job", "9", "--slurm-options=--time=20"]
    jobs = _submit(arguments)
    assert list(jobs) == ["finish_0", "work_1", "finish_1", "work_2", "finish_2", "work_3", "finish_3"]
    subprocess.run(["scancel", f"{jobs['work_1']}_1"], check=True)
    _wait(jobs)
    [log] = (out / "planned_run" / "logs").glob("finish-1-*.log")
    assert "9 of 24 blocks are not done (9:18)" in log.read_text()
    assert not list((out / "planned_run" / "logs").glob("*-2-*.log"))  # what follows has left the queue
    assert cli.main(["status", str(out)]) == 0
    assert "--pass 1 --blocks 9:18" in capsys.readouterr().out
    lines = submission.slurm_lines(planned_run.read(out))
    assert [re.search(r"--array=(\S+)", line)[1] for line in lines if "--array" in line] == ["1", "0-5", "0-2"]
    _wait(_submit(["--out", str(out)]))
    assert planned_run.read(out).next_pass is None, [p.read_text() for p in (out / "planned_run/logs").iterdir()]
    _require_same(out, reduced, capsys)


def test_slurm_lines__a_pass_waits_for_the_one_before(freshly_planned):
    run = planned_run.read(freshly_planned)
    lines = submission.slurm_lines(run, ["--account=a b"])
    jobs = {line.partition("=")[0]: line for line in lines if "sbatch" in line}
    found = {name: re.findall(r"(after\w+):\$\{(\w+)%", line) for name, line in jobs.items()}
    assert found == {
        "finish_0": [],
        "work_1": [("afterok", "finish_0")],
        "finish_1": [("afterok", "finish_0"), ("afterany", "work_1")],
        "work_2": [("afterok", "finish_1")],
        "finish_2": [("afterok", "finish_1"), ("afterany", "work_2")],
        "work_3": [("afterok", "finish_2")],
        "finish_3": [("afterok", "finish_2"), ("afterany", "work_3")],
    }
    words = [shlex.split(line.removeprefix(f"{name}=$(").rstrip("\\")) for name, line in jobs.items()]
    assert all("--account=a b" in found for found in words)
    assert "--array=0-4 " in jobs["work_1"]
    assert "--array=0-5 " in jobs["work_2"]
