"""Cost of the steps against the durable run on the same frames, processor time of one process, in one call.

python benchmarks/steps.py --size 512 --frames 96
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import dask
from common import write_frames

import opticam_dask as opticam


def by_steps(frames: Path) -> int:
    """Light curves by the steps; the number of fluxes."""
    ds = opticam.detect(opticam.background(opticam.calibrate(opticam.open_frames(frames, key="1:g"))))
    ref = opticam.reference(ds).load()
    ds = opticam.align(ds, ref)
    return opticam.photometry(ds, opticam.catalog(opticam.stack(ds, ref)))["flux"].compute().size


def by_the_durable_run(frames: Path, out: Path) -> int:
    """Light curves by the durable run; the number of fluxes."""
    reducer = opticam.Reducer(out, frames, client="none", show_plots=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry(opticam.AperturePhotometer())
    return opticam.light_curves(out, "1:g")["flux"].size


def main() -> None:
    """Time both, the durable run first: what is imported for it is there for both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of a frame, pixels")
    parser.add_argument("--frames", type=int, default=96)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
        frames = Path(folder, "frames")
        write_frames(frames, (chosen.size, chosen.size), 100, chosen.frames)
        took = []
        for run in (lambda: by_the_durable_run(frames, Path(folder, "out")), lambda: by_steps(frames)):
            start = time.process_time()
            n_fluxes = run()
            took.append(time.process_time() - start)
            print(f"{n_fluxes} fluxes, {took[-1]:.1f} s, {1e3 * took[-1] / chosen.frames:.0f} ms a frame")
        print(f"steps cost {took[1] / took[0]:.2f} of the durable run")


if __name__ == "__main__":
    main()
