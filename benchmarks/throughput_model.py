"""How many workers are of use: a model of the throughput from the measured costs of tasks, scheduler and client.

    python benchmarks/throughput_model.py

Measured, with client, scheduler and workers as processes of their own:

* the work of a frame in the measuring pass, on one worker, and the bytes that are read and written for it (the survey
  takes a limited number of frames of a night);
* the processor time of scheduler and client for a block, from many blocks that do nothing, through the window that two
  hundred workers have; graphs, submission, summaries, owner and progress are in it;
* everything else that ``Reducer`` does for a frame: the plan by the client, headers (as of more than 32,768 files) and
  the files of light curves by all workers, the quality of a night and each figure by one worker.

The pass over frames of ``B`` a block on ``W`` workers takes ``max(work / W, scheduler / B, client / B)`` a frame; what
is done beside it is added, with the nights of three cameras at a time. Scheduler and client each use one core, whatever
the number of workers: where one of them needs longer than the workers, it is the limit. The model is held against 1, 2
and 4 workers. The frames are a few hundred different ones under many names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import common
import numpy as np
import processes

from opticam_dask import AperturePhotometer
from opticam_dask.cluster import executors
from opticam_dask.display import run_files
from opticam_dask.frames import scanning
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.lightcurves import light_curve_files
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes import quality
from opticam_dask.pipeline import driver, plan
from opticam_dask.pipeline.run import guarded_work
from opticam_dask.steps.frame_steps import BlockSummary
from opticam_dask.store import ownership
from opticam_dask.store.store import Store

#: Numbers of frames for the slopes, by side: whole blocks, and enough that what is done once a night is the same in
#: both (plots have pixels instead of paths from 2000 points on).
FRAMES = {256: (2560, 8192), 512: (2304, 6400), 1024: (2240, 4480), 2048: (2112, 4224)}
#: Rounds of what is done beside the pass over all frames, which takes a fraction of a second.
ROUNDS = 5
#: Frames of the first round, which is for imports.
FEW = 64
#: Different frames among them.
N_IMAGES = 192
#: Measurements that the ensemble of the transparency is fit to here: as many for both numbers of frames.
_SAMPLE_CELLS = 16_384
#: Workers whose window the short blocks go through, and whose throughput is in the table.
MANY = 200
#: What is done beside the pass over all frames, and the cameras whose nights are worked on at the same time.
BESIDE = ("headers", "plan", "quality", "figures", "light curves")
N_CAMERAS = 3


@dataclass
class Spent:
    """Seconds of a stage: by the clock, of client, scheduler and all workers; bytes that these read and wrote."""

    clock: float = 0.0
    client: float = 0.0
    scheduler: float = 0.0
    workers: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def slope(self, more: Spent, n_frames: int) -> Spent:
        """What one frame costs, from a run with ``n_frames`` more frames."""
        pairs = zip(vars(self).values(), vars(more).values(), strict=True)
        return Spent(*(max(0.0, after - before) / n_frames for before, after in pairs))

    def without_waiting(self, idle: Spent) -> Spent:
        """The same without what processes spend while they wait: with more workers they wait less."""
        waited = self.clock / idle.clock
        busy = {name: max(0.0, value - waited * getattr(idle, name)) for name, value in vars(self).items()}
        return replace(self, client=busy["client"], scheduler=busy["scheduler"], workers=busy["workers"])


def _spend(running: processes.Cluster, what: object) -> Spent:
    before = [worker.process.io_counters() for worker in running.workers]
    running.begin()
    start = time.perf_counter()
    what()
    clock = time.perf_counter() - start
    after = [worker.process.io_counters() for worker in running.workers]
    read = sum(b.read_chars - a.read_chars for a, b in zip(before, after, strict=True))
    written = sum(b.write_chars - a.write_chars for a, b in zip(before, after, strict=True))
    return Spent(clock, running.own.seconds(), running.scheduler.seconds(), running.worker_seconds(), read, written)


def _window_of(n_workers: int, running: processes.Cluster) -> AbstractContextManager[object]:
    """As many blocks under way as many workers have."""
    of_each = executors.BLOCKS_PER_WORKER * n_workers // len(running.workers)
    return mock.patch.object(executors, "BLOCKS_PER_WORKER", of_each)


def _median_of_rounds(running: processes.Cluster, what: object, before: object = lambda: None) -> Spent:
    """What something costs that takes a fraction of a second: medians of rounds, without what makes each ready.

    Tasks go through the window of many workers: in small ones each costs the client ten times as much.
    """
    rounds = []
    for _ in range(ROUNDS):
        before()
        with _window_of(MANY, running):
            rounds.append(_spend(running, what))
    return Spent(*(float(np.median(values)) for values in zip(*(vars(one).values() for one in rounds), strict=True)))


def reduce_frames(directory: Path, out: Path, running: processes.Cluster) -> dict[str, Spent]:
    """Reduce a directory, stage by stage."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    executor = executors.OnCluster(running.client)
    # the stack and the star profile take a limited number of frames of a night: few here, so that they leave the slope
    setup = driver.Setup(out, OPTICAM_MX(), ReductionParameters(stack_frames=2))
    run = driver.Run(setup, executor, photometers={"aperture": AperturePhotometer()})
    spent = {}

    found = []

    def read_headers() -> None:
        with mock.patch.object(scanning, "MANY_FILES", 0):  # so few headers the client would read itself
            found[:] = [scanning.scan(scanning.find_files(directory), setup.instrument, executor=executor)]

    def forget_plan() -> None:
        shutil.rmtree(setup.path, ignore_errors=True)

    def forget_figures() -> None:
        for name in ("diag", "cat"):
            shutil.rmtree(out / name, ignore_errors=True)

    def draw() -> None:
        times = {key: rows["mjd_utc"].to_numpy() for key, rows in found[0].table.groupby("key")}
        files = [run_files.of_headers(times), *run_files.OF_FRAMES, *run_files.of_photometry(out, ["aperture"])]
        run_files.write_run_files(out, files, executor, driver.Silent())

    def forget_quality() -> None:
        for key in Store(setup.path).keys:
            for part in Store(setup.path).camera(key).parts:
                part.quality.remove()

    spent["headers"] = _median_of_rounds(running, read_headers)
    with ownership.own(out):
        spent["plan"] = _median_of_rounds(running, partial(driver.prepare, setup, found[0]), forget_plan)
        references, alignment, profiles, photometry = ([one] for one in driver.PASSES)
        driver.drive(run, references)
        driver.drive(run, alignment)
        driver.drive(run, profiles)
        spent["pass"] = _spend(running, partial(driver.drive, run, photometry))
        spent["quality"] = _median_of_rounds(running, partial(driver.PASSES[-1].finish, run), forget_quality)
        driver.finish(setup)
    spent["figures"] = _median_of_rounds(running, draw, forget_figures)
    write = partial(light_curve_files.write_light_curves, out, "aperture", executor)
    spent["light curves"] = _median_of_rounds(running, write)
    return spent


