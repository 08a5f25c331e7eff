"""The driver: one function takes a run through its passes, whoever calls it, and a further pass is one more object."""

from __future__ import annotations

import functools
import json

import pytest

from opticam_dask import OPTICAM_MX, AperturePhotometer, simulate_observations
from opticam_dask.api.jobs import planned_run
from opticam_dask.cluster.executors import InProcess, Work
from opticam_dask.frames.scanning import find_files, scan
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.run import BlockPass, Pass
from opticam_dask.steps.frame_steps import BlockSummary
from opticam_dask.store import ownership
from opticam_dask.store.store import Store

#: Frames of a camera, and of a block: three blocks, the last of which is not full.
N_FRAMES, PER_BLOCK = 10, 4


class Notes(driver.Silent):
    """Keeps what it is told of progress."""

    def __init__(self):
        self.stages, self.n_frames = [], 0

    def begin(self, stage, total, unit="frames"):
        if total:
            self.stages.append((stage, total))

    def advance(self, n_frames):
        self.n_frames += n_frames


class Counting(BlockPass):
    """A pass that says in which order it is asked for what, and finds the blocks undone that it has not seen."""

    name, title = "counting", "Counting frames"

    def __init__(self, left_out=()):
        self.calls, self.done, self.left_out = [], set(), left_out

    def is_ready(self, run, camera):
        return camera.key not in self.left_out

    def undone(self, run, part, among=None):
        return [block for block in among or range(part.n_blocks) if (part.key, block) not in self.done]

    def tasks(self, run, part, todo):
        self.done |= {(part.key, block) for block in todo}
        self.calls.append(("work", part.key, list(todo)))
        return Work(functools.partial(_count, part), todo)

    def finish_part(self, run, part, *, is_new):
        self.calls.append(("finish", part.key, is_new))

    def finish(self, run):
        self.calls.append("finish")


def _count(part, block):
    start, stop = part.block_range(block)
    return part.key, BlockSummary(block, stop - start)


