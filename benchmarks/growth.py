"""Cost of a frame, and memory, as the number of frames grows: 10^3, 10^4 and 10^5 small frames of one night.

    python benchmarks/growth.py

A scheduler and two workers, each a process of its own, reduce frames to light curves; client, scheduler and workers are
watched. Every size has new processes. The frames have 64 x 64 pixels and 20 stars, so that what is done once a block or
once a frame beside the pixels counts as much as it can. The cost of a frame is given as the slope from one size to the
next, which leaves out what is done once a night, and in processor time, which does not depend on what else the machine
does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import common
import numpy as np
import processes

SIDE, N_STARS, N_WORKERS = 64, 12, 2
#: Different images; all other frames repeat their pixels, with a time of their own.
N_IMAGES = 200
_CADENCE = 0.2


def write_night(directory: Path, n_frames: int) -> Path:
    """Directory with many small frames of one night; made fast, from the bytes of a few."""
    made = common.write_frames(directory / "made", (SIDE, SIDE), N_STARS, min(N_IMAGES, n_frames))
    contents = [path.read_bytes() for path in made]
    places = [re.search(rb"UT      = '([^']*)'", content) for content in contents]
    start = datetime(2024, 1, 1, 20, tzinfo=UTC)
    night = directory / "night"
    for index in range(n_frames):
        content, place = contents[index % len(contents)], places[index % len(contents)]
        moment = start + timedelta(seconds=_CADENCE * index)
        text = f"{moment:%Y-%m-%d %H:%M:%S.%f}"[:-3].encode()
        folder = night / f"{index // 10_000:02d}"
        if index % 10_000 == 0:
            folder.mkdir(parents=True)
        with (folder / f"g{index:07d}.fits").open("wb", buffering=0) as stream:
            stream.write(content[: place.start(1)] + text + content[place.end(1) :])
    return night


def reduce_night(directory: Path, out: Path, cluster: processes.Cluster) -> dict[str, float]:
    """Reduce a night; seconds of each stage."""
    from opticam_dask import AperturePhotometer, Reducer

    moments = [time.perf_counter()]
    reducer = Reducer(out, directory, client=cluster.client, show_plots=False, verbose=False)
    moments.append(time.perf_counter())
    reducer.create_catalogs()
    moments.append(time.perf_counter())
    reducer.photometry(AperturePhotometer())
    moments.append(time.perf_counter())
    scan, first, second = np.diff(moments)
    return {"scan": scan, "first pass": first, "second pass": second}


def measure(n_frames: int) -> dict[str, float]:
    """Reduce so many frames, here and now, and say what it took."""
    place = os.environ.get("OPTICAM_DASK_BENCHMARK_DIRECTORY")
    with tempfile.TemporaryDirectory(dir=place) as name, processes.cluster(N_WORKERS) as cluster:
        directory = Path(name)
        warm = write_night(directory / "few", 16)
        reduce_night(warm, directory / "warm", cluster)  # the workers import what they need
        shutil.rmtree(directory / "warm")
        night = write_night(directory, n_frames)
        cluster.begin()
        start = time.perf_counter()
        stages = reduce_night(night, directory / "out", cluster)
        seconds = time.perf_counter() - start
        files = [path for path in (directory / "out").rglob("*") if path.is_file()]
        n_store = sum("reduction.zarr" in path.parts for path in files)
        return {
            "frames": n_frames,
            "seconds": seconds,
            **{f"seconds, {stage}": value for stage, value in stages.items()},
            "workers, s": cluster.worker_seconds(),
            "scheduler, s": cluster.scheduler.seconds(),
            "client, s": cluster.own.seconds(),
            "worker, MB": cluster.worker_memory(),
            "scheduler, MB": cluster.scheduler.peak,
            "client, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
            "files": len(files),
            "files in the store": n_store,
            "bytes": sum(path.stat().st_size for path in files),
            "tasks": _n_blocks(directory / "out"),
        }


def _n_blocks(out: Path) -> int:
    """Tasks of both passes: one a block."""
    from opticam_dask.store.store import Store

    path = Store.open(out).path
    return 2 * sum(part.n_blocks for camera in Store(path).cameras for part in camera.parts)


def _slope(name: str, found: dict[str, float], before: dict[str, float] | None) -> float:
    """Milliseconds a frame, from one size to the next; of the smallest size as a whole."""
    if before is None:
        return 1e3 * found[name] / found["frames"]
    return 1e3 * (found[name] - before[name]) / (found["frames"] - before["frames"])


def rows_of(measured: list[dict[str, float]]) -> list[dict[str, str]]:
    """The table."""
    rows = []
    for before, found in zip([None, *measured], measured, strict=False):
        parts = ("workers, s", "scheduler, s", "client, s")
        slopes = {name: _slope(name, found, before) for name in ("seconds", *parts)}
        rows.append(
            {
                "frames": f"{found['frames']:,}",
                "seconds": f"{found['seconds']:.1f}",
                "ms a frame in all": f"{1e3 * found['seconds'] / found['frames']:.2f}",
                "ms a further frame": f"{slopes['seconds']:.2f}" if before else "",
                "workers, ms of CPU": f"{slopes['workers, s']:.2f}",
                "scheduler": f"{slopes['scheduler, s']:.3f}",
                "client": f"{slopes['client, s']:.3f}",
                "largest worker, MB": f"{found['worker, MB']:.0f}",
                "scheduler, MB": f"{found['scheduler, MB']:.0f}",
                "client, MB": f"{found['client, MB']:.0f}",
                "files written": f"{found['files']:,.0f}",
                "tasks": f"{found['tasks']:,.0f}",
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--one", type=int, help="reduce so many in this process and print what was found")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(measure(chosen.one)))
        return []
    measured = []
    for number in chosen.frames:
        measured.append(processes.run_alone(__file__, ["--one", str(number)]))
        print(json.dumps(measured[-1]), flush=True)
    rows = rows_of(measured)
    common.record(
        f"Growing number of frames ({SIDE} x {SIDE} pixels, {N_WORKERS} workers)",
        "python benchmarks/growth.py",
        rows,
        ("opticam-dask", "dask", "distributed", "zarr", "numpy"),
        "From headers to light curves, catalogues and plots. A further frame: slope from the size above. CPU per "
        "frame is the slope as well, in the first row all of it.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
