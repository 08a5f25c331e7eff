"""What a reduction asks of a file system: operations and files of a block, and how large the files are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opticam_dask import schema, simulate_observations
from opticam_dask.kernels.images.sky.background import default_box_size
from opticam_dask.kernels.sources.profiles.field_form import N_TERMS
from opticam_dask.pipeline import plan
from opticam_dask.store.scratch import SCRATCH_NAME
from opticam_dask.store.store import STORE_NAME

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
from opticam_dask.cluster import executors
from opticam_dask.frames import scanning
from opticam_dask.pipeline import driver
from opticam_dask.parameters import ReductionParameters
from opticam_dask.frames.instruments import OPTICAM_MX
from opticam_dask.methods.photometers import AperturePhotometer

found = []
for data, directory, per_block in json.loads(sys.argv[1]):
    setup = driver.Setup(
        Path(directory), OPTICAM_MX(), ReductionParameters(n_pixels=5, border_width=4), frames_per_block=per_block
    )
    scan = scanning.scan(scanning.find_files(data), setup.instrument)
    driver.prepare(setup, scan)
    executor = executors.InProcess()
    driver.drive(driver.Run(setup, executor), driver.PASSES[:1])
    photometers = {"aperture": AperturePhotometer()}
    row = []
    run = driver.Run(setup, executor, photometers=photometers)
    for one in driver.PASSES[1:]:
        counts.clear()
        out = directory
        driver.drive(run, [one])
        out = ""
        # star profiles take a sample of the night, whose size does not grow: they are no part of what a block costs
        if one.unit == "block":
            row.append(dict(counts))
    found.append(row)
print(json.dumps(found))
"""

#: (frames, frames per block): the second has more blocks than the first, the third longer ones than the second.
RUNS = ((4, 2), (8, 2), (16, 4))

#: Operations that one block more may cost, by pass; found are 172, in nights so short that each block writes two
#: partial stacks (sums of frames and their brightest pixels), and 94.
BOUNDS = ((175, "first pass"), (100, "photometry"))


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """Counts by operation, for each run both passes."""
    top = tmp_path_factory.mktemp("operations")
    runs = []
    for number, (n_frames, per_block) in enumerate(RUNS):
        simulate_observations(top / f"data{number}", n_frames=n_frames, **FIELD)
        runs.append((str(top / f"data{number}"), str(top / f"out{number}"), per_block))
    found = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(runs)], capture_output=True, text=True, check=True, timeout=500
    )
    return json.loads(found.stdout), [Path(out) for _, out, _ in runs]


def _sum(counts, *, of_frames=False):
    return sum(count for what, count in counts.items() if what.startswith("frame ") == of_frames)


