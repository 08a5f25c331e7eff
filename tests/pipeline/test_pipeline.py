"""The passes as a whole: same bits everywhere, one task a block, one read a frame, resume, other parameters."""

from __future__ import annotations

import collections
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from counted_tasks import LoggingReader, tasks_of

from opticam_dask import simulate_observations
from opticam_dask.cluster import connections, executors
from opticam_dask.flags import SourceFlag
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.lightcurves import results
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver, plan
from opticam_dask.pipeline.stages import stacks, survey
from opticam_dask.store import integrity
from opticam_dask.store.errors import StoreError
from opticam_dask.store.groups import Group
from opticam_dask.store.scratch import SCRATCH_NAME
from opticam_dask.store.store import STORE_NAME, Store

N_FRAMES = 22
PHOTOMETERS = {"aperture": AperturePhotometer(), "forced_aperture": AperturePhotometer(forced=True)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    simulate_observations(
        directory, n_frames=N_FRAMES, shape=(96, 112), n_sources=6, filters=("g", "r"), flux_range=(4e3, 1e5),
        fwhm=3.0, drift=(3.0, 2.0), least_separation=6.0, seed=5,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def client():
    with connections.local_client(2, dashboard=False) as opened:
        yield opened


def _setup(out, **options):
    parameters = ReductionParameters(**{"n_pixels": 5, "border_width": 4, **options.pop("parameters", {})})
    return driver.Setup(Path(out), OPTICAM_MX(), parameters, **options)


def _reduce(data, out, executor, **options):
    whole_frames, append = options.pop("whole_frames", False), options.pop("append", False)
    setup = _setup(out, **options)
    found = scanning.scan(scanning.find_files([data]), setup.instrument)
    driver.prepare(setup, found, changes=driver.Changes(append=append))
    driver.drive(driver.Run(setup, executor), driver.TO_CATALOGS)
    driver.drive(
        driver.Run(setup, executor, photometers=PHOTOMETERS, whole_frames=whole_frames), driver.TO_LIGHT_CURVES
    )
    driver.finish(setup)
    return setup.path


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """The reduction everything else is compared with: one process, default blocks."""
    return _reduce(data, tmp_path_factory.mktemp("reference"), executors.InProcess())


def test_reduction__is_complete(reference):
    for key in ("1:g", "2:r"):
        curves = results.light_curves(reference.parent, key)
        assert curves.sizes == {"frame": N_FRAMES, "source": 6}
        assert np.isfinite(curves["flux"]).all()
        assert np.all(curves["flags"].to_numpy() & 1)


@pytest.mark.parametrize("frames_per_block", [1, 5, 7, 100])
def test_reduction__does_not_depend_on_the_block_size(data, reference, tmp_path, frames_per_block):
    path = _reduce(data, tmp_path, executors.InProcess(), frames_per_block=frames_per_block)
    assert integrity.compare(reference, path) == []


def test_reduction__does_not_depend_on_workers_or_scheduler(data, reference, client, tmp_path):
    many = _reduce(data, tmp_path / "two workers", executors.OnCluster(client), frames_per_block=3)
    assert integrity.compare(reference, many) == []
    with connections.local_client(1, dashboard=False) as single:
        one = _reduce(data, tmp_path / "one worker", executors.OnCluster(single), frames_per_block=3)
    assert integrity.compare(many, one) == []
    files = [{f.relative_to(path): f.read_bytes() for f in path.rglob("c/**/*") if f.is_file()} for path in (many, one)]
    assert files[0] == files[1]


def test_reduction__cut_outs_and_whole_frames_give_the_same_bits(data, reference, tmp_path):
    path = _reduce(data, tmp_path, executors.InProcess(), whole_frames=True)
    assert integrity.compare(reference, path) == []


def test_reduction__each_pass_is_one_task_a_block_which_reads_each_frame_once(data, client, tmp_path):
    log = tmp_path / "reads"
    setup = _setup(tmp_path / "out", reader=LoggingReader(str(log)), frames_per_block=4)
    executor = executors.OnCluster(client)

    def reads():
        counts = collections.Counter(log.read_text().split()) if log.exists() else {}
        log.unlink(missing_ok=True)
        return counts

    with tasks_of(client) as seen:
        driver.prepare(setup, scanning.scan(scanning.find_files([data]), setup.instrument))
        assert reads() == {}
        run = driver.Run(setup, executor, photometers=PHOTOMETERS)
        driver.drive(run, driver.PASSES[:1])
        assert set(reads().values()) == {1}
        # the star profile is measured on what the survey has kept
        for one, n_reads in zip(driver.PASSES[1:], (1, 0, 1), strict=True):
            driver.drive(run, [one])
            counts = reads()
            assert len(counts) == (2 * N_FRAMES if n_reads else 0)
            assert set(counts.values()) <= {n_reads}
    kinds = collections.Counter(str(key[0]).rsplit("-", 1)[0] for key in seen)
    n_blocks = 2 * -(-N_FRAMES // 4)
    assert kinds == {
        "probe": 2 * 9,  # frames that may be the reference, of each camera
        "match-probes": 2,
        "survey": n_blocks,
        "merge-stacks": 8,  # the groups of stacked frames that lie in more than one block, four a camera
        "stack": 2,  # one a camera and night, as all that follow
        "catalog": 2,
        "profile": 2 * n_blocks,  # in two rounds
        "fit-profile": 2 * 2,
        "measure": n_blocks,
        "quality": 2,
    }


def test_reduction__size_of_a_task_does_not_grow_with_the_number_of_frames(data, tmp_path):
    import cloudpickle

    sizes = []
    for number in (2, N_FRAMES):
        files = sorted(str(path) for path in data.glob("*g*.fits"))[:number]
        setup = _setup(tmp_path / str(number))
        driver.prepare(setup, scanning.scan(files, setup.instrument))
        driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[:1])
        part = Store(setup.path).camera("1:g").parts[0]
        sizes.append(len(cloudpickle.dumps(survey.survey_job(setup, part))))
    assert sizes[1] < sizes[0] + 200


def test_reduction__interrupted_run_goes_on_where_it_stopped(data, reference, tmp_path):
    log = tmp_path / "reads"
    options = {"reader": LoggingReader(str(log)), "frames_per_block": 4}

    class StopsHalfWay(executors.InProcess):
        def run(self, work):
            for number, summary in enumerate(super().run(work)):
                yield summary
                if number == 4:
                    raise KeyboardInterrupt

    setup = _setup(tmp_path / "out", **options)
    driver.prepare(setup, scanning.scan(scanning.find_files([data]), setup.instrument))
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[:1])
    with pytest.raises(KeyboardInterrupt):
        driver.drive(driver.Run(setup, StopsHalfWay()), driver.PASSES[1:2])
    log.unlink()
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[1:2])
    assert len(log.read_text().split()) == 2 * N_FRAMES - 5 * 4 + 0
    with pytest.raises(KeyboardInterrupt):
        driver.drive(driver.Run(setup, StopsHalfWay(), photometers=PHOTOMETERS), driver.TO_LIGHT_CURVES)
    path = _reduce(data, tmp_path / "out", executors.InProcess(), **options)
    assert integrity.compare(reference, path) == []
    log.unlink()
    _reduce(data, tmp_path / "out", executors.InProcess(), **options)
    assert not log.exists()


