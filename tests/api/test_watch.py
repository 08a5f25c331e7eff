"""Frames that land while they are watched: none twice, none half, and in the end the same as a batch."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_nights import rows_of

from opticam_dask import cli, light_curves, relative_light_curve, simulate_observations
from opticam_dask.frames.arrivals import Arrivals, incomplete_reason
from opticam_dask.store import integrity
from opticam_dask.store.camera import group_name
from opticam_dask.store.store import STORE_NAME

N_FRAMES = 14
FIELD = {
    "shape": (96, 112), "n_sources": 6, "flux_range": (4e3, 1e5), "fwhm": 3.0, "least_separation": 6.0, "seed": 5,
}  # fmt: skip
OPTIONS = ["--n-pixels", "5", "--border-width", "4"]

# what a camera's computer does: one file after the other, some slowly and in place, some under another name first
FILL = """
import os, shutil, sys, time
from pathlib import Path
source, target = map(Path, sys.argv[1:])
for number, file in enumerate(sorted(source.iterdir())):
    if number % 3 == 0:
        content = file.read_bytes()
        with open(target / file.name, "wb") as stream:
            for start in range(0, len(content), 4000):
                stream.write(content[start:start + 4000])
                stream.flush()
                time.sleep(0.15)
    elif number % 3 == 1:
        shutil.copyfile(file, target / f".{file.name}.tmp")
        os.rename(target / f".{file.name}.tmp", target / file.name)
    else:
        shutil.copyfile(file, target / file.name)
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Frames of two cameras that are to land, one of them gzipped and one broken for good."""
    directory = tmp_path_factory.mktemp("staged")
    simulate_observations(directory, n_frames=N_FRAMES, filters=("g", "r"), **FIELD)
    files = sorted(directory.iterdir())
    (directory / f"{files[5].name}.gz").write_bytes(gzip.compress(files[5].read_bytes()))
    files[5].unlink()
    files[9].write_bytes(files[9].read_bytes()[:9000])
    return directory


@pytest.mark.parametrize("where", [["--cluster", "none"], ["--workers", "1"]], ids=["none", "local"])
def test_watch__equals_the_batch_run_and_follows_the_target(staged, tmp_path, where):
    data, out, batch = (tmp_path / name for name in ("data", "out", "batch"))
    data.mkdir()
    fill = subprocess.Popen([sys.executable, "-c", FILL, staged, data])
    command = [sys.executable, "-m", "opticam_dask.cli", "watch", data, "--out", out, *OPTIONS, *where]
    command += ["--target", "2", "--comparisons", "1", "3", "--n-first", "5", "--idle", "8", "--patience", "4"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert fill.wait() == 0
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr

    assert cli.main(["reduce", str(data), "--out", str(batch), *OPTIONS, "--cluster", "none"]) == 0
    assert integrity.compare(batch / STORE_NAME, out / STORE_NAME) == []
    assert not (out / "watch" / STORE_NAME).exists()

    broken = sorted(file.name for file in staged.iterdir())[9]
    assert f"waiting for {broken}: cut short" in done.stdout
    for key in ("1:g", "2:r"):
        group = group_name(key)
        rows = rows_of(out / "watch" / f"{group}_fluxes.csv")
        # every usable frame once; a frame that was read too early would be there as NaN
        assert sorted(row["file"] for row in rows) == sorted(
            name for name in os.listdir(data) if f"{key[-1]}2" in name and name != broken
        )
        fluxes = np.array([[float(row[f"flux_{number}"]) for number in range(1, 7)] for row in rows])
        assert np.isfinite(fluxes).all()
        curves = light_curves(out, key).load()
        order = np.argsort([float(row["MJD"]) for row in rows])
        difference = fluxes[order] - curves["flux"].to_numpy()
        assert np.median(np.abs(difference / curves["flux_err"].to_numpy())) < 1.0
        live = rows_of(out / "watch" / f"target_2_{group}_light_curve.csv")
        final = relative_light_curve(out, key, 2, [1, 3])
        close = np.array(sorted((float(r["MJD"]), float(r["rel_flux"])) for r in live))[:, 1]
        pull = (close - final["relative_flux"].to_numpy()) / final["relative_flux_err"].to_numpy()
        assert np.median(np.abs(pull)) < 1.0
    assert (out / "watch" / "live.png").stat().st_size > 10_000
    assert len(list((out / "relative_light_curves" / "aperture").glob("target_2_*.csv"))) == 2


def test_watch__ctrl_c_ends_within_seconds(staged, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(staged, data)
    command = [sys.executable, "-m", "opticam_dask.cli", "watch", data, "--out", tmp_path / "out", *OPTIONS]
    with subprocess.Popen(
        [*map(str, command), "--cluster", "none", "--n-first", "5"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "after it landed" in line:
                break
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == 130
    assert "Interrupted. What was reduced is kept" in errors
    assert not (tmp_path / "out" / "owner.json").exists()


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def arrivals(tmp_path):
    return Arrivals([tmp_path], patience=10.0, clock=Clock())


def _frame(staged, number):
    return sorted(file for file in staged.iterdir() if file.suffix == ".fits")[number]


def test_arrivals__a_file_is_taken_when_it_stands_still_and_is_whole(staged, tmp_path, arrivals):
    content = _frame(staged, 0).read_bytes()
    file = tmp_path / "a.fits"
    for stop in (100, 3000, 9000, len(content)):
        file.write_bytes(content[:stop])
        assert arrivals.look() == []
    assert arrivals.look() == [str(file)]
    assert arrivals.look() == []


def test_arrivals__a_file_that_stops_half_way_is_waited_for_and_mentioned_once(staged, tmp_path, arrivals):
    content = _frame(staged, 0).read_bytes()
    file = tmp_path / "a.fits"
    file.write_bytes(content[:9000])
    notes = []
    for _ in range(30):
        assert arrivals.look() == []
        notes += arrivals.tell()
    assert len(notes) == 1
    assert notes[0].startswith("waiting for a.fits: cut short")
    assert list(arrivals.waiting) == [str(file)]
    file.write_bytes(content)
    arrivals.look()
    assert arrivals.look() == [str(file)]
    assert arrivals.waiting == {}


def test_arrivals__a_gzip_is_whole_when_its_end_is_there(staged, tmp_path, arrivals):
    content = gzip.compress(_frame(staged, 0).read_bytes())
    file = tmp_path / "a.fits.gz"
    file.write_bytes(content[:-8])
    for _ in range(3):
        assert arrivals.look() == []
    file.write_bytes(content)
    arrivals.look()
    assert arrivals.look() == [str(file)]


def test_arrivals__each_state_of_a_broken_file_is_checked_once(tmp_path):
    checked = []
    arrivals = Arrivals([tmp_path], lambda file: checked.append(file) or "broken", 1e9, Clock())
    file = tmp_path / "a.fits"
    file.write_bytes(b"x")
    for _ in range(5):
        arrivals.look()
    assert len(checked) == 1
    file.write_bytes(b"xy")
    for _ in range(5):
        arrivals.look()
    assert len(checked) == 2


def test_arrivals__a_directory_that_goes_away_is_waited_for(staged, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(_frame(staged, 0), data / "a.fits")
    arrivals = Arrivals([data], clock=Clock())
    data.rename(tmp_path / "away")
    assert arrivals.look() == arrivals.look() == []
    assert [note.split(":")[0] for note in arrivals.tell()] == ["waiting for the directory to come back"]
    (tmp_path / "away").rename(data)
    arrivals.look()
    assert arrivals.look() == [str(data / "a.fits")]
    assert arrivals.tell() == ["the directory is back."]


def test_incomplete_reason__of_a_whole_file_is_none(staged):
    assert incomplete_reason(str(_frame(staged, 0))) is None


def _watch(capsys, *arguments):
    status = cli.main(["watch", *map(str, arguments), *OPTIONS, "--cluster", "none", "--idle", "1"])
    return status, capsys.readouterr().err


def test_watch__refuses_at_once_what_could_not_be_reduced_in_the_end(staged, tmp_path, capsys):
    data, other, out = (tmp_path / name for name in ("data", "other", "out"))
    shutil.copytree(staged, data)
    shutil.copytree(staged, other)
    assert cli.main(["reduce", str(data), "--out", str(out), *OPTIONS, "--cluster", "none"]) == 0
    capsys.readouterr()
    for arguments, words in (
        ([tmp_path / "nowhere", "--out", out], "there is none at"),
        ([other, "--out", out], "holds a reduction of other frames"),
        ([data, "--out", out, "--threshold", "7"], "threshold: 5.0 before, 7.0 now"),
        ([data, "--out", out, "--target", "2"], "needs both --target and --comparisons"),
        ([data, "--out", out, "--label", "a/b"], "a label must be letters"),
    ):
        status, errors = _watch(capsys, *arguments)
        assert status == 2
        assert words in errors


def test_watch__touches_no_file_that_it_did_not_write(staged, tmp_path, capsys):
    frames = tmp_path / "out" / "watch"
    shutil.copytree(staged, frames)
    before = sorted(frames.iterdir())
    status, errors = _watch(capsys, frames, "--out", tmp_path / "out")
    assert status == 2
    assert "is where the live files go" in errors
    assert sorted(frames.iterdir()) == before
