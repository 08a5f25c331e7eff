"""Frames are read once for measuring, and those of the survey once more: whatever is asked for, in whatever order."""

from __future__ import annotations

import cloudpickle
import numpy as np
import pytest
from counted_tasks import LoggingReader

from opticam_dask import simulate_observations
from opticam_dask.cluster import executors
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.kernels.images import calibrate
from opticam_dask.methods.photometers import AperturePhotometer, OptimalPhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.stages.references import N_PROBES
from opticam_dask.steps import background, pixels
from opticam_dask.store import integrity
from opticam_dask.store.scratch import SCRATCH_NAME

N_FRAMES, STACKED = 30, 12
PHOTOMETERS = {"best": AperturePhotometer(radius="best"), "optimal": OptimalPhotometer()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    simulate_observations(
        directory, n_frames=N_FRAMES, shape=(120, 130), n_sources=8, filters=("g",), flux_range=(5e3, 2e5),
        fwhm=3.0, drift=(3.0, 2.0), least_separation=8.0, seed=7,
    )  # fmt: skip
    return directory


def _begin(data, out, n_stacked=STACKED, **options):
    parameters = ReductionParameters(n_pixels=5, border_width=4, stack_frames=n_stacked)
    setup = driver.Setup(
        out, OPTICAM_MX(), parameters, frames_per_block=4, reader=LoggingReader(f"{out}.log"), **options
    )
    driver.prepare(setup, scanning.scan(scanning.find_files([data]), setup.instrument))
    return setup


def _drive(setup, passes=driver.PASSES, *, executor=None, photometers=PHOTOMETERS):
    return driver.drive(driver.Run(setup, executor or executors.InProcess(), photometers=photometers), passes)


@pytest.fixture(scope="module")
def fused(data, tmp_path_factory):
    """A night that was surveyed and measured, and the reads of its frames."""
    setup = _begin(data, tmp_path_factory.mktemp("fused"))
    outcome = _drive(setup)
    driver.finish(setup)
    assert outcome.n_frames == {"1:g": N_FRAMES}
    return setup


def test_frames__are_read_once_and_those_of_the_survey_and_the_candidates_once_more(fused):
    counts = fused.reader.reads
    assert len(counts) == N_FRAMES
    assert counts.total() == N_FRAMES + STACKED + N_PROBES <= N_FRAMES + STACKED + 10
    assert not (fused.out_directory / SCRATCH_NAME).exists()


def test_catalogue_first_and_photometry_later__give_the_same_bits(data, fused, tmp_path):
    setup = _begin(data, tmp_path)
    _drive(setup, photometers={})
    assert setup.reader.reads.total() == N_FRAMES + N_PROBES  # what the survey has found out is known
    assert all(part.frames.done().all() for camera in setup.store.cameras for part in camera.parts)
    _drive(setup, driver.TO_LIGHT_CURVES)
    driver.finish(setup)
    assert integrity.compare(fused.path, setup.path) == []


class _StopsAfter(executors.InProcess):
    """Is interrupted after so many tasks."""

    def __init__(self, n_tasks):
        self.left = n_tasks

    def run(self, work):
        for found in super().run(work):
            yield found
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def test_run_that_is_interrupted_again_and_again__gives_the_same_bits(data, fused, tmp_path):
    setup, n_stops = _begin(data, tmp_path), 0
    for n_tasks in (14, 4, 9, 5, 9, 3, 3):  # among the candidates, the frames of the survey, rings, frames of the rest
        try:
            _drive(setup, executor=_StopsAfter(n_tasks))
        except KeyboardInterrupt:
            n_stops += 1
    assert n_stops > 4
    _drive(setup)
    driver.finish(setup)
    assert integrity.compare(fused.path, setup.path) == []


class _WeighsTasks(executors.InProcess):
    """Counts the bytes of what each task is sent, by the name of the task."""

    def __init__(self):
        self.n_bytes = {}

    def run(self, work):
        for group in work:
            self.n_bytes[group.name] = max(self.n_bytes.get(group.name, 0), len(cloudpickle.dumps(group.function)))
        return super().run(work)


def test_tasks__are_sent_no_more_for_more_frames(data, tmp_path):
    """What grows with the frames of a night goes through client and scheduler, which say so from 10 MB on."""
    n_bytes = []
    for n_stacked in (STACKED, N_FRAMES):
        executor = _WeighsTasks()
        setup = _begin(data, tmp_path / str(n_stacked), n_stacked=n_stacked)
        _drive(setup, executor=executor)
        n_bytes.append(executor.n_bytes)
    few, more = n_bytes
    assert few.keys() & more.keys() >= {"fit-profile", "profile", "catalog"}
    for name, size in few.items():
        assert more[name] < 1.1 * size + 1000, name


def test_pixels_that_are_kept__may_be_lost(data, fused, tmp_path):
    setup = _begin(data, tmp_path)
    _drive(setup, driver.PASSES[:2])
    [part] = setup.store.camera("1:g").parts
    for number, file in enumerate(sorted((tmp_path / SCRATCH_NAME).rglob("kept/*.kept"))):
        file.unlink() if number % 2 else file.write_bytes(file.read_bytes()[:-3])
    assert part.frames["flags"].astype(bool).sum() == STACKED
    _drive(setup)
    driver.finish(setup)
    assert integrity.compare(fused.path, setup.path) == []


class FlatSky:
    """Sky of a user's own, which needs the whole frame."""

    def __init__(self, image):
        level = float(np.median(image))
        rms = float(1.4826 * np.median(np.abs(image - level)))
        self.background, self.background_rms = np.full(image.shape, level), np.full(image.shape, rms)
        self.background_median, self.background_rms_median = level, rms


@pytest.mark.parametrize("how", ["cosmic rays", "own sky"])
def test_steps_that_need_the_whole_frame__are_done_once_on_the_same_read(data, tmp_path, monkeypatch, how):
    module, name = (calibrate, "remove_cosmic_rays") if how == "cosmic rays" else (background, "own_sky")
    calls, usual = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **more: calls.append(how) or usual(*args, **more))
    parameters = ReductionParameters(
        n_pixels=5, border_width=4, stack_frames=4, remove_cosmic_rays=how == "cosmic rays"
    )
    files, photometers, paths = scanning.find_files([data])[:12], {"optimal": OptimalPhotometer()}, []
    for out in (tmp_path / "fused", tmp_path / "apart"):
        setup = driver.Setup(
            out, OPTICAM_MX(), parameters, frames_per_block=4, reader=LoggingReader(f"{out}.log"),
            background=FlatSky if how == "own sky" else None,
        )  # fmt: skip
        driver.prepare(setup, scanning.scan(files, setup.instrument))
        calls.clear()
        _drive(setup, photometers=photometers if out.name == "fused" else {})
        n_surveyed_again = 4 if out.name == "fused" else 0
        assert len(calls) == setup.reader.reads.total() == 12 + n_surveyed_again + N_PROBES
        _drive(setup, driver.TO_LIGHT_CURVES, photometers=photometers)
        paths.append(setup.path)
    assert integrity.compare(*paths) == []


def test_profile_of_kept_stars__is_that_of_whole_frames(data, fused, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "_WHOLE", np.inf)  # as of a large frame: the stars alone are kept
    monkeypatch.setattr(pixels, "_BEYOND", -9.0)
    monkeypatch.setattr(pixels, "_N_KEPT", 4)
    setup = _begin(data, tmp_path)
    _drive(setup, driver.PASSES[:2])
    [part], [whole] = setup.store.camera("1:g").parts, fused.store.camera("1:g").parts
    _, kept = next(part.kept(0))
    assert 0 < kept["raw"].size < 120 * 130 / 2
    _drive(setup)
    radius = part.psf["radius"]
    total, expected = (np.sum(one.psf["profile"] * radius) for one in (part, whole))
    assert total == pytest.approx(expected, rel=5e-3)
    measured, of_whole = part.photometry("optimal"), whole.photometry("optimal")
    assert np.nanmax(np.abs(measured["flux"] - of_whole["flux"]) / measured["flux_err"]) < 0.5
