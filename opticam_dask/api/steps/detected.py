"""Sky and sources of each frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.api.steps import chains
from opticam_dask.api.steps.chains import FrameTask
from opticam_dask.api.steps.frames import chain_of, grown_by, placeholders, records_over
from opticam_dask.cluster import blocks

SKY = ("background", "background_rms", "flags", "message")

MESHES = ("background_mesh", "background_rms_mesh")

FOUND = ("fwhm", "n_sources")


def background(
    ds: xr.Dataset,
    *,
    box_size: int | tuple[int, int] | None = None,
    estimator: Callable[[np.ndarray], Any] | None = None,
    merge: bool = True,
) -> xr.Dataset:
    """Sky background of each frame.

    Parameters
    ----------
    ds : Dataset
        Of `calibrate`.
    box_size : int or (int, int), optional
        Box of the sky mesh in pixels, ``(ny, nx)``; by default 1/32 of the shorter side.
    estimator : callable, optional
        One's own ``image -> Background2D``-like; there is no mesh then.
    merge : bool
        Add to what came in.

    Returns
    -------
    Dataset
        ``background_mesh``, ``background_rms_mesh`` (frame, mesh_y, mesh_x); ``background``, ``background_rms`` and
        ``flags`` (frame), electrons per pixel.

    Raises
    ------
    ValueError
        When the frames are in ADU, or a box is larger than a frame.
    """
    chain = chain_of(ds, chains.CALIBRATED, "background").further(
        chains.SKY, parameters={"box_size": box_size}, background=estimator
    )
    return grown_by(ds, chain, "background", (*SKY, *(() if estimator else MESHES)), merge)


def subtract_background(ds: xr.Dataset) -> xr.DataArray:
    """Frames without their sky, lazily.

    Parameters
    ----------
    ds : Dataset
        Of `background`.

    Returns
    -------
    DataArray, dims (frame, y, x)
        Electrons; NaN in frames without a sky.

    Raises
    ------
    ValueError
        When the frames have no sky yet.
    """
    chain = chain_of(ds, chains.SKY, "subtract_background")
    steps = chain.steps(placeholders(ds, chain))
    dtype = np.float32 if steps.has_mesh else np.float64
    records = records_over(_Subtracted(replace(chain, depth=chains.SKY), "subtract_background"), ds)
    values = blocks.picked(records, "image", steps.image_shape, dtype)
    attributes = {"units": "electron pixel-1", "long_name": "frames without their sky"}
    kept = {name: one for name, one in ds.coords.items() if set(one.dims) <= {"frame"}}
    coords = xr.Coordinates(kept, indexes=ds.coords.xindexes if "time" in ds.xindexes else {})
    return xr.DataArray(values, dims=("frame", "y", "x"), coords=coords, attrs=attributes, name="image")


class _Subtracted(FrameTask):
    def __call__(self, images: np.ndarray, table: np.ndarray, *shared: np.ndarray) -> list[dict[str, Any]]:
        steps = self._steps(shared)
        found = []
        for entry in chains.entries_of(images, table):
            result = self.reduced(None, steps, entry)
            found.append({"image": np.nan if result.subtracted is None else result.subtracted})
        return found


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