def cost_of_frames(directory: Path, numbers: tuple[int, int], running: processes.Cluster) -> dict[str, Spent]:
    """What a frame costs in each stage, as slopes over two numbers of frames."""
    found = []
    running.client.run(partial(setattr, quality, "_SAMPLE_CELLS", _SAMPLE_CELLS))
    images = sorted((directory / "frames").iterdir())
    for number in (min(FEW, numbers[0]), *numbers):
        folder = directory / f"first_{number}"
        if not folder.exists():
            folder.mkdir()
            for index in range(number):
                image = images[index % len(images)]
                # in the order of their times, as the names of an instrument are
                (folder / f"{image.stem}_{index // len(images):04d}.fits").hardlink_to(image)
        found.append(reduce_frames(folder, directory / "out", running))
    idle = _spend(running, partial(time.sleep, 3.0))
    few, many = ({name: spent.without_waiting(idle) for name, spent in stages.items()} for stages in found[1:])
    return {name: few[name].slope(many[name], numbers[1] - numbers[0]) for name in few}


# ---------------------------------------------------------------- blocks that do nothing


def _nothing(block: int, lost: object = None) -> BlockSummary:
    return BlockSummary(block, 8)


def _try_nothing(block: int, index: int) -> None:
    pass


def _eight(block: int) -> int:
    return 8


