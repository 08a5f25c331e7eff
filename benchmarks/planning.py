"""Planning of a large run: the store and the work of up to 10^6 frames, before the first one is read.

    python benchmarks/planning.py

The table of frames is made from one header, repeated with other names and times over many nights; what is measured is
all that the client does from there until it could hand out the first block, for a new reduction and for one that is
taken up again. Two more tables: files found and their headers read, from real files; and a plan of 10^6 frames of which
the first 10^4, which are there, run through a scheduler and two workers. Every size runs in a process of its own, whose
largest memory is told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import growth
import numpy as np
import pandas as pd
import processes

FRAMES_PER_NIGHT = 5000
#: Different images among the frames that run.
N_IMAGES = 100


def table(directory: Path, n_frames: int, shape: tuple[int, int] = (512, 512), n_real: int = 0) -> pd.DataFrame:
    """Table of many frames like one that was read; the first ``n_real`` are there as well."""
    from opticam_dask import OPTICAM_MX
    from opticam_dask.frames.scanning import scan

    made = common.write_frames(directory, shape, growth.N_STARS, min(max(1, n_real), N_IMAGES))
    for file in made:
        os.utime(file, (1.7e9, 1.7e9))
    row = scan(made[:1], OPTICAM_MX()).table
    rows = row.loc[row.index.repeat(n_frames)].reset_index(drop=True)
    index = np.arange(n_frames)
    night = index // FRAMES_PER_NIGHT
    rows["file"] = [f"{directory}/{n:04d}/{i:07d}.fits" for n, i in zip(night, index, strict=True)]
    rows["mjd_utc"] += night + (index % FRAMES_PER_NIGHT) * 6.0 / 86400.0
    days = pd.Timestamp(str(row["night"].iloc[0])) + pd.to_timedelta(night, unit="D")
    rows["night"] = days.strftime("%Y-%m-%d").to_numpy(dtype=object)
    for number, file in enumerate(rows["file"][:n_real]):
        Path(file).parent.mkdir(exist_ok=True)
        os.link(made[number % len(made)], file)
    if n_real:  # each image has facts of its own
        real = scan(rows["file"][:n_real], OPTICAM_MX()).table.set_index("file").loc[rows["file"][:n_real]]
        for name in ("file_size", "file_mtime", "file_ctime", "file_checksum"):
            rows.loc[: n_real - 1, name] = real[name].to_numpy()
    return rows


def plan(n_frames: int) -> dict[str, float]:
    """Plan a run, here and now: seconds, largest memory in MB, parts, and tasks of one pass."""
    from opticam_dask import OPTICAM_MX
    from opticam_dask.frames.scanning import Scan
    from opticam_dask.parameters import ReductionParameters
    from opticam_dask.pipeline import driver
    from opticam_dask.store.store import Store

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found = Scan(table(directory / "frames", n_frames), [], [])
        setup = driver.Setup(directory / "out", OPTICAM_MX(), ReductionParameters())
        setup.out_directory.mkdir()
        start, began = time.perf_counter(), time.process_time()
        driver.prepare(setup, found)
        parts = Store(setup.path).camera("1:g").parts
        n_blocks = sum(int(np.count_nonzero(~part.records().done())) for part in parts)
        seconds, processor = time.perf_counter() - start, time.process_time() - began
        files = sum(len(names) for _, _, names in os.walk(setup.path))
        start = time.perf_counter()
        driver.prepare(setup, found)
        again = time.perf_counter() - start
    facts = {"seconds": seconds, "processor": processor, "again": again, "memory": common.peak_memory()}
    return facts | {"parts": len(parts), "tasks": n_blocks, "files": files}


def read_headers(n_frames: int) -> dict[str, float]:
    """Find files and read their headers: seconds of each, and largest memory in MB."""
    from opticam_dask import OPTICAM_MX
    from opticam_dask.frames.scanning import find_files, scan

    with tempfile.TemporaryDirectory() as name:
        night = growth.write_night(Path(name), n_frames)
        before = common.peak_memory()
        moments = [time.perf_counter()]
        files = find_files(night)
        moments.append(time.perf_counter())
        found = scan(files, OPTICAM_MX())
        moments.append(time.perf_counter())
    assert len(found.table) == n_frames, found.set_aside[:3]
    finding, reading = np.diff(moments)
    return {"finding": finding, "reading": reading, "memory": common.peak_memory(), "before": before}


class _Enough(Exception):
    """As many frames have run as were wanted."""


class _SomeBlocks:
    """Runs the blocks of the first frames on a cluster, those that are there."""

    def __init__(self, executor: Any, n_frames: int, frames_per_block: int) -> None:
        self.executor, self.n_frames, self.frames_per_block = executor, n_frames, frames_per_block
        self.first = 0.0

    def run(self, work: Sequence[Any]) -> Iterator[Any]:
        """Run, and stop when it is enough."""
        for key, summary in self.executor.run(list(self._some(work))):
            self.first = self.first or time.perf_counter()
            yield key, summary
        raise _Enough

    def _some(self, work: Sequence[Any]) -> Iterator[Any]:
        left = self.n_frames
        for night in work:
            n_blocks = len(night.blocks) if left >= FRAMES_PER_NIGHT else left // self.frames_per_block
            if n_blocks:
                yield night._replace(blocks=night.blocks[:n_blocks])
            left = max(0, left - FRAMES_PER_NIGHT)


def run_some(n_frames: int, n_run: int) -> dict[str, float]:
    """Survey some nights, plan many more, and measure the frames of the first ones."""
    from opticam_dask import OPTICAM_MX, AperturePhotometer
    from opticam_dask.cluster import executors
    from opticam_dask.frames.scanning import Scan
    from opticam_dask.parameters import ReductionParameters
    from opticam_dask.pipeline import driver
    from opticam_dask.store.store import Store

    with tempfile.TemporaryDirectory() as name, processes.cluster(2) as running:
        directory = Path(name)
        frames = table(directory / "frames", n_frames, (growth.SIDE, growth.SIDE), n_run)
        setup = driver.Setup(directory / "out", OPTICAM_MX(), ReductionParameters())
        setup.out_directory.mkdir()
        executor = executors.OnCluster(running.client)
        driver.prepare(setup, Scan(frames[:n_run], [], []))
        photometers = {"aperture": AperturePhotometer()}
        driver.drive(driver.Run(setup, executor, photometers=photometers), driver.PASSES[:-1])
        moments = [time.perf_counter()]
        driver.prepare(setup, Scan(frames, [], []))
        moments.append(time.perf_counter())
        running.begin()
        some = _SomeBlocks(executor, n_run, Store(setup.path).camera("1:g").parts[0].frames_per_block)
        with contextlib.suppress(_Enough):
            driver.drive(driver.Run(setup, some, photometers=photometers), driver.PASSES[-1:])
        moments += [some.first, time.perf_counter()]
        planning, waiting, running_time = np.diff(moments)
        return {
            "planning": planning,
            "first": waiting,
            "running": running_time,
            "workers": running.worker_seconds() / n_run,
            "scheduler": running.scheduler.seconds() / n_run,
            "client": running.own.seconds(),
            "memory": common.peak_memory(),
            "scheduler memory": running.scheduler.peak,
            "worker memory": running.worker_memory(),
        }


def _rows_of_plans(numbers: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number in numbers:
        found = processes.run_alone(__file__, ["--one", str(number)])
        rows.append(
            {
                "frames": f"{number:,}",
                "nights": found["parts"],
                "seconds": f"{found['seconds']:.1f}",
                "of the processor": f"{found['processor']:.1f}",
                "taken up again, s": f"{found['again']:.1f}",
                "largest memory, MB": f"{found['memory']:.0f}",
                "tasks a pass": found["tasks"],
                "files in the store": found["files"],
            }
        )
    return rows


def _rows_of_headers(numbers: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for number in numbers:
        found = processes.run_alone(__file__, ["--one-scan", str(number)])
        rows.append(
            {
                "files": f"{number:,}",
                "finding them, s": f"{found['finding']:.2f}",
                "reading headers, s": f"{found['reading']:.1f}",
                "ms a file": f"{1e3 * (found['finding'] + found['reading']) / number:.3f}",
                "largest memory, MB": f"{found['memory']:.0f}",
                "before, MB": f"{found['before']:.0f}",
            }
        )
    return rows


def _row_of_run(n_frames: int, n_run: int) -> dict[str, Any]:
    found = processes.run_alone(__file__, ["--one-run", str(n_frames), str(n_run)])
    return {
        "planned": f"{n_frames:,}",
        "run": f"{n_run:,}",
        "planning, s": f"{found['planning']:.1f}",
        "to the first block done, s": f"{found['first']:.1f}",
        "the rest, s": f"{found['running']:.1f}",
        "workers, ms of CPU a frame": f"{1e3 * found['workers']:.2f}",
        "scheduler": f"{1e3 * found['scheduler']:.3f}",
        "client, s of CPU": f"{found['client']:.1f}",
        "client, MB": f"{found['memory']:.0f}",
        "scheduler, MB": f"{found['scheduler memory']:.0f}",
        "largest worker, MB": f"{found['worker memory']:.0f}",
    }


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--headers", type=int, nargs="*", default=[10_000, 100_000], help="files whose headers are read"
    )
    parser.add_argument("--run", type=int, nargs="*", default=[20_000, 10_000, 1_000_000, 10_000], metavar="N",
                        help="pairs: frames planned, frames run")  # fmt: skip
    parser.add_argument("--one", type=int, help="plan so many frames in this process and print what was found")
    parser.add_argument("--one-scan", type=int, help="the same for headers")
    parser.add_argument("--one-run", type=int, nargs=2, help="the same for a plan of which some frames run")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    for asked, measure in ((chosen.one, plan), (chosen.one_scan, read_headers), (chosen.one_run, run_some)):
        if asked:
            print(json.dumps(measure(*asked) if isinstance(asked, list) else measure(asked)))
            return []
    packages = ("opticam-dask", "numpy", "pandas", "zarr", "dask")
    to = None if chosen.no_record else common.RESULTS
    rows = _rows_of_plans(chosen.frames)
    common.record(
        "Planning",
        "python benchmarks/planning.py",
        rows,
        packages,
        "From the table of frames to a store that is ready for its first block: barycentric times, manifests, arrays. "
        "The memory is that of the whole process with the table in it.",
        to=to,
    )
    if chosen.headers:
        common.record(
            "Headers of many files",
            "python benchmarks/planning.py",
            _rows_of_headers(chosen.headers),
            packages,
            "The files lie in the cache of the system. Memory before: that of the process before the files are found.",
            to=to,
        )
    if chosen.run:
        pairs = zip(chosen.run[::2], chosen.run[1::2], strict=True)
        common.record(
            "A large plan of which some frames run",
            "python benchmarks/planning.py",
            [_row_of_run(planned, run) for planned, run in pairs],
            packages,
            f"Nights of frames of {growth.SIDE} x {growth.SIDE} pixels that are surveyed are measured by two workers.",
            to=to,
        )
    return rows


if __name__ == "__main__":
    main()
