"""Frames to light curves, held against a plain pipeline of photutils, astroalign and multiprocessing in the same run.

    python benchmarks/end_to_end.py

Both end with the same products: barycentric times, backgrounds, transforms, a stack, a catalogue of up to 100 sources,
and aperture fluxes with errors of these in every frame. Ours uses two workers. The plain pipeline
(``reference_pipeline.py``) goes the way the one-machine package goes; it is run with half as many processes as there
are cores, which is what that package does unless it is told otherwise, and with as many. The cost of a frame is the
slope of the time of the whole run over the number of frames, so that neither is charged for starting its processes;
ours writes its store and its plots. The slope of ours begins where a night has the 256 frames of a stack and the 320
that its star profile is measured on: that is work of a night, however long it is. All take turns; the medians of the
rounds are compared.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import reference_pipeline
from astropy.stats import mad_std

from opticam_dask import AperturePhotometer, Reducer, light_curves
from opticam_dask.cluster import connections

N_PROCESSES, N_PIXELS = 2, 8

#: Frames of the run before those that are timed.
_WARM_UP = 16


def own(directory: Path, out: Path, client: object) -> float:
    """Seconds from frames to light curves."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    reducer = Reducer(out, directory, client=client, show_plots=False, verbose=False)
    reducer.create_catalogs(n_pixels=N_PIXELS)
    reducer.photometry(AperturePhotometer())
    return time.perf_counter() - start


def _folder(directory: Path, files: list[Path]) -> Path:
    """Directory of links to some of the frames."""
    folder = directory / f"first_{len(files)}"
    folder.mkdir(exist_ok=True)
    for path in files:
        link = folder / path.name
        if not link.exists():
            link.hardlink_to(path)
    return folder


def _scatter(flux: np.ndarray) -> float:
    """Median, over the ten brightest sources, of the relative scatter of their light curves."""
    relative = flux / np.nanmedian(flux, axis=0)
    return float(np.median([mad_std(curve, ignore_nan=True) for curve in relative.T[:10]]))


def _own_slope(directory: Path, files: list[Path], numbers: tuple[int, int]) -> float:
    """Seconds that a further frame takes."""
    with connections.local_client(N_PROCESSES, dashboard=False) as client:
        own(_folder(directory, files[:_WARM_UP]), directory / "out", client)  # the workers import what they need
        start, end = (own(_folder(directory, files[:number]), directory / "out", client) for number in numbers)
    return (end - start) / (numbers[1] - numbers[0])


def _plain_slope(
    directory: Path, files: list[Path], numbers: tuple[int, int], n_processes: int
) -> tuple[float, np.ndarray]:
    """Seconds that a further frame takes the plain pipeline, and its fluxes."""
    seconds = []
    for number in numbers:
        start = time.perf_counter()
        products = reference_pipeline.reduce(files[:number], directory / "plain.npz", n_processes, N_PIXELS)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / (numbers[1] - numbers[0]), products["flux"]


def measure(
    side: int, n_own: tuple[int, int], n_reference: tuple[int, int], *, compress: bool, n_rounds: int
) -> dict[str, str]:
    """One row of the table."""
    n_sources = common.n_stars(side)
    costs, plain = [], {N_PROCESSES // 2: [], N_PROCESSES: []}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = common.write_frames(directory / "frames", (side, side), n_sources, n_own[1], compress=compress)
        for _ in range(n_rounds):
            costs.append(_own_slope(directory, files, n_own))
            for n_processes, slopes in plain.items():
                slope, flux = _plain_slope(directory, files, n_reference, n_processes)
                slopes.append(slope)
        scatter = _scatter(light_curves(directory / "out", "1:g", "aperture")["flux"].to_numpy())
    cost, half, both = (float(np.median(slopes)) for slopes in (costs, *plain.values()))
    return {
        "frames": f"{side} x {side}{' .gz' if compress else ''}, {n_sources} stars",
        "ms a frame": f"{1e3 * cost:.1f}",
        "in each round": ", ".join(f"{1e3 * slope:.1f}" for slope in costs),
        "plain pipeline, one process, ms": f"{1e3 * half:.0f}",
        "times its throughput": f"{half / cost:.1f}",
        "plain pipeline, two processes, ms": f"{1e3 * both:.0f}",
        "times that": f"{both / cost:.1f}",
        "numbers of frames": f"{n_own[0]}, {n_own[1]}; {n_reference[0]}, {n_reference[1]}",
        "scatter of bright stars": f"{100 * scatter:.2f} %, {100 * _scatter(flux):.2f} %",
    }


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--own", type=int, nargs=2, action="append", help="numbers of frames, for each side")
    parser.add_argument("--reference", type=int, nargs=2, action="append", help="the same for the plain pipeline")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-gz", action="store_true", help="uncompressed frames only")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    n_own, n_reference = chosen.own or [(800, 2400), (400, 800)], chosen.reference or [(24, 88), (6, 18)]
    rows = [
        measure(side, tuple(ours), tuple(theirs), compress=compress, n_rounds=chosen.rounds)
        for side, ours, theirs in zip(chosen.sides, n_own, n_reference, strict=True)
        for compress in ((False,) if chosen.no_gz else (False, True))
    ]
    common.record(
        "Frames to light curves on two cores",
        "python benchmarks/end_to_end.py",
        rows,
        ("opticam-dask", "dask", "zarr", "numpy", "photutils", "astroalign", "scikit-image"),
        "Slopes over the numbers of frames given, ours first. Scatter: median absolute deviation (as a standard "
        "deviation) of the relative flux of the ten brightest stars, ours and that of the plain pipeline.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