def run_short_blocks(out: Path, n_blocks: int, running: processes.Cluster) -> None:
    """Blocks that do nothing, handled as those of a pass are."""
    executor, outcome, progress = executors.OnCluster(running.client), driver.Outcome(), driver.Silent()
    run = driver.Run(driver.Setup(out, OPTICAM_MX(), ReductionParameters()), executor)
    work = [guarded_work("1:g", "reduce", _nothing, range(n_blocks), _try_nothing, _eight)]
    with _window_of(MANY, running):
        for key, summary in run.while_owned(executor.run(work)):
            outcome.add(key, summary)
            progress.advance(summary.n_frames)
    assert outcome.n_frames["1:g"] == 8 * n_blocks


def cost_of_blocks(directory: Path, n_blocks: int, running: processes.Cluster) -> Spent:
    """What scheduler and client need for one block; what they need to be idle is taken off."""
    out = directory / "owned"
    out.mkdir()
    idle = _spend(running, partial(time.sleep, 3.0))
    with ownership.own(out):
        run_short_blocks(out, executors.BLOCKS_PER_WORKER * MANY, running)
        spent = _spend(running, partial(run_short_blocks, out, n_blocks, running))
    busy = spent.without_waiting(idle)
    return Spent(*(value / n_blocks for value in vars(busy).values()))


# ---------------------------------------------------------------- the model


@dataclass
class Model:
    """Throughput of a run.

    Attributes
    ----------
    work : float
        Seconds of a frame on one worker.
    per_block : int
    scheduler, client : float
        Seconds for one block.
    beside : float
        Seconds of the client for one frame, beside the pass.
    shared : float
        Seconds of work beside the pass that all workers share.
    nightly : float
        Seconds of work for one frame of which each camera and night, or each figure, is one task.
    """

    work: float
    per_block: int
    scheduler: float
    client: float
    beside: float = 0.0
    shared: float = 0.0
    nightly: float = 0.0

    def seconds(self, n_workers: float) -> float:
        """Seconds a frame in a whole run."""
        least = max(self.scheduler, self.client) / self.per_block
        of_nights = self.nightly / min(n_workers, N_CAMERAS)
        return max(self.work / n_workers, least) + self.shared / n_workers + of_nights + self.beside

    def limit_of_run(self) -> float:
        """Workers that take as long for all they share as the client and the nightly tasks for the rest."""
        alone = self.client / self.per_block + self.nightly / N_CAMERAS + self.beside
        return (self.work + self.shared) / alone

    def limit(self, part: str) -> float:
        """Workers from which scheduler or client needs as long for the pass as the workers do."""
        return self.work * self.per_block / float(getattr(self, part))


def _model(side: int, frames: dict[str, Spent], block: Spent) -> Model:
    return Model(
        work=frames["pass"].workers,
        per_block=plan.frames_per_block((side, side), np.dtype("uint16")),
        scheduler=block.scheduler,
        client=block.client,
        beside=sum(frames[name].client for name in BESIDE),
        shared=frames["headers"].workers + frames["light curves"].workers,
        nightly=frames["quality"].workers + frames["figures"].workers,
    )