def test_reduction__lost_partial_stacks_are_made_again(data, reference, tmp_path):
    setup = _setup(tmp_path, frames_per_block=4)
    driver.prepare(setup, scanning.scan(scanning.find_files([data]), setup.instrument))
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[:1])

    class StopsBeforeTheStack(executors.InProcess):
        def run(self, work):
            yield from super().run(work)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driver.drive(driver.Run(setup, StopsBeforeTheStack()), driver.PASSES[1:2])
    shutil.rmtree(tmp_path / SCRATCH_NAME)
    path = _reduce(data, tmp_path, executors.InProcess(), frames_per_block=4)
    assert integrity.compare(reference, path) == []


def test_reduction__a_damaged_partial_stack_is_told_and_made_again(data, reference, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stacks, "finish_stacks", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            _reduce(data, tmp_path, executors.InProcess(), frames_per_block=4)
    damaged = sorted((tmp_path / SCRATCH_NAME).rglob("level-0-*.npy"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with pytest.raises(StoreError, match=r"is damaged .* Delete it and run the same command again"):
        _reduce(data, tmp_path, executors.InProcess(), frames_per_block=4)
    damaged.unlink()
    assert integrity.compare(reference, _reduce(data, tmp_path, executors.InProcess(), frames_per_block=4)) == []


def _interrupt(*_):
    raise KeyboardInterrupt


def test_prepare__other_parameters_are_refused_by_name(data, reference):
    setup = _setup(reference.parent, parameters={"threshold": 4.0})
    with pytest.raises(driver.ReductionError, match=r"threshold: 5\.0 before, 4\.0 now"):
        driver.prepare(setup, scanning.scan(scanning.find_files([data]), setup.instrument))


def test_prepare__changed_file_is_refused_by_name(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    setup = _setup(tmp_path / "out")
    driver.prepare(setup, scanning.scan(scanning.find_files([copy]), setup.instrument))
    file = sorted(copy.glob("*.fits"))[0]
    os.utime(file, (1, 1))
    with pytest.raises(driver.ReductionError, match=f"1 file.s. changed .*{file.name}"):
        driver.prepare(setup, scanning.scan(scanning.find_files([copy]), setup.instrument))


def test_measure_frames__same_label_with_another_aperture_is_refused(data, reference, tmp_path):
    shutil.copytree(reference, tmp_path / STORE_NAME)
    setup = _setup(tmp_path)
    with pytest.raises(StoreError, match="--label NAME"):
        driver.drive(
            driver.Run(setup, executors.InProcess(), photometers={"aperture": AperturePhotometer(radius=4.0)}),
            driver.TO_LIGHT_CURVES,
        )
    driver.drive(
        driver.Run(setup, executors.InProcess(), photometers={"wide": AperturePhotometer(radius=8.0)}),
        driver.TO_LIGHT_CURVES,
    )
    narrow, wide = (results.light_curves(tmp_path, "1:g", label)["flux"].load() for label in ("aperture", "wide"))
    assert (wide > narrow).all()


def test_second_night__is_appended_and_the_catalogue_stays(data, reference, tmp_path):
    later = tmp_path / "later"
    simulate_observations(
        later, n_frames=5, shape=(96, 112), n_sources=6, filters=("g", "r"), flux_range=(4e3, 1e5), fwhm=3.0,
        least_separation=6.0, seed=5, start="2024-01-03T03:00:00",
    )  # fmt: skip
    _reduce(data, tmp_path / "out", executors.InProcess())
    path = _reduce(later, tmp_path / "out", executors.InProcess(), append=True)
    curves = results.light_curves(tmp_path / "out", "1:g").load()
    assert sorted(set(curves["night"].to_numpy())) == ["2023-12-31", "2024-01-02"]
    assert curves.sizes["frame"] == N_FRAMES + 5
    assert np.isfinite(curves["flux"]).all()
    steady = curves["flux"].to_numpy()[:, 0]
    assert abs(np.median(steady[-5:]) / np.median(steady[:-5]) - 1.0) < 0.02
    for group in ("1-g/catalog", "1-g/reference", "1-g/2023-12-31/photometry/aperture"):
        before, now = Group(reference, group).read_all(), Group(path, group).read_all()
        for name in before:
            np.testing.assert_array_equal(before[name], now[name])


def test_frames_per_block__is_a_function_of_shape_and_type():
    assert plan.frames_per_block((512, 512), np.dtype("uint16")) == 64
    assert plan.frames_per_block((512, 512), np.dtype("float64")) == 32
    assert plan.frames_per_block((2048, 2048), np.dtype("uint16")) == 32
    assert plan.frames_per_block((16, 16), np.dtype("uint16")) == 256


@pytest.mark.parametrize(
    ("n_frames", "limit", "expected"), [(10, 0, 10), (10, 256, 10), (10_000, 256, 256), (1, 256, 1)]
)
def test_stack_selection__is_evenly_spaced(n_frames, limit, expected):
    chosen = stack_selection(n_frames, limit)
    assert len(chosen) == expected
    assert chosen[0] == 0
    assert chosen[-1] == n_frames - 1
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


def test_credible_nights__a_wrong_clock_does_not_make_the_reference_night():
    assert plan.credible_nights({"1980-01-05": 1, "2024-01-01": 100, "2024-01-02": 90}) == ["2024-01-01", "2024-01-02"]
    assert plan.credible_nights({"2024-01-01": 1}) == ["2024-01-01"]
    assert plan.credible_nights({"2024-01-01": 5, "2024-01-02": 6}) == ["2024-01-01", "2024-01-02"]


class _StopsAfter(executors.InProcess):
    def __init__(self, n_blocks):
        self.n_blocks = n_blocks

    def run(self, work):
        for number, summary in enumerate(super().run(work)):
            if number == self.n_blocks:
                raise KeyboardInterrupt
            yield summary


def test_measure_frames__blocks_without_a_first_pass_are_left_for_later(data, tmp_path):
    first, later = tmp_path / "first", tmp_path / "later"
    shutil.copytree(data, first)
    simulate_observations(
        later, n_frames=8, shape=(96, 112), n_sources=6, filters=("g", "r"), flux_range=(4e3, 1e5), fwhm=3.0,
        least_separation=6.0, seed=5, start="2024-01-03T03:00:00",
    )  # fmt: skip
    _reduce(first, tmp_path / "out", executors.InProcess())
    setup = _setup(tmp_path / "out", frames_per_block=4)
    found = scanning.scan(scanning.find_files([later]), setup.instrument)
    driver.prepare(setup, found, changes=driver.Changes(append=True))
    with pytest.raises(KeyboardInterrupt):
        driver.drive(driver.Run(setup, _StopsAfter(1)), driver.PASSES[1:2])
    driver.drive(driver.Run(setup, executors.InProcess(), photometers=PHOTOMETERS), driver.TO_LIGHT_CURVES)
    driver.drive(driver.Run(setup, executors.InProcess()), driver.PASSES[1:2])
    driver.drive(driver.Run(setup, executors.InProcess(), photometers=PHOTOMETERS), driver.TO_LIGHT_CURVES)
    curves = results.light_curves(tmp_path / "out", "1:g").load()
    assert np.isfinite(curves["flux"]).all()


def test_prepare__copies_of_reduced_frames_are_refused(data, reference, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    setup = _setup(reference.parent)
    with pytest.raises(driver.ReductionError, match="were reduced before from another place"):
        driver.prepare(setup, scanning.scan(scanning.find_files([tmp_path / "copy"]), setup.instrument))


def test_extend_product__the_frozen_part_is_not_touched(reference, tmp_path):
    shutil.copytree(reference, tmp_path / STORE_NAME)
    path = tmp_path / STORE_NAME
    kept = path / "1-g/reference/alignment_x"
    before = {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    stack = Group(path, "1-g/2023-12-31/stack").read_all()
    Group(path, "1-g/reference", "reference").extend(stack)
    assert before == {file: file.stat().st_mtime_ns for file in kept.rglob("*") if file.is_file()}
    assert integrity.compare(reference, path) == []


@dataclass(frozen=True)
class FailingPhotometer:
    label: str = "failing"

    def measure(self, view):
        raise ZeroDivisionError("no idea")


def test_measure_frames__a_failing_photometer_spoils_only_its_own_result(data, reference, tmp_path):
    shutil.copytree(reference, tmp_path / STORE_NAME)
    setup = _setup(tmp_path)
    both = {"failing": FailingPhotometer(), "again": AperturePhotometer()}
    outcome = driver.drive(driver.Run(setup, executors.InProcess(), photometers=both), driver.TO_LIGHT_CURVES)
    assert "photometer failing: ZeroDivisionError: no idea" in outcome.problems[0][1]
    failing, again, before = (results.light_curves(tmp_path, "1:g", name) for name in ("failing", "again", "aperture"))
    assert failing["flux"].isnull().all()
    assert np.all(failing["flags"].to_numpy() == SourceFlag.REDUCED | SourceFlag.STEP_FAILED)
    np.testing.assert_array_equal(again["flux"], before["flux"])
