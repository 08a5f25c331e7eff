"""What a reduction asks of a file system: operations and files of a block, and how large the files are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opticam_dask import plan, schema, simulate_observations, store

FIELD = {
    "shape": (96, 112), "n_sources": 6, "filters": ("g",), "flux_range": (4e3, 1e5), "fwhm": 3.0,
    "least_separation": 6.0, "seed": 5,
}  # fmt: skip

#: Reduce in a process of its own and count what happens to files below the output directory and to frames.
#: Python tells an audit hook of all of it but ``stat``.
_CHILD = """
import collections, json, os, sys

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.link", "os.utime"}
out, data = "", ""
counts = collections.Counter()

def note(what, path):
    if isinstance(path, (str, bytes, os.PathLike)):
        path = os.fsdecode(path)
        if path.startswith(out):
            counts[what] += 1
        elif path.startswith(data):
            counts["frame " + what] += 1

def hook(event, arguments):
    if event in WATCHED and out:
        note(event, arguments[1] if event == "os.rename" else arguments[0])

sys.addaudithook(hook)
for name in ("stat", "lstat"):
    def counting(path, *args, _real=getattr(os, name), **kwargs):
        if out:
            note("os.stat", path)
        return _real(path, *args, **kwargs)
    setattr(os, name, counting)

from pathlib import Path
from opticam_dask import cluster, frames, pipeline
from opticam_dask.config import ReductionParameters
from opticam_dask.instruments import OPTICAM_MX
from opticam_dask.photometers import AperturePhotometer

found = []
for data, directory, per_block in json.loads(sys.argv[1]):
    setup = pipeline.Setup(
        Path(directory), OPTICAM_MX(), ReductionParameters(n_pixels=5, border_width=4), frames_per_block=per_block
    )
    scan = frames.scan(frames.find_files(data), setup.instrument)
    pipeline.prepare(setup, scan)
    executor = cluster.InProcess()
    pipeline.choose_references(setup, executor)
    row = []
    for work in (
        lambda: pipeline.reduce_frames(setup, executor),
        lambda: pipeline.measure_frames(setup, {"aperture": AperturePhotometer()}, executor),
    ):
        counts.clear()
        out = directory
        work()
        out = ""
        row.append(dict(counts))
    found.append(row)
print(json.dumps(found))
"""

#: (frames, frames per block): the second has more blocks than the first, the third longer ones than the second.
RUNS = ((8, 2), (16, 2), (32, 4))


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """Counts by operation, for each run both passes."""
    top = tmp_path_factory.mktemp("operations")
    runs = []
    for number, (n_frames, per_block) in enumerate(RUNS):
        simulate_observations(top / f"data{number}", n_frames=n_frames, **FIELD)
        runs.append((str(top / f"data{number}"), str(top / f"out{number}"), per_block))
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(runs)], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(found.stdout), [Path(out) for _, out, _ in runs]


def _sum(counts, *, of_frames=False):
    return sum(count for what, count in counts.items() if what.startswith("frame ") == of_frames)


def _per_block(few, many):
    """What one block more costs."""
    return (_sum(many) - _sum(few)) / (RUNS[1][0] // RUNS[1][1] - RUNS[0][0] // RUNS[0][1])


def test_operations(operations):
    counts, outs = operations
    for row in counts:
        print(row)
    print([_per_block(counts[0][i], counts[1][i]) for i in (0, 1)])
