"""Frames to light curves, held against a plain pipeline of photutils, astroalign and multiprocessing in the same run.

    python benchmarks/end_to_end.py

Both use two processes and end with the same products: transforms, stack, catalogue, and fluxes with errors of its
sources in every frame. The plain pipeline (``reference_pipeline.py``) takes so long that it is given fewer frames.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import reference_pipeline

from opticam_dask import AperturePhotometer, Reducer, light_curves

N_PROCESSES = 2


def own(directory: Path, out: Path, n_pixels: int) -> tuple[float, float]:
    """Seconds that a reduction takes once its workers are there, and seconds until they are."""
    start = time.perf_counter()
    with Reducer(
        out, directory, n_workers=N_PROCESSES, show_plots=False, verbose=False, n_pixels=n_pixels
    ) as reducer:
        reducer.scan()
        _ = reducer.client
        ready = time.perf_counter()
        reducer.create_catalogs(plots=False)
        reducer.photometry(AperturePhotometer(), plots=False)
        return time.perf_counter() - ready, ready - start


def main(arguments: list[str] | None = None) -> list[dict[str, str]]:
    """Measure and record."""
    raise SystemExit


if __name__ == "__main__":
    main()
