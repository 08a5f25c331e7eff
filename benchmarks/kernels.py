"""Kernels on one core against photutils, sep and scikit-image, on the same frame.

python benchmarks/kernels.py
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import common
import numpy as np
import sep
from photutils.background import Background2D
from skimage.transform import AffineTransform, warp
from threadpoolctl import threadpool_limits

from opticam_dask.frames.scanning import FitsReader
from opticam_dask.kernels.images import detect, segments
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.images.sky import background, subtraction

THRESHOLD = 5.0


def measure(side: int, n_sources: int, n_runs: int) -> list[dict[str, str]]:
    """Times of one frame size, with the peer's beside ours."""
    with tempfile.TemporaryDirectory() as directory:
        path = common.write_frames(Path(directory), (side, side), n_sources, 1)[0]
        raw = FitsReader().read(path)
    image, single = raw.astype(float), raw.astype(np.float32)
    box = background.default_box_size(image.shape)
    mesh, rms_mesh = background.sky_mesh(single, box)
    frame = subtraction.subtract_sky(single.copy(), mesh, rms_mesh, box, THRESHOLD)
    subtracted, level = frame.image.astype(float), THRESHOLD * float(np.median(rms_mesh))
    transform = np.array([[1.0, -1e-4, 1.3], [1e-4, 1.0, -0.8], [0.0, 0.0, 1.0]])
    n_pixels, border = 8, side // 16

    def sky_and_subtract() -> None:
        found = background.sky_mesh(single, box)
        subtraction.subtract_sky(single.copy(), *found, box, THRESHOLD)

    def photutils_sky() -> None:
        found = Background2D(image, box)
        _ = image - found.background, found.background_rms

    def sep_sky() -> None:
        found = sep.Background(image, bw=box[1], bh=box[0])
        _ = image - found.back(), found.rms()

    def sep_sources() -> None:
        sep.extract(subtracted, level, minarea=n_pixels)

    steps = [
        (
            "sky mesh",
            lambda: background.sky_mesh(single, box),
            "photutils",
            lambda: Background2D(image, box).background_mesh,
        ),
        ("sky, both images or what replaces them", sky_and_subtract, "photutils", photutils_sky),
        ("sky, both images or what replaces them", sky_and_subtract, "sep", sep_sky),
        (
            "sources",
            lambda: segments.find_sources(frame.image, frame.flagged, n_pixels, border),
            "photutils",
            lambda: detect.segment_sources(subtracted, level, n_pixels, border),
        ),
        (
            "sources",
            lambda: segments.find_sources(frame.image, frame.flagged, n_pixels, border),
            "sep",
            sep_sources,
        ),
        (
            "resampling for the stack",
            lambda: align.resample(frame.image, transform, image.shape),
            "scikit-image, cubic",
            lambda: warp(subtracted, AffineTransform(transform), order=3, preserve_range=True),
        ),
    ]
    rows = []
    for name, ours, peer, theirs in steps:
        own, other = common.best_of(ours, n_runs), common.best_of(theirs, max(1, n_runs // 2))
        rows.append(
            {
                "frame": f"{side} x {side}, {n_sources} stars",
                "step": name,
                "ms": f"{1e3 * own:.2f}",
                "peer": peer,
                "peer ms": f"{1e3 * other:.1f}",
                "times as fast": f"{other / own:.1f}",
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with threadpool_limits(limits=1):
        rows = [row for side in chosen.sides for row in measure(side, common.n_stars(side), chosen.runs)]
    common.record(
        "Kernels on one core",
        "python benchmarks/kernels.py",
        rows,
        ("opticam-dask", "numpy", "photutils", "sep", "scikit-image", "opencv-python-headless"),
        "Shortest of several runs each. scikit-image interpolates with cubic splines, the stack linearly.",
        to=None if chosen.no_record else common.RESULTS,
    )
    return rows


if __name__ == "__main__":
    main()
