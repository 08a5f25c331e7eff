"""Detection of the sources of each frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.arguments import require_callables
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.frames import chain_of, grown_by, step

FOUND = ("fwhm", "n_sources")


@step
def detect(
    ds: xr.Dataset,
    *,
    threshold: float = 5.0,
    finder: Callable[[np.ndarray, np.ndarray], Any] | None = None,
    n_pixels: int | None = None,
    border_width: int | None = None,
    max_catalog_sources: int = 100,
    merge: bool = True,
) -> xr.Dataset:
    """Sources of each frame.

    Parameters
    ----------
    ds : Dataset
        Frames with their sky, as `background` returns them.
    threshold : float
        Level above the sky from which pixels belong to sources, in units of the background RMS.
    finder : callable, optional
        Source finder of your own, ``(image, threshold) -> QTable``.
    n_pixels : int, optional
        Least number of pixels of a source; by default that of the instrument.
    border_width : int, optional
        Width in pixels of the border of the frame in which no source is taken; by default 1/16 of the shorter side.
    max_catalog_sources : int
        Largest number of sources of a catalogue; three times as many of each frame are kept.
    merge : bool
        Add the results to ``ds``; otherwise they are returned alone.

    Returns
    -------
    Dataset
        ``x``, ``y``, ``flux``, ``semimajor_sigma``, ``semiminor_sigma``, ``orientation`` (frame, slot), brightest
        first and NaN-padded; ``n_sources``, ``fwhm``, ``flags`` (frame).

    Raises
    ------
    ValueError
        When the frames have no sky yet.
    """
    require_callables(finder=finder)
    parameters = {
        "threshold": threshold,
        "n_pixels": n_pixels,
        "border_width": border_width,
        "max_catalog_sources": max_catalog_sources,
    }
    chain = chain_of(ds, chains.SKY, "detect").further(chains.DETECTED, parameters=parameters, finder=finder)
    names = tuple(entry.name for entry in schema.SOURCES)
    return grown_by(ds, chain, "detect", (*names, *FOUND, "flags", "message"), merge)
