"""Processor time of a frame in the measuring pass, from its file to fluxes, against a script with sep; where it goes.

    python benchmarks/measuring_pass.py

A night is reduced once; then its frames are read, searched, aligned and measured again, as a task does with those that
were not surveyed, in turns with a script of ``sep.Background``, ``sep.extract`` and ``sep.sum_circle``, and with
the same pass where cosmic rays are removed. Each frame is opened once. The medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import common
import cv2
import numpy as np
import sep
from threadpoolctl import threadpool_limits

from opticam_dask import AperturePhotometer, Reducer
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images import segments
from opticam_dask.kernels.images.matching import match
from opticam_dask.kernels.images.sky import background, subtraction
from opticam_dask.passes import measure as measuring
from opticam_dask.steps import align, measure, read
from opticam_dask.steps.frame_steps import entry_of
from opticam_dask.steps.records import block_arrays, record_of

#: Frames of the night.
_N_FRAMES = 24

#: What a frame goes through, by module and name.
_STEPS: dict[str, tuple[Any, str]] = {
    "read": (read, "_read_checked"),
    "mesh of the sky": (background, "sky_mesh"),
    "subtract, flag": (subtraction, "subtract_sky"),
    "sources": (segments, "find_sources"),
    "transform": (match, "find_transform"),
    "seeing": (align, "measure_seeing"),
    "mean of the sky": (align, "measure_sky"),
    "sky of the catalogue": (measure, "frame_view"),
    "photometry": (AperturePhotometer, "measure"),
}


def _jobs(files: list[Path], out: Path, *, remove_cosmic_rays: bool) -> tuple[measuring.Measure, int]:
    """What a task of the measuring pass is given, from a reduction of the night."""
    given: list[tuple[measuring.Measure, int]] = []
    run = measuring.measure_block

    @functools.wraps(run)  # by this name tasks find it
    def kept(job: measuring.Measure, block: int, lost: Any = None) -> Any:
        given.append((job, block))
        return run(job, block, lost)

    with mock.patch.object(measuring, "measure_block", kept):
        reducer = Reducer(
            out, files[0].parent, client="none", show_plots=False, verbose=False, remove_cosmic_rays=remove_cosmic_rays
        )
        reducer.create_catalogs()
        reducer.photometry(AperturePhotometer())
    return given[-1]


def _measure_frames(job: measuring.Measure, block: int) -> None:
    """All frames of a block from their files to fluxes; nothing is written."""
    assert job.measuring is not None
    manifest = job.read_manifest(block)
    columns = measure.empty_arrays(job.measuring, len(manifest["file"]))
    for index in range(len(manifest["file"])):
        entry = entry_of(manifest, index) | {"memory": {}}
        found = align.reduce_frame(job.alignment, entry)
        row = block_arrays(job.alignment.steps, [found], {"scan_flags": np.zeros(1, dtype=np.uint32)})
        problem = measure.measure_frame(job.measuring, entry, record_of(row), index, columns)
        if problem:
            raise SystemExit(problem)


def _script(files: list[Path]) -> None:
    """The plain script."""
    reader = FitsReader()
    for path in files:
        image = reader.read(str(path)).astype(np.float32)
        sky = sep.Background(image)
        image -= sky.back()
        found = sep.extract(image, 5.0, err=sky.globalrms, minarea=8)
        sep.sum_circle(image, found["x"], found["y"], 4.0, err=sky.globalrms)


def _cost(function: Callable[[], None]) -> float:
    """Milliseconds of the processor a frame."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start) / _N_FRAMES


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Add up what each step takes."""

    def with_clock(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + 1e3 * (time.process_time() - start) / _N_FRAMES

        return timed

    with ExitStack() as stack:
        for name, (module, attribute) in _STEPS.items():
            stack.enter_context(mock.patch.object(module, attribute, with_clock(name, getattr(module, attribute))))
        yield


def measure_side(side: int, n_rounds: int, *, compress: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Rows of the two tables for one size of frames."""
    with tempfile.TemporaryDirectory() as name:
        directory, n_stars = Path(name), common.n_stars(side)
        files = common.write_frames(directory / "frames", (side, side), n_stars, _N_FRAMES, compress=compress)
        plain = _jobs(files, directory / "plain", remove_cosmic_rays=False)
        cleaned = _jobs(files, directory / "cleaned", remove_cosmic_rays=True)
        rounds = [
            (
                _cost(lambda: _measure_frames(*plain)),
                _cost(lambda: _script(files)),
                _cost(lambda: _measure_frames(*cleaned)),
            )
            for _ in range(n_rounds)
        ]
        own, script, with_rays = np.median(rounds, axis=0)
        spent: dict[str, float] = {}
        with _timed(spent):
            whole = _cost(lambda: _measure_frames(*plain))
    frame = f"{side} x {side}{' .gz' if compress else ''}, {n_stars} stars"
    row = {
        "frame": frame,
        "ms a frame": f"{own:.1f}",
        "sep script, ms": f"{script:.1f}",
        "share of its time": f"{np.median([ours / theirs for ours, theirs, _ in rounds]):.2f}",
        "with cosmic rays removed, ms": f"{with_rays:.1f}",
        "times": f"{np.median([rays / ours for ours, _, rays in rounds]):.2f}",
    }
    steps = {name: f"{spent.get(name, 0.0):.1f}" for name in _STEPS} | {"else": f"{whole - sum(spent.values()):.1f}"}
    return row, {"frame": frame} | steps


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-gz", action="store_true", help="uncompressed frames only")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    with threadpool_limits(limits=1):
        found = [
            measure_side(side, chosen.rounds, compress=compress)
            for side in chosen.sides
            for compress in ((False,) if chosen.no_gz else (False, True))
        ]
    to = None if chosen.no_record else common.RESULTS
    packages = ("opticam-dask", "numpy", "scipy", "sep")
    command = "python benchmarks/measuring_pass.py"
    note = f"Processor time in one process, medians of {chosen.rounds} rounds in which all took turns."
    common.record("One frame of the measuring pass", command, [row for row, _ in found], packages, note, to=to)
    note = "Milliseconds of the processor a frame, one round."
    common.record("Steps of the measuring pass", command, [steps for _, steps in found], packages, note, to=to)
    return [row for row, _ in found]


if __name__ == "__main__":
    main()
