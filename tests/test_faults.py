"""Faults inside a run: workers that die, hang or lose their disk, and frames that do this to them."""

from __future__ import annotations

import collections
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

from opticam_dask import cluster, pipeline, results, simulate_observations, store
from opticam_dask.config import ReductionParameters
from opticam_dask.flags import FrameFlag
from opticam_dask.frames import FitsReader, find_files, scan
from opticam_dask.instruments import OPTICAM_MX
from opticam_dask.photometers import AperturePhotometer

N_FRAMES, PER_BLOCK = 24, 8
MEMORY = 600_000_000


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _hang():
    # in C code that holds the interpreter's lock: no Python timer could end it
    import ctypes

    ctypes.PyDLL(None).sleep(3600)


def _eat_memory():
    hoard = []
    while True:
        hoard.append(np.ones(4_000_000))
        time.sleep(0.02)


HARM = {"dies": _die, "hangs": _hang, "eats memory": _eat_memory}


@dataclass(frozen=True)
class PoisonedReader:
    """Reads frames; one of them harms the process that reads it, once for good or only the first times."""

    name: str
    harm: str
    log: str

    def read(self, path):
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{os.path.basename(path)}\n".encode())
        os.close(handle)
        if os.path.basename(path) == self.name:
            HARM[self.harm]()
        return FitsReader().read(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    simulate_observations(
        directory, n_frames=N_FRAMES, shape=(96, 112), n_sources=6, filters=("g",), flux_range=(4e3, 1e5),
        fwhm=3.0, least_separation=6.0, seed=5,
    )  # fmt: skip
    return directory


def _setup(out, **options):
    parameters = ReductionParameters(n_pixels=5, border_width=4)
    return pipeline.Setup(out, OPTICAM_MX(), parameters, frames_per_block=PER_BLOCK, **options)


def _reduce(setup, data, executor):
    pipeline.prepare(setup, scan(find_files([data]), setup.instrument))
    pipeline.choose_references(setup, executor)
    outcome = pipeline.reduce_frames(setup, executor)
    pipeline.measure_frames(setup, {"aperture": AperturePhotometer()}, executor)
    pipeline.finish(setup)
    return outcome


@pytest.mark.parametrize("harm", HARM)
def test_poisoned_frame__is_set_aside_by_name_and_everything_else_is_reduced(data, tmp_path, harm):
    poisoned = sorted(file.name for file in data.glob("*.fits"))[13]
    log = tmp_path / "reads"
    setup = _setup(tmp_path / "out", reader=PoisonedReader(poisoned, harm, str(log)))
    with cluster.local_client(2, dashboard=False, memory_limit=MEMORY) as client:
        outcome = _reduce(setup, data, cluster.OnCluster(client, frame_timeout=3.0, is_local=True))
    [(file, message)] = list(outcome.problems)
    assert os.path.basename(file) == poisoned
    words = {"dies": "signal 9", "hangs": "longer than 3 s", "eats memory": "more memory than a worker has"}
    assert words[harm] in message
    curves = results.light_curves(tmp_path / "out", "1:g").load()
    is_lost = np.zeros(N_FRAMES, bool)
    is_lost[13] = True
    assert np.array_equal(np.isnan(curves["flux"].to_numpy()).all(axis=1), is_lost)
    assert np.isfinite(curves["flux"].to_numpy()[~is_lost]).all()
    part = store.parts(setup.path, "1:g")[0]
    flags = store.read_array(setup.path, f"{part.group}/frames", "flags")
    assert np.array_equal(flags & np.uint32(FrameFlag.WORKER_LOST) != 0, is_lost)
    tries = collections.Counter(log.read_text().split())[poisoned]
    assert tries < 20