def rows_of_model(measured: dict[int, dict[str, Spent]], block: Spent) -> list[dict[str, str]]:
    """The table of limits."""
    rows = []
    for side, frames in measured.items():
        model = _model(side, frames, block)
        read, written = frames["pass"].read, frames["pass"].written
        rate = 1.0 / model.seconds(MANY)
        overhead = (block.scheduler + block.client) / model.per_block / model.work
        one_gigabyte = 1e9 / (read + written) * model.work
        rows.append(
            {
                "frames": f"{side} x {side}, {common.n_stars(side)} stars",
                "frames a block": model.per_block,
                "work, ms a frame": f"{1e3 * model.work:.2f}",
                "frames/s a core": f"{1.0 / model.work:.1f}",
                "beside, ms a frame: client": f"{1e3 * model.beside:.3f}",
                "all workers": f"{1e3 * model.shared:.2f}",
                "one worker": f"{1e3 * model.nightly:.3f}",
                "scheduler and client, of the work": f"{100.0 * overhead:.1f} %",
                "workers until the scheduler is the limit": f"{model.limit('scheduler'):.0f}",
                "the client": f"{model.limit('client'):.0f}",
                "the client, in a whole run": f"{model.limit_of_run():.0f}",
                "workers that 1 GB/s feeds": f"{one_gigabyte:.0f}",
                f"frames/s of {MANY} workers": f"{rate:.0f}",
                "file system then, MB/s read + written": f"{rate * read / 1e6:.0f} + {rate * written / 1e6:.0f}",
            }
        )
    return rows


def _split(measured: dict[int, dict[str, Spent]]) -> str:
    """What the client does beside the pass, by stage."""
    parts = [
        f"{side} x {side}: " + ", ".join(f"{name} {1e3 * frames[name].client:.3f}" for name in BESIDE)
        for side, frames in measured.items()
    ]
    return f"Of the client beside the pass, ms a frame: {'; '.join(parts)}."


def check(
    side: int, directory: Path, numbers: tuple[int, int], workers: list[int], frames: dict[str, Spent], block: Spent
) -> list[dict[str, str]]:
    """Throughput measured and foretold, for numbers of workers; a machine has no more than its cores."""
    model = _model(side, frames, block)
    rows = []
    for n_workers in workers:
        with processes.cluster(n_workers) as running:
            found = cost_of_frames(directory, numbers, running)
        seconds = found["pass"].clock
        alone = replace(model, beside=0.0, shared=0.0, nightly=0.0)
        foretold = alone.seconds(min(n_workers, os.cpu_count() or 1))
        rows.append(
            {
                "frames": f"{side} x {side}",
                "workers": n_workers,
                "cores": os.cpu_count(),
                "measured, ms a frame": f"{1e3 * seconds:.2f}",
                "model": f"{1e3 * foretold:.2f}",
                "ratio": f"{seconds / foretold:.2f}",
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--frames", type=int, nargs=2, action="append", help="numbers of frames, for each side")
    parser.add_argument("--blocks", type=int, default=4000, help="blocks that do nothing")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="the model is checked at these")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    numbers = dict(zip(chosen.sides, chosen.frames or [FRAMES[side] for side in chosen.sides], strict=True))
    packages = ("opticam-dask", "dask", "distributed", "zarr", "numpy")
    to = None if chosen.no_record else common.RESULTS
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with processes.cluster(2) as running:
            block = cost_of_blocks(directory, chosen.blocks, running)
        measured = {}
        for side, (few, many) in numbers.items():
            n_images = min(many, N_IMAGES)
            common.write_frames(directory / f"{side}" / "frames", (side, side), common.n_stars(side), n_images)
            with processes.cluster(1) as running:
                measured[side] = cost_of_frames(directory / f"{side}", (few, many), running)
        rows = rows_of_model(measured, block)
        common.record(
            "Throughput and numbers of workers",
            "python benchmarks/throughput_model.py",
            rows,
            packages,
            f"A block costs the scheduler {1e3 * block.scheduler:.2f} ms, the client {1e3 * block.client:.2f} ms and "
            f"its worker {1e3 * block.workers:.2f} ms of processor time beside the work. Bytes are those of all "
            "reads and writes of the workers, store and frames. " + _split(measured),
            to=to,
        )
        side = chosen.sides[0]
        checked = check(side, directory / f"{side}", numbers[side], chosen.workers, measured[side], block)
    common.record(
        "Throughput as the model foretells it",
        "python benchmarks/throughput_model.py",
        checked,
        packages,
        "Pass over all frames, slopes by the clock. More workers than cores share them.",
        to=to,
    )
    return rows + checked


if __name__ == "__main__":
    main()
