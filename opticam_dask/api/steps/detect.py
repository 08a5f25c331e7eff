"""Detection of the sources of each frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.frames import chain_of, grown_by

FOUND = ("fwhm", "n_sources")


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
        Of `background`.
    threshold : float
        In units of the background RMS.
    finder : callable, optional
        One's own ``(image, threshold) -> QTable``.
    n_pixels, border_width, max_catalog_sources : int, optional
        As of a reduction; three times ``max_catalog_sources`` sources of a frame are kept.
    merge : bool
        Add to what came in.

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
    parameters = {
        "threshold": threshold,
        "n_pixels": n_pixels,
        "border_width": border_width,
        "max_catalog_sources": max_catalog_sources,
    }
    chain = chain_of(ds, chains.SKY, "detect").further(chains.DETECTED, parameters=parameters, finder=finder)
    names = tuple(entry.name for entry in schema.SOURCES)
    return grown_by(ds, chain, "detect", (*names, *FOUND, "flags", "message"), merge)
