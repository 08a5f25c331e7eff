"""Cost of the steps against the durable run on the same frames, processor time of one process, in one call.

Once with `persist` after `align`, and once as written down without it.

python benchmarks/steps.py --size 512 --frames 16 80

The cost of a frame is the slope between both numbers of frames: imports, reference frame and star profile are in both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import dask
from common import write_frames

import opticam_dask as opticam

#: The two ways.
STEPS = ("steps", "persisted steps")


def by_steps(frames: Path, *, persist: bool) -> int:
    """Light curves by the steps, computed in one go; the number of fluxes."""
    ds = opticam.detect(opticam.background(opticam.calibrate(opticam.open_frames(frames, key="1:g"))))
    ref = opticam.reference(ds)
    ds = opticam.align(ds, ref)
    ds = opticam.persist(ds) if persist else ds
    return int(opticam.photometry(ds, opticam.catalog(opticam.stack(ds, ref)))["flux"].notnull().sum())


def by_the_durable_run(frames: Path, out: Path) -> int:
    """Light curves by the durable run; the number of fluxes."""
    reducer = opticam.Reducer(out, frames, client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(opticam.AperturePhotometer())
    return int(opticam.light_curves(out, "1:g")["flux"].notnull().sum())


def seconds(run: Callable[[], int]) -> tuple[float, int]:
    """Processor time of a run, and what it gives."""
    start = time.process_time()
    given = run()
    return time.process_time() - start, given


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Time both, one after the other for each number of frames; the first run, which imports, is not counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="side of a frame, pixels")
    parser.add_argument("--frames", type=int, nargs=2, default=(16, 80), help="two numbers of frames")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, of which the fastest counts")
    chosen = parser.parse_args(arguments)
    took: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        few = Path(folder, "warm")
        write_frames(few, (chosen.size, chosen.size), 100, 6)
        by_the_durable_run(few, Path(folder, "warm_out"))
        by_steps(few, persist=False)
        for number in chosen.frames:
            frames = Path(folder, f"frames{number}")
            write_frames(frames, (chosen.size, chosen.size), 100, number)
            for turn in range(chosen.rounds):
                out = Path(folder, f"out{number}_{turn}")
                durable, n_durable = seconds(lambda out=out, frames=frames: by_the_durable_run(frames, out))  # type: ignore[misc]
                found = {"durable": durable}
                for name in STEPS:
                    run = partial(by_steps, frames, persist=name == "persisted steps")
                    found[name], n_steps = seconds(run)
                    assert n_steps == n_durable, "both measure the same sources"
                for name, value in found.items():
                    took[name, number] = min(value, took.get((name, number), value))
    first, last = chosen.frames
    slopes = {name: (took[name, last] - took[name, first]) / (last - first) for name in ("durable", *STEPS)}
    for name, slope in slopes.items():
        ends = ", ".join(f"{took[name, number]:.1f} s for {number}" for number in (first, last))
        print(f"{name}: {1e3 * slope:.1f} ms a frame; {ends}")
    ratios = {name: slopes[name] / slopes["durable"] for name in STEPS}
    for name, ratio in ratios.items():
        whole = took[name, last] / took["durable", last]
        print(f"{name} cost {ratio:.2f} of the durable run a frame, {whole:.2f} of the whole run of {last} frames")
    return ratios


if __name__ == "__main__":
    main()
