"""Frame to catalogue on one core against the C program SExtractor (Debian's ``source-extractor``).

    python benchmarks/catalogue.py

Both read each frame from disk, subtract the sky of a mesh of 64 x 64 pixels, detect at 5 sigma with at least 8 pixels
(without a filter), deblend with 32 levels and a contrast of 0.001, and give positions, fluxes and shapes. The cost of a
frame is the slope of the processor time of whole processes over the number of frames, which other work on the machine
changes little; both take turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
from astropy.io import fits

from opticam_dask.cluster.cluster_settings import MEMORY_ENVIRONMENT, SINGLE_THREAD_ENVIRONMENT

_COLUMNS = ("X_IMAGE", "Y_IMAGE", "FLUX_ISO", "FLUXERR_ISO", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "FLAGS")

_SETTINGS = {
    "CATALOG_TYPE": "FITS_1.0", "DETECT_MINAREA": 8, "DETECT_THRESH": 5.0, "ANALYSIS_THRESH": 5.0, "FILTER": "N",
    "DEBLEND_NTHRESH": 32, "DEBLEND_MINCONT": 0.001, "CLEAN": "N", "BACK_FILTERSIZE": 3, "GAIN": 1.0,
    "SATUR_LEVEL": 65535, "CHECKIMAGE_TYPE": "NONE", "VERBOSE_TYPE": "QUIET", "NTHREADS": 1, "WEIGHT_TYPE": "NONE",
}  # fmt: skip

_OURS = """
import os
import sys
import cv2
from threadpoolctl import threadpool_limits
import numpy as np
from opticam_dask.methods.finders import DefaultFinder
from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images.sky.background import default_box_size
from opticam_dask.steps.detect import detect_frame
from opticam_dask.steps.frame_steps import FrameResult, FrameSteps

cv2.setNumThreads(1)
side, n_slots = int(sys.argv[1]), int(sys.argv[2])
shape = (side, side)
steps = FrameSteps(
    reader=FitsReader(), shape=shape, rebin_factor=1, remove_cosmic_rays=False, background=None,
    box_size=default_box_size(shape), finder=DefaultFinder(8), threshold=5.0, n_slots=n_slots,
)
entry = {
    "saturation": 65535.0, "linearity_limit": np.nan, "gain": 1.0, "dark_current": 0.0, "exposure_time": 5.0,
    "read_noise": 1.0,
}
with threadpool_limits(limits=1):
    for path in sys.argv[4:]:
        result = FrameResult()
        status = os.stat(path)
        scanned = {"file": path, "file_size": status.st_size, "file_mtime": status.st_mtime, "file_checksum": 0}
        detect_frame(steps, entry | scanned, result)
np.savez(sys.argv[3], **result.sources)
"""


def _sextractor(files: list[Path], directory: Path, box: int) -> Path:
    """Catalogues of the frames, one process each as the program wants it; the last one."""
    parameters, settings = directory / "default.param", directory / "default.sex"
    parameters.write_text("\n".join(_COLUMNS) + "\n")
    lines = _SETTINGS | {"PARAMETERS_NAME": parameters, "BACK_SIZE": box, "CATALOG_NAME": directory / "found.fits"}
    settings.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    for path in files:
        subprocess.run(["source-extractor", str(path), "-c", str(settings)], check=True, cwd=directory)
    return directory / "found.fits"


def _own(files: list[Path], directory: Path, side: int) -> Path:
    found = directory / "own.npz"
    environment = os.environ | SINGLE_THREAD_ENVIRONMENT | MEMORY_ENVIRONMENT  # as a worker has it
    command = [sys.executable, "-c", _OURS, str(side), "2000", str(found), *map(str, files)]
    subprocess.run(command, check=True, env=environment)
    return found


def _processor_time() -> float:
    """Seconds of the processor that processes of this one have taken until they ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _slope(function: Callable[[list[Path]], object], files: list[Path]) -> float:
    """Seconds of the processor a frame: what all frames take beyond a few of them."""
    few, times = max(1, len(files) // 5), []
    for number in (few, len(files)):
        start = _processor_time()
        function(files[:number])
        times.append(_processor_time() - start)
    return (times[1] - times[0]) / (len(files) - few)


def _agreement(theirs: Path, ours: Path) -> tuple[int, float]:
    """Sources of SExtractor above 10 sigma, and the share of them that we have within half a pixel."""
    table = fits.getdata(theirs, 1)
    bright = table["FLUX_ISO"] > 10.0 * table["FLUXERR_ISO"]
    x, y = table["X_IMAGE"][bright] - 1.0, table["Y_IMAGE"][bright] - 1.0
    with np.load(ours) as found:
        known = np.isfinite(found["x"])
        own = found["x"][known], found["y"][known]
    away = np.hypot(x[:, None] - own[0], y[:, None] - own[1]).min(axis=1)
    return int(bright.sum()), float(np.mean(away < 0.5))


def measure(side: int, n_frames: int, n_runs: int, *, compress: bool) -> dict[str, str]:
    """One row of the table."""
    box = max(16, side // 32)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        n_sources = common.n_stars(side)
        files = common.write_frames(directory / "frames", (side, side), n_sources, n_frames, compress=compress)
        if compress:  # the program does not read gzip: it is inflated first, as its users do

            def unpacked(some: list[Path]) -> Path:
                plain = [path.with_suffix("") for path in some]
                for packed, path in zip(some, plain, strict=True):
                    with path.open("wb") as stream:
                        subprocess.run(["gzip", "-dc", str(packed)], check=True, stdout=stream)
                return _sextractor(plain, directory, box)
        else:

            def unpacked(some: list[Path]) -> Path:
                return _sextractor(some, directory, box)

        rounds = [
            (_slope(lambda some: _own(some, directory, side), files), _slope(unpacked, files)) for _ in range(n_runs)
        ]
        own, other = np.median(rounds, axis=0)
        n_bright, share = _agreement(unpacked(files[-1:]), _own(files[-1:], directory, side))
    if share < 0.98:
        raise SystemExit(f"only {share:.1%} of SExtractor's {n_bright} sources above 10 sigma were found")
    return {
        "frame": f"{side} x {side}{', .gz' if compress else ''}, {n_sources} stars",
        "ms a frame": f"{1e3 * own:.1f}",
        "SExtractor": f"{1e3 * other:.1f}",
        "share of its time": f"{own / other:.2f}",
        "in each round": ", ".join(f"{ours / theirs:.2f}" for ours, theirs in rounds),
        "its sources above 10 sigma": n_bright,
        "found": f"{100 * share:.1f} %",
    }


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    if shutil.which("source-extractor") is None:
        raise SystemExit("source-extractor is not installed (Debian package source-extractor)")
    rows = [
        measure(side, chosen.frames, chosen.runs, compress=compress)
        for side in chosen.sides
        for compress in (False, True)
    ]
    version = subprocess.run(["source-extractor", "--version"], capture_output=True, text=True, check=True).stdout
    common.record(
        "Frame to catalogue on one core",
        "python benchmarks/catalogue.py",
        rows,
        ("opticam-dask", "numpy", "scipy"),
        f"{' '.join(version.split())}. Slope of the processor time of whole processes over {chosen.frames} frames, "
        f"medians of {chosen.runs} rounds in which both take turns. A "
        ".gz frame is unpacked by gzip for SExtractor, in the time.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