@pytest.fixture
def run(prepared):
    return driver.Run(prepared, InProcess(), Notes())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store of two cameras of which nothing is reduced."""
    top = tmp_path_factory.mktemp("night")
    simulate_observations(top / "frames", n_frames=N_FRAMES, shape=(48, 48), n_sources=1, filters=("g", "r"), seed=3)
    setup = driver.Setup(top / "out", OPTICAM_MX(), ReductionParameters(), frames_per_block=PER_BLOCK)
    driver.prepare(setup, scan(find_files([top / "frames"]), setup.instrument))
    return setup


def test_drive__does_what_is_undone_of_each_pass_and_finishes_it_before_the_next(run):
    first, second = Counting(), Counting(left_out=("2:r",))
    order = []
    first.finish = lambda run: order.append("first")
    second.finish = lambda run: order.append("second")
    first.done.add(("1:g", 1))
    outcome = driver.drive(run, [first, second])
    assert first.calls == [("work", "1:g", [0, 2]), ("work", "2:r", [0, 1, 2]), ("finish", "1:g", True),
                           ("finish", "2:r", True)]  # fmt: skip
    assert second.calls == [("work", "1:g", [0, 1, 2]), ("finish", "1:g", True)]
    assert order == ["first", "second"]
    # progress counts frames, and the outcome is that of the last pass
    assert run.progress.stages == [("Counting frames", 2 * N_FRAMES - PER_BLOCK), ("Counting frames", N_FRAMES)]
    assert run.progress.n_frames == 3 * N_FRAMES - PER_BLOCK
    assert outcome.n_frames == {"1:g": N_FRAMES}
    # the same call again has nothing to do, and says so to nobody
    again = driver.drive(run, [first])
    assert first.calls[-2:] == [("finish", "1:g", False), ("finish", "2:r", False)]
    assert again.n_frames == {}
    assert len(run.progress.stages) == 2


def test_drive__the_share_of_a_job_is_those_units_alone_and_no_finish(run):
    one = Counting()
    [green] = Store(run.setup.path).camera("1:g").parts
    [red] = Store(run.setup.path).camera("2:r").parts
    driver.drive(run, [one], [(green, range(1, 3)), (red, range(1))])
    assert one.calls == [("work", "1:g", [1, 2]), ("work", "2:r", [0])]
    assert [units for _, units in driver.undone(run, one)] == [[0], [1, 2]]


def test_drive__a_pass_without_units_is_its_finish(run):
    seen = []

    class Whole(Pass):
        name = "everything at once"

        def finish(self, run):
            seen.append(run)

    assert driver.drive(run, [Whole()]).n_frames == {}
    assert seen == [run]


def test_while_owned__looks_at_the_owner_at_the_start_and_at_the_end_not_at_each_block(run, monkeypatch):
    looks = []
    monkeypatch.setattr(run, "check_owner", lambda: looks.append(1))
    assert list(run.while_owned(range(500))) == list(range(500))
    assert len(looks) == 2


def test_while_owned__whoever_lost_the_directory_after_the_first_look_learns_it_at_the_end(run):
    out, done = run.setup.out_directory, []

    def blocks():
        for block in range(3):
            done.append(block)
            yield block
            (out / ownership.OWNER_NAME).write_text(json.dumps({"token": "another"}))

    with ownership.own(out), pytest.raises(ownership.OwnershipLost, match="taken over"):
        list(run.while_owned(blocks()))
    assert done == [0, 1, 2]


def test_passes__stand_in_one_list_with_what_plan_and_status_say_of_them():
    assert driver.TO_CATALOGS + driver.TO_LIGHT_CURVES == driver.PASSES
    assert [one.unit for one in driver.PASSES] == [None, "block", "part", "block"]
    assert len({one.name for one in driver.PASSES}) == len(driver.PASSES)
    assert all(one.title for one in driver.PASSES if one.unit)


class Told(driver.Silent):
    """Knows whether a stage, which a person sees as a bar, is open."""

    def __init__(self):
        self.sizes = []

    def begin(self, stage, total, unit="frames"):
        self.sizes.append(total)

    def end(self):
        self.sizes.pop()


class Watched(InProcess):
    """Keeps the names of tasks that ran while no bar was shown."""

    def __init__(self, progress):
        super().__init__()
        self.progress, self.unseen = progress, []

    def run(self, work):
        work = list(work)
        if not any(self.progress.sizes):
            self.unseen += [one.name for one in work if len(one.blocks)]
        yield from super().run(work)


def test_drive__whatever_tasks_do_is_seen_as_a_bar(tmp_path):
    # the catalogue of a large crowded frame took a quarter of a minute, of which a terminal showed nothing
    simulate_observations(tmp_path / "frames", n_frames=12, shape=(96, 96), n_sources=4, filters=("g", "r"), seed=3)
    setup = driver.Setup(tmp_path / "out", OPTICAM_MX(), ReductionParameters())
    driver.prepare(setup, scan(find_files([tmp_path / "frames"]), setup.instrument))
    watched = Watched(Told())
    driver.drive(driver.Run(setup, watched, watched.progress, {"aperture": AperturePhotometer()}))
    assert setup.store.camera("2:r").parts[0].quality.is_whole
    assert watched.unseen == []


def test_planned_run__numbers_the_units_of_whatever_passes_there_are(tmp_path, monkeypatch):
    class OfParts(Pass):
        name, unit = "survey", "part"

    monkeypatch.setattr(planned_run, "PASSES", (OfParts(), Counting()))
    parts = tuple(planned_run.PartOfRun("1:g", night, night, 3, 9) for night in ("a", "b"))
    run = planned_run.PlannedRun(tmp_path, "token", "now", parts, {}, {}, 300.0, "local", 1, 5)
    assert [run.n_units(number) for number in (0, 1)] == [2, 6]
    assert [run.units_per_job(number) for number in (0, 1)] == [1, 5]
    assert run.cut(0, range(1, 2)) == [(parts[1], range(1))]
    assert run.cut(1, range(2, 5)) == [(parts[0], range(2, 3)), (parts[1], range(2))]