def _per_block(few, many):
    """What one block more costs."""
    return (_sum(many) - _sum(few)) / (RUNS[1][0] // RUNS[1][1] - RUNS[0][0] // RUNS[0][1])


def test_operations__of_a_block_are_bounded_and_do_not_grow_with_the_number_of_blocks(operations):
    (few, many, longer), _ = operations
    for number, (most, name) in enumerate(BOUNDS):
        grown = _per_block(few[number], many[number])
        print(f"{name}: {grown:g} operations a block")
        assert grown <= most, f"{name}: {grown} operations a block: {many[number]}"
        # twice the frames in as many blocks: the same operations, but for a file of the stack that a block may share
        n_blocks = RUNS[1][0] // RUNS[1][1]
        assert 0 <= _sum(longer[number]) - _sum(many[number]) <= n_blocks
        # and each frame is opened once (Python tells of it twice, because of the way it is opened), and the header of
        # the reference frame is asked for coordinates when the catalogue is made
        opened = [counts[number]["frame open"] for counts in (few, many, longer)]
        of_header = 1 if name == "first pass" else 0
        assert opened == [2 * (n_frames + of_header) for n_frames, _ in RUNS]


def test_files__of_a_block_are_as_many_as_documented(operations):
    _, outs = operations
    written = [{} for _ in outs]
    for out, found in zip(outs, written, strict=True):
        for file in (out / STORE_NAME).rglob("*"):
            if file.is_file() and "/c/" in file.as_posix():
                group = file.as_posix().partition("/1-g/2023-12-31/")[2].split("/")[0]
                found[group] = found.get(group, 0) + 1
    n_more = RUNS[1][0] // RUNS[1][1] - RUNS[0][0] // RUNS[0][1]
    groups = {"frames": 14, "background": 5, "sources": 6, "photometry": 7}
    assert {group: (written[1][group] - written[0][group]) / n_more for group in groups} == groups
    assert written[2] == written[1]
    assert not [file for file in (outs[0] / SCRATCH_NAME).rglob("*") if file.is_file()]


# ---------------------------------------------------------------- the table of the documentation

N_SOURCES, N_SLOTS = 100, 300


def _chunk_bytes(kind, side, n_frames):
    """Bytes of the chunks of the arrays that the tasks write of a block, before compression, by variable."""
    planned = {entry.name for entry in schema.MANIFEST} | {"bmjd_tdb", "source_id", "radius"}
    mesh = side // default_box_size((side, side))[0]
    sizes = {
        "frame": n_frames,
        "row": 3,
        "column": 3,
        "moment": 3,
        "term": N_TERMS,
        "mesh_y": mesh,
        "mesh_x": mesh,
        "slot": N_SLOTS,
        "source": N_SOURCES,
    }
    names = {*schema.ALWAYS_MEASURED, "aperture_correction"} if kind == "photometry" else None
    return {
        entry.name: int(np.prod([sizes[dim] for dim in entry.dims])) * np.dtype(entry.dtype).itemsize
        for entry in schema.GROUPS[kind]
        if entry.name not in planned and (names is None or entry.name in names) and entry.dtype != "str"
    }


def _table():
    lines = [
        "| frames | `--frames-per-block` | blocks | files, first pass | files, `aperture` "
        "| scalars | `transform` | `sources` | mesh | photometry |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for side, given in ((512, None), (1024, None), (2048, None), (2048, 64)):
        n_frames = given or plan.frames_per_block((side, side), np.dtype("uint16"))
        n_blocks = -(-(10**6) // n_frames)
        sizes = [
            _chunk_bytes("frames", side, n_frames)["fwhm"], _chunk_bytes("frames", side, n_frames)["transform"],
            _chunk_bytes("sources", side, n_frames)["x"], _chunk_bytes("background", side, n_frames)["background_mesh"],
            _chunk_bytes("photometry", side, n_frames)["flux"],
        ]  # fmt: skip
        per_block = 1 + sum(len(_chunk_bytes(kind, side, 1)) for kind in ("frames", "background", "sources"))
        label = len(_chunk_bytes("photometry", side, 1))
        counts = [f"{n_frames} ({'given' if given else 'default'})", f"{n_blocks:,}"]
        counts += [f"{per_block * n_blocks:,}", f"{label * n_blocks:,}"]
        lines.append(f"| {side} x {side} | " + " | ".join([*counts, *map(_size, sizes)]) + " |")
    return lines


def _size(n_bytes):
    return f"{n_bytes} B" if n_bytes < 1000 else f"{n_bytes / 1000:.3g} kB"


def test_table__of_the_documentation_is_that_of_the_schema():
    text = (Path(__file__).parents[2] / "docs/storage.md").read_text(encoding="utf-8")
    assert "\n".join(_table()) in text


def test_chunks__on_disk_are_no_larger_than_the_table_says(operations):
    """The table is an upper limit of what real chunks take, but for the header of the codec and the checksum."""
    _, outs = operations
    part = outs[1] / STORE_NAME / "1-g/2023-12-31"
    expected = _chunk_bytes("frames", 96, RUNS[1][1])
    for name in ("fwhm", "transform", "flags"):
        found = {file.stat().st_size for file in (part / "frames" / name / "c").rglob("*") if file.is_file()}
        assert max(found) <= expected[name] + 64
