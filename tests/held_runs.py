"""A small night whose reduction waits in the middle, for as long as a file is there."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np

from opticam_dask import simulate_observations
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.frames.scanning import FitsReader, find_files, scan
from opticam_dask.methods.photometers import AperturePhotometer
from opticam_dask.parameters import ReductionParameters
from opticam_dask.pipeline import driver

# workers elsewhere cannot import this file: what is defined here goes to them with its code
cloudpickle.register_pickle_by_value(sys.modules[__name__])

N_FRAMES, PER_BLOCK = 24, 4

#: Options of the command line that reduce the night as :func:`reduce` does.
OPTIONS = ["--n-pixels", "5", "--border-width", "4", "--frames-per-block", str(PER_BLOCK)]


@dataclass(frozen=True)
class Reader:
    """Reads frames and says so; waits while a file is there; takes too much memory over one of them."""

    log: str
    hold: str = ""
    greedy: str = ""

    def read(self, path):
        with open(self.log, "a") as log:
            log.write(f"{os.path.basename(path)}\n")
        # the first blocks pass
        if self.hold and len(Path(self.log).read_text().splitlines()) > 2 * PER_BLOCK:
            while os.path.exists(self.hold):
                time.sleep(0.1)
        hoard = []
        while os.path.basename(path) == self.greedy:
            # slower than whoever watches: both a batch system and a rescue look now and then
            hoard.append(np.ones(4_000_000))
            time.sleep(0.1)
        return FitsReader().read(path)


def is_held(reader):
    """Whether so many frames were read that the run waits."""
    return os.path.exists(reader.log) and len(Path(reader.log).read_text().splitlines()) > 2 * PER_BLOCK


def simulate(directory):
    """Write the night."""
    simulate_observations(
        directory, n_frames=N_FRAMES, shape=(96, 112), n_sources=6, filters=("g",), flux_range=(4e3, 1e5),
        fwhm=3.0, least_separation=6.0, seed=5,
    )  # fmt: skip


def reduce(data, out, executor, reader):
    """Reduce the night; the outcome of the first pass."""
    setup = driver.Setup(
        out, OPTICAM_MX(), ReductionParameters(n_pixels=5, border_width=4), frames_per_block=PER_BLOCK, reader=reader
    )
    return reduce_with(setup, data, executor)


def reduce_with(setup, data, executor):
    """Reduce a night as a setup says; the outcome of the first pass."""
    driver.prepare(setup, scan(find_files([data]), setup.instrument))
    outcome = driver.drive(driver.Run(setup, executor), driver.TO_CATALOGS)
    driver.drive(driver.Run(setup, executor, photometers={"aperture": AperturePhotometer()}), driver.TO_LIGHT_CURVES)
    driver.finish(setup)
    return outcome


def until(condition, seconds=120):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
