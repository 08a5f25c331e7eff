"""Headers of many files are read by tasks where there are workers: the same table, and nothing is read twice."""

import numpy as np
import pandas as pd
import pytest
from small_nights import INSTRUMENT, read_out, write_frame

from opticam_dask import Instrument
from opticam_dask.cluster.executors import InProcess
from opticam_dask.frames import scanning


class _Counting(InProcess):
    """Runs blocks the last group first, as workers end in any order."""

    def run(self, work):
        self.n_tasks = sum(len(group.blocks) for group in work)
        yield from super().run(work[::-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(4)
    for index in range(11):
        write_frame(directory / f"f{index:02d}.fits", read_out(np.full((40, 50), 100.0), rng), index)
    (directory / "f03.fits").write_bytes(b"SIMPLE  = nothing")
    (directory / "f08.fits").write_bytes(b"")
    return [str(file) for file in sorted(directory.iterdir())]


def test_scan__on_workers_gives_the_same_table(files, monkeypatch):
    instrument = Instrument.from_json(INSTRUMENT)
    here = scanning.scan(files, instrument)
    monkeypatch.setattr(scanning, "MANY_FILES", 10)
    monkeypatch.setattr(scanning, "_FILES_OF_TASK", 3)
    executor, seen = _Counting(), []
    there = scanning.scan(files, instrument, executor=executor, progress=lambda *n: seen.append(n))
    assert executor.n_tasks == 4
    assert seen[-1] == (11, 11)
    assert len(here.table) == 9
    assert len(here.set_aside) == 2
    pd.testing.assert_frame_equal(there.table, here.table)
    assert (there.set_aside, there.warnings) == (here.set_aside, here.warnings)


def test_scan__of_few_files_needs_no_worker(files):
    executor = _Counting()
    executor.n_tasks = 0
    scanning.scan(files, Instrument.from_json(INSTRUMENT), executor=executor)
    assert executor.n_tasks == 0
